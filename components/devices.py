"""What the Trainer computes on: which devices, and how a fit is shared among several of them."""

import json
import os
from collections.abc import Callable, Sequence
from typing import Final

import keras
import tensorflow as tf

from components.errors import CaptchaPipelineError

_CLUSTER: Final = "TF_CONFIG"


def choose_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the strategy for a configured name. Call it before anything else that TensorFlow does in the process.

    "cpu"; "one_gpu", the first one; "mirrored", every GPU of this machine; "multi_worker", the machines of TF_CONFIG, each with
    every GPU it has or else its CPU; or "auto": every GPU of this machine, or else the CPU.

    Raises:
      CaptchaPipelineError: "one_gpu" or "mirrored", and TensorFlow sees no GPU; "multi_worker", and there is no TF_CONFIG or the
        process has used TensorFlow already.
    """
    # Read when a GPU is first used: take memory as it is needed, not all at once. The command sets it when it starts.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    if name == "multi_worker":
        return _join_cluster()
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    if name in ("one_gpu", "mirrored") and not gpus:
        raise CaptchaPipelineError(
            f"trainer.strategy is {name}, and TensorFlow sees no GPU here. Set trainer.strategy=auto, or install the extra `gpu`."
        )
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy(gpus)
    if name == "cpu" and gpus:
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    return tf.distribute.get_strategy()  # the first GPU, or else the CPU; any other strategy for it would keep Keras from using XLA


def _join_cluster() -> tf.distribute.Strategy:
    try:
        workers = sum(len(tasks) for tasks in json.loads(os.environ[_CLUSTER])["cluster"].values())
    except (KeyError, ValueError, AttributeError, TypeError):
        workers = 0
    if not workers:
        raise CaptchaPipelineError(
            f"trainer.strategy is multi_worker, and {_CLUSTER} names no cluster. Start each worker with it (docs/scaling.md has an "
            "example), or set trainer.strategy=auto."
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()  # returns when every worker has joined
    except RuntimeError as error:
        raise CaptchaPipelineError(
            f"trainer.strategy is multi_worker, and this process cannot join the cluster ({error}). Each worker needs a process of its "
            "own: python -m components.worker; see docs/scaling.md."
        ) from None


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes: the chief of several workers, or the only one."""
    return bool(strategy.extended.should_checkpoint)


def synchronise_batch_norm(model: keras.Model) -> None:
    """Has batch normalisation take its statistics over the batches of all replicas, where there are several.

    A replica's own share of a batch is small, and statistics over it would make a model depend on the number of devices.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = tf.distribute.get_strategy().num_replicas_in_sync > 1


def fit(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    training: Callable[..., tf.data.Dataset],
    evaluation: Callable[..., tf.data.Dataset],
    *,
    initial_epoch: int,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Fits with `model.fit` on one device, and as `model.fit` does on several. Every worker calls it and has the same metrics.

    Keras 3's own `fit` fails under MultiWorkerMirroredStrategy (3.12 and 3.15: it builds the model from a batch that it takes for a
    tensor), and under MirroredStrategy it may leave a replica without any picture of an epoch's last batch.

    Args:
      model: compiled in the strategy's scope.
      strategy: from `choose_strategy`.
      training: from `replicas`, a number, and `ours`, a range of them, to an epoch of their parts of batches in turn: see
        `training_batches`.
      evaluation: likewise; see `evaluation_batches`.
      initial_epoch: how many epochs are done.
      epochs: the number of the last.
      callbacks: told of epochs; with several replicas not of batches.

    Raises:
      CaptchaPipelineError: the workers do not agree on `initial_epoch`.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        model.fit(
            training(), validation_data=evaluation(), initial_epoch=initial_epoch, epochs=epochs, callbacks=list(callbacks), verbose=0
        )
        return

    def shared(batches: Callable[..., tf.data.Dataset]) -> tf.distribute.DistributedDataset:
        def share(worker: tf.distribute.InputContext) -> tf.data.Dataset:
            here = replicas // worker.num_input_pipelines
            return batches(replicas=replicas, ours=range(replicas)[worker.input_pipeline_id * here :][:here])

        return strategy.distribute_datasets_from_function(share)

    _check_agreement(strategy, initial_epoch)
    _fit_replicas(
        model,
        strategy,
        shared(training),
        shared(evaluation),
        range(initial_epoch, epochs),
        keras.callbacks.CallbackList(list(callbacks), model=model, epochs=epochs),
    )


def _fit_replicas(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    training: tf.distribute.DistributedDataset,
    evaluation: tf.distribute.DistributedDataset,
    epochs: range,
    callbacks: keras.callbacks.CallbackList,
) -> None:
    """The loop of Keras' `fit`. The steps, the optimizer and the metrics are the model's own; metrics add up over the replicas."""

    @tf.function
    def train_step(batch: object) -> None:
        strategy.run(model.train_step, args=(batch,))

    @tf.function
    def test_step(batch: object) -> None:
        strategy.run(model.test_step, args=(batch,))

    def metrics(step: Callable[[object], None], batches: tf.distribute.DistributedDataset) -> dict[str, float]:
        model.reset_metrics()
        for batch in batches:
            step(batch)
        return {name: float(value) for name, value in model.get_metrics_result().items()}

    with strategy.scope():
        model.optimizer.build(model.trainable_variables)  # no variable can be made in a replica
    model.stop_training = False
    callbacks.on_train_begin()
    for epoch in epochs:
        callbacks.on_epoch_begin(epoch)
        trained = metrics(train_step, training)
        judged = {f"val_{name}": value for name, value in metrics(test_step, evaluation).items()}
        callbacks.on_epoch_end(epoch, trained | judged)
        if model.stop_training:
            break
    callbacks.on_train_end()


def _check_agreement(strategy: tf.distribute.Strategy, epoch: int) -> None:
    @tf.function
    def mean() -> tf.Tensor:
        return strategy.reduce("MEAN", strategy.run(lambda: tf.constant(epoch, tf.float32)), axis=None)

    if float(mean()) != epoch:
        raise CaptchaPipelineError(
            f"This worker would go on after epoch {epoch}, others after another: they do not see the same checkpoints. All workers "
            "need the folder of `root` in common, or none of its checkpoints."
        )
