"""Chooses the devices and the precision of the Trainer, and shares a fit among several devices."""

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import keras
import tensorflow as tf

from components.base.errors import CaptchaPipelineError

_CLUSTER: Final = "TF_CONFIG"


def choose_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the strategy for a configured name. Call it before any other use of TensorFlow in the process.

    Args:
      name: "cpu"; "one_gpu", the first GPU; "mirrored", every GPU of this machine; "multi_worker", the machines of TF_CONFIG, each with
        all its GPUs or else its CPU; or "auto", every GPU of this machine or else the CPU.

    Raises:
      CaptchaPipelineError: the name is "one_gpu" or "mirrored" and TensorFlow sees no GPU, or it is "multi_worker" and TF_CONFIG names
        no cluster or the process has already used TensorFlow.
    """
    # Makes TensorFlow allocate GPU memory as needed, not all at once. Read when a GPU is first used. The command also sets it at its start.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    if name == "multi_worker":
        return _join_cluster()
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    if name in ("one_gpu", "mirrored") and not gpus:
        raise CaptchaPipelineError(
            f"trainer.strategy is {name}, but TensorFlow sees no GPU here. Set trainer.strategy=auto, or install the extra `gpu`."
        )
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy(gpus)
    if name == "cpu" and gpus:
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    return tf.distribute.get_strategy()  # the first GPU, or else the CPU; with any other strategy Keras would not use XLA


def _join_cluster() -> tf.distribute.Strategy:
    try:
        workers = sum(len(tasks) for tasks in json.loads(os.environ[_CLUSTER])["cluster"].values())
    except (KeyError, ValueError, AttributeError, TypeError):
        workers = 0
    if not workers:
        raise CaptchaPipelineError(
            f"trainer.strategy is multi_worker, but {_CLUSTER} names no cluster. Set {_CLUSTER} for each worker "
            "(docs/how-to/gpus-and-machines.md has an "
            "example), or set trainer.strategy=auto."
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()  # returns when every worker has joined
    except RuntimeError as error:
        raise CaptchaPipelineError(
            f"trainer.strategy is multi_worker, but this process cannot join the cluster ({error}). Start each worker in a process of its "
            "own: python -m components.training.worker. See docs/how-to/gpus-and-machines.md."
        ) from None


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes files: it is the chief of several workers, or the only process."""
    return bool(strategy.extended.should_checkpoint)


def synchronise_batch_norm(model: keras.Model) -> None:
    """Makes batch normalisation use statistics over the batches of all replicas, if there are several.

    The share of a batch on one replica is small, and statistics over it would make a model depend on the number of devices.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = tf.distribute.get_strategy().num_replicas_in_sync > 1


def fit(
    model: keras.Model,
    judge: keras.Model,
    strategy: tf.distribute.Strategy,
    training: Callable[..., tf.data.Dataset],
    evaluation: Callable[..., tf.data.Dataset],
    *,
    initial_epoch: int,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Fits like `model.fit`, on one device or on several. Every worker calls it and gets the same metrics.

    `model.fit` itself fails under MultiWorkerMirroredStrategy (Keras 3.12 and 3.15: it mistakes a batch for a tensor when it builds the
    model). It also iterates over a dataset an unspecified number of times per epoch, so that a resumed fit could not get the batches
    of an uninterrupted one. The steps, the optimizer and the metrics are the model's own.

    Args:
      model: compiled in the strategy's scope.
      judge: compiled likewise, from the same layers, with the loss and the metrics of the eval split.
      strategy: from `choose_strategy`.
      training: a function of `replicas`, a number, and `ours`, a range of replicas. It returns a dataset, iterated over once per epoch,
        of the parts of the batches for these replicas, in turn. See `training_batches`.
      evaluation: likewise; see `evaluation_batches`.
      initial_epoch: the number of completed epochs.
      epochs: the number of the last epoch.
      callbacks: called at the start and the end of the fit and of each epoch, and at the end of each batch.

    Raises:
      CaptchaPipelineError: the workers do not agree on `initial_epoch`.
    """

    def shared(batches: Callable[..., tf.data.Dataset]) -> tf.distribute.DistributedDataset:
        def share(worker: tf.distribute.InputContext) -> tf.data.Dataset:
            replicas = range(strategy.num_replicas_in_sync)
            here = len(replicas) // worker.num_input_pipelines
            return batches(replicas=len(replicas), ours=replicas[worker.input_pipeline_id * here :][:here])

        return strategy.distribute_datasets_from_function(share)

    def on_every_replica(step: Callable[[Any], Any]) -> Callable[[Any], None]:
        @tf.function(jit_compile=model.jit_compile)
        def run(batch: Any) -> None:
            strategy.run(step, args=(batch,))

        @tf.function
        def run_next(iterator: Any) -> None:
            run(next(iterator))  # in the graph, where a batch of a different size needs no new graph

        return run_next

    def metrics(
        of: keras.Model,
        run_next: Callable[[Any], None],
        batches: tf.distribute.DistributedDataset,
        on_batch: Callable[[int], None] = lambda batch: None,
    ) -> dict[str, float]:
        of.reset_metrics()
        iterator = iter(batches)
        with contextlib.suppress(tf.errors.OutOfRangeError):  # the end of the batches
            for batch in itertools.count():
                run_next(iterator)
                on_batch(batch)
        return {name: float(value) for name, value in of.get_metrics_result().items()}

    _check_agreement(strategy, initial_epoch)
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)  # because a replica cannot create variables
    training_batches, evaluation_batches = shared(training), shared(evaluation)
    train, evaluate = on_every_replica(model.train_step), on_every_replica(judge.test_step)
    told = keras.callbacks.CallbackList(list(callbacks), model=model, epochs=epochs)
    model.stop_training = False
    told.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        told.on_epoch_begin(epoch)
        trained = metrics(model, train, training_batches, told.on_train_batch_end)
        judged = {f"val_{name}": value for name, value in metrics(judge, evaluate, evaluation_batches).items()}
        told.on_epoch_end(epoch, trained | judged)
        if model.stop_training:
            break
    told.on_train_end()


def _check_agreement(strategy: tf.distribute.Strategy, epoch: int) -> None:
    @tf.function
    def mean() -> tf.Tensor:
        return strategy.reduce("MEAN", strategy.run(lambda: tf.constant(epoch, tf.float32)), axis=None)

    if float(mean()) != epoch:
        raise CaptchaPipelineError(
            f"This worker would resume after epoch {epoch}, other workers after a different epoch: they do not see the same checkpoints. "
            "Share the folder of `root` among all workers, or remove its checkpoints."
        )


def training_dtype(precision: str, on_gpu: bool = True) -> str:
    """Returns the dtype policy for a configured precision.

    "auto" is mixed_bfloat16 if the device multiplies bfloat16 matrices in hardware: a GPU of compute capability 8.0 (Ampere)
    or newer, else a CPU with AVX512-BF16 or AMX. Otherwise it is float32, because emulated bfloat16 is slower.

    Args:
      precision: "auto", or a policy, which is returned unchanged.
      on_gpu: False to ignore GPUs.
    """
    if precision != "auto":
        return precision
    gpus = tf.config.list_physical_devices("GPU") if on_gpu else []
    if gpus:
        capabilities = [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]
        fast = min(capabilities) >= (8, 0)
    else:
        fast = not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu_flags())
    return "mixed_bfloat16" if fast else "float32"


def _cpu_flags() -> set[str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
