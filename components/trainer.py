"""Fits the model to the transformed examples and exports it: the Trainer's `run_fn`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import keras
import tensorflow as tf
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from components.captcha import CaptchaSpec
from components.checkpoint import Checkpoint
from components.errors import CaptchaPipelineError
from components.model import PRESETS, build_model, captcha_loss, captcha_metrics, training_dtype
from components.signatures import export_model
from components.training_input import count_records, evaluation_batches, record_files, training_batches

HISTORY_FILE: Final = "history.json"
_EVALUATION_BATCH: Final = 256


@dataclass(frozen=True)
class Hyperparameters:
    """How to fit; the `trainer` section of the configuration.

    `epochs` and `warmup_epochs` are passes over the training split, `learning_rate` is the highest of the schedule, `patience` is
    epochs without a better full-sequence accuracy on the eval split, `shift` is pixels.
    """

    preset: str
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: float
    patience: int
    precision: str
    strategy: str
    seed: int
    shift: int = 2


def run_fn(fn_args: FnArgs) -> None:
    """Trains and exports. TFX calls it.

    `fn_args.custom_config` holds: `spec`, a CaptchaSpec in JSON; `trainer`, the fields of Hyperparameters; `fingerprint`, which
    names this combination of config, data and code; `checkpoint_dir`, where a fit leaves what it needs to go on after a kill; and
    `max_pixels`, above which the served model refuses a picture.

    Raises:
      CaptchaPipelineError: a split is empty, or the strategy asks for a GPU that is not there.
    """
    config = fn_args.custom_config
    spec = CaptchaSpec.model_validate_json(config["spec"])
    parameters = Hyperparameters(**config["trainer"])
    # On a CPU that is enough for the same weights twice: TensorFlow's kernels for it add up in a fixed order.
    keras.utils.set_random_seed(parameters.seed)
    train_files, eval_files = record_files(fn_args.train_files, "train"), record_files(fn_args.eval_files, "eval")
    count = count_records(train_files)
    checkpoint = Checkpoint(Path(config["checkpoint_dir"]) / config["fingerprint"], parameters.epochs)
    with choose_strategy(parameters.strategy).scope():
        model = checkpoint.restore(lambda: compiled_model(spec, parameters, count))
    model.fit(
        training_batches(train_files, count, spec, parameters.batch_size, parameters.shift, parameters.seed + checkpoint.epoch),
        validation_data=evaluation_batches(eval_files, spec, _EVALUATION_BATCH),
        initial_epoch=checkpoint.epoch,
        epochs=parameters.epochs,
        verbose=0,
        callbacks=[
            keras.callbacks.TensorBoard(fn_args.model_run_dir, write_graph=False),
            keras.callbacks.EarlyStopping("val_sequence_accuracy", mode="max", patience=parameters.patience, restore_best_weights=True),
            checkpoint,
        ],
    )
    # In float32 whatever it was trained in, so that it runs, and runs fast, on machines without bfloat16.
    exported = build_model(spec, PRESETS[parameters.preset])
    exported.set_weights(model.get_weights())
    about = {"fingerprint": config["fingerprint"], "preset": parameters.preset}
    export_model(exported, tft.TFTransformOutput(fn_args.transform_output), spec, config["max_pixels"], about, fn_args.serving_model_dir)
    (Path(fn_args.model_run_dir) / HISTORY_FILE).write_text(json.dumps(checkpoint.history, indent=1) + "\n", encoding="utf-8")
    checkpoint.delete()


def choose_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the strategy for a configured name.

    "cpu"; "one_gpu"; "mirrored", every GPU there is; or "auto": every GPU there is, or else the CPU.

    Raises:
      CaptchaPipelineError: "one_gpu" or "mirrored", and TensorFlow sees no GPU.
    """
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    if name in ("one_gpu", "mirrored") and not gpus:
        raise CaptchaPipelineError(
            f"trainer.strategy is {name}, and TensorFlow sees no GPU here. Set trainer.strategy=auto, or install tensorflow[and-cuda]."
        )
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy(gpus)
    if name == "one_gpu" or (name == "cpu" and gpus):
        return tf.distribute.OneDeviceStrategy(gpus[0] if name == "one_gpu" else "/cpu:0")
    return tf.distribute.get_strategy()


def compiled_model(spec: CaptchaSpec, parameters: Hyperparameters, count: int) -> keras.Model:
    """Returns a model ready to fit to `count` records: Adam at `learning_rate_schedule`."""
    model = build_model(spec, PRESETS[parameters.preset], training_dtype(parameters.precision))
    optimizer = keras.optimizers.Adam(learning_rate_schedule(parameters, count))
    model.compile(optimizer, loss=captcha_loss(), metrics=captcha_metrics())
    return model


def learning_rate_schedule(parameters: Hyperparameters, count: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the rate by step for a training split of `count` records: rising to the highest, then along a cosine to 0.

    After Loshchilov and Hutter, "SGDR" (2017), without restarts; the warm-up after Goyal et al., "Accurate, Large Minibatch SGD"
    (2017).
    """
    steps_per_epoch = -(-count // parameters.batch_size)
    warmup = min(parameters.warmup_epochs, parameters.epochs / 2) * steps_per_epoch
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, round(parameters.epochs * steps_per_epoch - warmup)),
        warmup_target=parameters.learning_rate,
        warmup_steps=round(warmup),
    )
