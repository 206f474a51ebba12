"""The Trainer's `run_fn`: fits the model to the transformed examples and exports it."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_transform as tft
from scipy.special import softmax
from tfx.components.trainer.fn_args_utils import FnArgs

from components.base.errors import CaptchaPipelineError
from components.base.features import BASE_PROBLEM, FINGERPRINT, HISTORY_FILE, RECIPE, WARM_START
from components.base.recipe import fingerprint
from components.data.captcha_spec import CaptchaSpec
from components.data.drift import Profile
from components.data.pictures import PictureRules
from components.evaluation.metrics import read
from components.serving.canaries import write_canaries
from components.serving.signatures import export_model
from components.serving.training_profile import TrainingProfile
from components.training.batches import count_by_origin, count_records, evaluation_batches, record_files, training_batches
from components.training.calibration import CalibratedCrossEntropy, calibrate
from components.training.canaries import choose_canaries
from components.training.checkpoint import ENOUGH_TO_CHOOSE, Checkpoint, remove_old
from components.training.devices import choose_strategy, fit, is_chief, synchronise_batch_norm, training_dtype
from components.training.hyperparameters import FitLength, Hyperparameters, repeats
from components.training.model import PRESETS, build_model, captcha_loss, captcha_metrics, with_column_loss
from components.training.optimizer import Muon
from components.training.pace import Pace
from components.training.schedule import learning_rate_schedule
from components.training.warm_start import Base, find_base, take_over

_LOG: Final = logging.getLogger(__name__)
EVALUATION_BATCH: Final = 256


@dataclass(frozen=True)
class Examples:
    """The files of the transformed examples of the training and the eval split.

    Attributes:
      train, eval: the files.
      labelled: the number of training examples that people or models have labelled; 0 if all are drawn.
      drawn: the number of drawn training examples.
      choose: whether the eval split has enough pictures to choose an epoch: see `checkpoint.ENOUGH_TO_CHOOSE`.
    """

    train: list[str]
    eval: list[str]
    labelled: int
    drawn: int = 0
    choose: bool = False

    @property
    def repeats(self) -> int:
        """How often each labelled example occurs in a pass over the training split."""
        return repeats(self.labelled, self.drawn)

    @property
    def count(self) -> int:
        """The number of examples in a pass over the training split, including repeats."""
        return self.repeats * self.labelled + self.drawn


def run_fn(fn_args: FnArgs) -> None:
    """Trains a model and exports it. TFX calls it.

    `fn_args.custom_config` has: `spec`, a CaptchaSpec in JSON; `trainer`, the fields of Hyperparameters; `recipe`, which identifies
    this combination of configuration, data and code (components/base/recipe.py); `checkpoint_dir`, the folder of the checkpoints from which
    a killed fit resumes; `log_dir`, where TensorBoard finds a folder for each fingerprint during its fit; `max_pixels`, `wrong_size` and
    `background`, which decide what pictures the served model refuses and how it decodes them: see `export_model`; and `profiles`, the
    counts of a `drift.Profile` for each span. `fn_args.base_model` is the folder of a SavedModel to start from. The folder may be empty.

    Raises:
      CaptchaPipelineError: a split is empty, the strategy is unavailable, its replicas cannot share a batch evenly, or
        trainer.max_minutes is set for several workers.
    """
    config = fn_args.custom_config
    spec = CaptchaSpec.model_validate_json(config["spec"])
    parameters = Hyperparameters.from_values(config["trainer"])
    strategy = choose_strategy(parameters.strategy)  # first, because TensorFlow requires it with several workers
    base, problem = find_base(fn_args.base_model, spec, parameters.preset)
    if problem:
        _LOG.warning("%s", problem)
    if base:
        parameters = parameters.warm
    name = fingerprint(config["recipe"], base.fingerprint if base else None)
    # On a CPU the seed is enough to reproduce the weights, because TensorFlow's CPU kernels add up in a fixed order.
    keras.utils.set_random_seed(parameters.seed)
    examples = find_examples(fn_args)
    length = parameters.fit_length(examples.count)
    check_batch_size(parameters.batch_size, strategy.num_replicas_in_sync, examples.count)
    if parameters.max_minutes and parameters.strategy == "multi_worker":
        raise CaptchaPipelineError("trainer.max_minutes is for one machine: several workers would time it differently. Set trainer.epochs.")
    chief = is_chief(strategy)
    checkpoint_dir = Path(config["checkpoint_dir"])
    if chief:
        remove_old(checkpoint_dir, keep=name)
    checkpoint = Checkpoint(checkpoint_dir / name, length.epochs, parameters.patience, chooses=examples.choose, writes=chief)
    with strategy.scope():
        model = checkpoint.restore(lambda: compiled_model(spec, parameters, length.steps, base))
        if checkpoint.epochs != length.epochs:  # a fit that trainer.max_minutes has shortened resumes
            model.optimizer.schedule.steps.assign(float(checkpoint.epochs * length.epoch_steps))
    if not checkpoint.finished:
        if not checkpoint.epoch:
            checkpoint.say(_plan(length, parameters.batch_size, examples))
        pace = Pace(checkpoint, model.optimizer.schedule, parameters.max_minutes)
        # Not in fn_args.model_run_dir: on Kubeflow it is copied out of the pod only at the end, and a resumed fit has a different one.
        log_dir = Path(config["log_dir"]) / name
        shown = [keras.callbacks.TensorBoard(str(log_dir), write_graph=False)] if chief else []
        fit_to(examples, model, spec, parameters, length, strategy, checkpoint.epoch, [*shown, pace, checkpoint])
    if not chief:
        return
    checkpoint.restore_best(model)
    # In float32 whatever the training precision, so that the model runs, and runs fast, on machines without bfloat16.
    exported = build_model(spec, PRESETS[parameters.preset])
    exported.set_weights(model.get_weights())
    logits = calibrate(exported, evaluation_batches(examples.eval, spec, EVALUATION_BATCH))
    about = {
        RECIPE: config["recipe"],
        FINGERPRINT: name,
        "preset": parameters.preset,
        WARM_START: base is not None,
        BASE_PROBLEM: problem,
    }
    export_model(
        exported,
        tft.TFTransformOutput(fn_args.transform_output),
        spec,
        config["max_pixels"],
        about,
        fn_args.serving_model_dir,
        config["wrong_size"],
        config["background"],
    )
    rules = PictureRules(config["max_pixels"], tuple(config["background"]), "resize")
    extra = Path(fn_args.serving_model_dir) / "assets.extra"
    readings = _readings(logits, spec)
    TrainingProfile.of(map(Profile, config["profiles"].values()), *readings, rules).export(extra)
    write_canaries(extra, choose_canaries(examples.eval, spec, *readings))
    (Path(fn_args.model_run_dir) / HISTORY_FILE).write_text(json.dumps(checkpoint.history, indent=1) + "\n", encoding="utf-8")


def _readings(logits: npt.NDArray[np.float32], spec: CaptchaSpec) -> tuple[list[str], list[float]]:
    """Returns the texts and the confidences, as the served model reads, of logits [N, max_length, num_classes]."""
    ids, chosen = read(softmax(logits, axis=-1), spec.min_length)
    return [spec.decode(row) for row in ids.tolist()], chosen.prod(axis=-1).tolist()


def _plan(length: FitLength, batch_size: int, examples: Examples) -> str:
    pictures = f"{examples.labelled or examples.drawn:,} pictures"
    if examples.labelled and examples.drawn:
        often = f" ({examples.repeats} times each)" if examples.repeats > 1 else ""
        pictures = f"{examples.labelled:,} labelled pictures{often} and {examples.drawn:,} drawn ones"
    epochs = "1 epoch" if length.epochs == 1 else f"{length.epochs} epochs"
    passes = f" of {length.passes} passes" if length.passes > 1 else ""
    return f"training on {pictures}: {epochs}{passes}, {length.steps:,} steps of {batch_size} pictures"


def find_examples(fn_args: FnArgs) -> Examples:
    """Returns the examples that TFX gives to a fit.

    Raises:
      CaptchaPipelineError: a split is empty.
    """
    train = record_files(fn_args.train_files, "train")
    judges = record_files(fn_args.eval_files, "eval")
    return Examples(train, judges, *count_by_origin(train), count_records(judges, ENOUGH_TO_CHOOSE) == ENOUGH_TO_CHOOSE)


def fit_to(
    examples: Examples,
    model: keras.Model,
    spec: CaptchaSpec,
    parameters: Hyperparameters,
    length: FitLength,
    strategy: tf.distribute.Strategy,
    initial_epoch: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Fits a compiled model to the training split, and evaluates it on the eval split after each epoch. See `devices.fit`."""
    with strategy.scope():
        judge = keras.Model(model.input, model.outputs[0])
        # Not a metric of the training split as well, because with a large charset it takes a large part of a step.
        judge.compile(loss=model.loss, metrics=[*captcha_metrics(spec), CalibratedCrossEntropy()])
    fit(
        model,
        judge,
        strategy,
        partial(
            training_batches,
            examples.train,
            examples.count,
            spec,
            parameters,
            repeats=examples.repeats,
            passes=length.passes,
            first_epoch=initial_epoch,
        ),
        partial(evaluation_batches, examples.eval, spec, EVALUATION_BATCH),
        initial_epoch=initial_epoch,
        epochs=length.epochs,
        callbacks=callbacks,
    )


def check_batch_size(batch_size: int, replicas: int, count: int) -> None:
    """Checks that the replicas can share the batches of a training split evenly.

    Args:
      batch_size: the number of records in a batch of all replicas together.
      replicas: the number of replicas.
      count: the number of records in the split.

    Raises:
      CaptchaPipelineError: `batch_size` is not a multiple of `replicas`, or several replicas have less than one full batch.
    """
    if batch_size % replicas:
        raise CaptchaPipelineError(
            f"trainer.batch_size={batch_size} cannot be shared evenly among {replicas} replicas. Set it to a multiple of {replicas}."
        )
    if replicas > 1 and count < batch_size:
        raise CaptchaPipelineError(
            f"The train split has {count} records, less than one batch of {batch_size} for {replicas} replicas to share. "
            "Set trainer.strategy=auto or a smaller trainer.batch_size."
        )


def compiled_model(spec: CaptchaSpec, parameters: Hyperparameters, steps: int, base: Base | None = None) -> keras.Model:
    """Returns a model compiled for a fit of `steps` steps, with Muon at `learning_rate_schedule`. Call it in the strategy's scope.

    With a `base`, the model has the weights of the base where they fit.
    """
    model = build_model(spec, PRESETS[parameters.preset], training_dtype(parameters.precision, parameters.strategy != "cpu"))
    if base:
        take_over(model, spec, base)
    schedule = learning_rate_schedule(parameters, steps)
    # The columns learn first what to count. At the end of the fit only the readings of the heads matter.
    model = with_column_loss(model, schedule.remaining)
    synchronise_batch_norm(model)
    model.compile(Muon(schedule), loss=captcha_loss(parameters.label_smoothing), metrics=captcha_metrics(spec))
    return model
