"""The trials of experiments/recipe.py. Each is the Trainer's recipe with one change."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import keras
import tensorflow as tf

from benchmarks.prepared import Prepared
from components.data.captcha_spec import CaptchaSpec
from components.training.batches import count_records, evaluation_batches, record_files, training_batches
from components.training.devices import training_dtype
from components.training.hyperparameters import Hyperparameters
from components.training.model import PRESETS, Preset, build_model, captcha_loss, captcha_metrics, with_column_loss
from components.training.optimizer import Muon
from components.training.run_fn import EVALUATION_BATCH
from components.training.schedule import learning_rate_schedule
from pipeline.config.config import Config

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule
layers = keras.layers


@dataclasses.dataclass(frozen=True)
class Trial:
    """One change.

    Attributes:
      parameters: changed fields of Hyperparameters.
      design: changed fields of Preset.
      optimizer: returns the optimizer for a schedule.
      schedule: returns the schedule for the hyperparameters and the number of steps.
      build: returns the model for the spec, the design and the dtype.
      change: transforms a batch of normalised images, with a seed for randomness. It is applied to the eval split only if not `random`.
      random: whether `change` is an augmentation.
      progressive: whether the convolutions train on pictures of half the size, under separate heads, for the first half of the epochs.
    """

    parameters: Mapping[str, Any] = MappingProxyType({})
    design: Mapping[str, Any] = MappingProxyType({})
    optimizer: Callable[[Schedule], keras.optimizers.Optimizer] = Muon
    schedule: Callable[[Hyperparameters, int], Schedule] = learning_rate_schedule
    build: Callable[[CaptchaSpec, Preset, str], keras.Model] = build_model
    change: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    random: bool = True
    progressive: bool = False


def fit(trial: Trial, config: Config, data: Prepared, epochs: int, pictures: int | None, seed: int) -> dict[str, Any]:
    """Fits a trial to the training split, or to `pictures` of it, and returns the result row with the metrics on the eval split."""
    spec = config.captcha
    parameters = config.trainer.model_copy(update={"epochs": epochs, "seed": seed} | dict(trial.parameters))
    keras.utils.set_random_seed(seed)
    files = record_files(data.files("train"), "train")
    there = count_records(files)
    count = min(pictures or there, there)
    design = dataclasses.replace(PRESETS[parameters.preset], **trial.design)

    def compiled(spec: CaptchaSpec, epochs: int) -> keras.Model:
        steps = epochs * -(-count // parameters.batch_size)
        weight = learning_rate_schedule(parameters, steps).remaining
        model = with_column_loss(trial.build(spec, design, training_dtype(parameters.precision)), weight)
        optimizer = trial.optimizer(trial.schedule(parameters, steps))
        model.compile(optimizer, loss=captcha_loss(parameters.label_smoothing), metrics=captcha_metrics(spec))
        return model

    early = epochs // 2 if trial.progressive else 0
    model = compiled(spec, epochs - early)
    batches = training_batches(files, there, spec, parameters)
    batches = batches.take(-(-count // parameters.batch_size))
    judged = evaluation_batches(record_files(data.files("eval"), "eval"), spec, EVALUATION_BATCH)
    if trial.change is not None:
        change = trial.change
        seeds = tf.data.Dataset.random(seed=seed + 1, rerandomize_each_iteration=True).batch(2)
        batches = tf.data.Dataset.zip((batches, seeds)).map(lambda batch, s: (change(batch[0], s), batch[1]), tf.data.AUTOTUNE).prefetch(2)
        if not trial.random:
            judged = judged.map(lambda images, labels: (change(images, tf.zeros([2], tf.int64)), labels))
    if early:
        half = spec.model_copy(update={"width": spec.width // 2, "height": spec.height // 2})
        small = compiled(half, early)
        small.fit(batches.map(lambda images, labels: (tf.image.resize(images, (half.height, half.width)), labels)), epochs=early, verbose=0)
        for layer in small.layers:
            if layer.name.startswith("conv"):
                model.get_layer(layer.name).set_weights(layer.get_weights())
    model.fit(batches, epochs=epochs - early, verbose=0)
    if model.optimizer.use_ema:
        model.optimizer.finalize_variable_values(model.trainable_variables)
    figures = model.evaluate(judged, verbose=0, return_dict=True)
    return {"images_seen": count * epochs, "weights": model.count_params(), **{name: round(value, 5) for name, value in figures.items()}}


def _with_head(
    head: Callable[[keras.KerasTensor, CaptchaSpec, Preset], keras.KerasTensor], spec: CaptchaSpec, design: Preset, dtype: str
) -> keras.Model:
    """Returns `build_model` with another head, which maps the last feature map [N, h, w, C] to logits [N, max_length, num_classes]."""
    whole = build_model(spec, design, dtype)
    return keras.Model(whole.input, head(whole.get_layer("margin").input, spec, design))


def _own_heads(spec: CaptchaSpec, design: Preset, dtype: str) -> keras.Model:
    """Returns the preset with separate head weights for each position."""
    whole = build_model(spec, design, dtype)
    heads = layers.EinsumDense("npc,pck->npk", (spec.max_length, spec.num_classes), bias_axes="pk", dtype="float32")
    return keras.Model(whole.input, heads(whole.get_layer("drop").output))


def _position_wise(x: keras.KerasTensor, spec: CaptchaSpec, design: Preset) -> keras.KerasTensor:
    """Returns logits from a learned, fixed mixture of the columns for each position, with one classifier for all positions."""
    _, height, width, channels = x.shape
    columns = layers.Reshape((width, height * channels))(layers.Permute((2, 1, 3))(x))
    mixed = layers.EinsumDense("nwc,wl->nlc", (spec.max_length, height * channels), dtype="float32")(columns)
    return layers.Dense(spec.num_classes, dtype="float32")(layers.Dropout(design.dropout)(mixed))


def _pooled(x: keras.KerasTensor, spec: CaptchaSpec, design: Preset) -> keras.KerasTensor:
    """Returns logits of direct heads on global average pooling."""
    x = layers.Dropout(design.dropout)(layers.GlobalAveragePooling2D()(x))
    return keras.ops.stack([layers.Dense(spec.num_classes, dtype="float32")(x) for _ in range(spec.max_length)], axis=1)


def _colour_blind(spec: CaptchaSpec, design: Preset, dtype: str) -> keras.Model:
    """Returns the preset with first filters that start with the same weights for each colour."""
    model = build_model(spec, design, dtype)
    kernel = model.get_layer("conv1_1").kernel
    kernel.assign(keras.ops.broadcast_to(keras.ops.mean(kernel, axis=2, keepdims=True), kernel.shape))
    return model


def _linear(parameters: Hyperparameters, steps: int) -> Schedule:
    """Returns a schedule that rises linearly during the warm-up, and then falls linearly to 0."""
    return _Linear(parameters.learning_rate, round(parameters.warmup * steps), steps)


class _Linear(Schedule):
    def __init__(self, rate: float, warmup: int, steps: int):
        self._rate, self._warmup, self._steps = rate, warmup, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        return self._rate * tf.maximum(0.0, tf.minimum(step / self._warmup, (self._steps - step) / (self._steps - self._warmup)))

    def get_config(self) -> dict[str, Any]:
        return {"rate": self._rate, "warmup": self._warmup, "steps": self._steps}


def _per_image(images: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    return tf.image.per_image_standardization(images)


def _grey(images: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
    return tf.repeat(tf.reduce_mean(images, axis=-1, keepdims=True), 3, axis=-1)


def _affine(rotation: float, zoom: float, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Rotates by up to `rotation` degrees and scales by up to the share `zoom`, around the centre."""
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    draws = tf.random.stateless_uniform([2, count], seed, -1.0, 1.0)
    angle, scale = draws[0] * (rotation * 3.14159265 / 180), 1 + draws[1] * zoom
    cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
    x, y = (width - 1) / 2, (height - 1) / 2
    zero = tf.zeros_like(cos)
    transforms = tf.stack([cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, zero, zero], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images, transforms=transforms, output_shape=[height, width], fill_value=0.0, interpolation="BILINEAR", fill_mode="NEAREST"
    )


def _colour(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Changes gain and level of each channel, by up to a tenth of the standard deviation of all pixels."""
    draws = tf.random.stateless_uniform([2, tf.shape(images)[0], 1, 1, images.shape[-1]], seed, -0.1, 0.1)
    return images * (1 + draws[0]) + draws[1]


def _cutout(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Sets a random square, a quarter of the height wide, to the mean colour (DeVries and Taylor, 2017)."""
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    side = height // 4
    draws = tf.random.stateless_uniform([2, count, 1, 1], seed)
    rows, columns = tf.reshape(tf.range(height), [1, -1, 1]), tf.reshape(tf.range(width), [1, 1, -1])
    top, left = (tf.cast(draws[i] * (size - side), tf.int32) for i, size in enumerate((height, width)))
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return tf.where(inside[..., tf.newaxis], 0.0, images)


def _blur(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Blends with a 3 x 3 mean, by a random share between 0 and 1."""
    share = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], seed)
    return images + share * (tf.nn.avg_pool2d(images, 3, 1, "SAME") - images)


def _groups(*filters: Sequence[int]) -> dict[str, Any]:
    return {"groups": tuple(map(tuple, filters))}


# The recipe before Muon, label smoothing and smaller batches; and the model before that, direct heads on five groups.
_PLAIN: Final = {"batch_size": 64, "learning_rate": 1e-2, "label_smoothing": 0.0, "warmup": 0.25}
_DIRECT: Final = {"heads": "direct", "dropout": 0.3, **_groups((16,), (32, 32), (64, 64), (128, 128), (256,))}
# For one pass over the data: no picture is seen twice, so there is no overfitting to prevent.
_ONE_PASS: Final = {"shift": 0, "warmup": 0.1}
_adam: Final = partial(Trial, optimizer=keras.optimizers.Adam)
_NESTEROV: Final = partial(keras.optimizers.SGD, momentum=0.9, nesterov=True, weight_decay=5e-4)

TRIALS: Final = MappingProxyType(
    {
        "base": Trial(),
        "direct, rate 3e-3": _adam({**_PLAIN, "learning_rate": 3e-3}, _DIRECT),
        "direct, rate 5e-3": _adam({**_PLAIN, "learning_rate": 5e-3}, _DIRECT),
        "direct, rate 8e-3": _adam({**_PLAIN, "learning_rate": 8e-3}, _DIRECT),
        "direct, rate 1e-2": _adam(_PLAIN, _DIRECT),
        "direct, rate 1.2e-2": _adam({**_PLAIN, "learning_rate": 1.2e-2}, _DIRECT),
        "direct, rate 2e-2": _adam({**_PLAIN, "learning_rate": 2e-2}, _DIRECT),
        "direct, rate 2e-2, warm-up 0.125": _adam({**_PLAIN, "learning_rate": 2e-2, "warmup": 0.125}, _DIRECT),
        "direct, rate 2e-2, warm-up 0.1": _adam({**_PLAIN, "learning_rate": 2e-2, "warmup": 0.1}, _DIRECT),
        "direct, batch 32, rate 2e-3": _adam({**_PLAIN, "batch_size": 32, "learning_rate": 2e-3}, _DIRECT),
        "direct, SGD 0.1": Trial({**_PLAIN, "learning_rate": 0.1}, _DIRECT, optimizer=_NESTEROV),
        "direct, one pass": _adam({**_PLAIN, **_ONE_PASS}, {**_DIRECT, "dropout": 0.1}),
        "plain": _adam(_PLAIN, {"dropout": 0.3}),
        "plain, rate 2e-2": _adam({**_PLAIN, "learning_rate": 2e-2}, {"dropout": 0.3}),
        "plain, smoothing 0.1": _adam({**_PLAIN, "label_smoothing": 0.1}, {"dropout": 0.3}),
        "plain, one pass": _adam({**_PLAIN, **_ONE_PASS}, {"dropout": 0.1}),
        "plain, one pass, batch 32, rate 7e-3": _adam({**_PLAIN, **_ONE_PASS, "batch_size": 32, "learning_rate": 7e-3}, {"dropout": 0.1}),
        "plain, one pass, last 256": _adam({**_PLAIN, **_ONE_PASS}, {"dropout": 0.1, **_groups((16,), (32, 32), (64, 64), (128, 256))}),
        "one pass": Trial(_ONE_PASS),
        # Training.
        "rate 3e-3": Trial({"learning_rate": 3e-3}),
        "rate 1.4e-2": Trial({"learning_rate": 1.4e-2}),
        "batch 16, rate 5e-3": Trial({"batch_size": 16, "learning_rate": 5e-3}),
        "batch 64, rate 1e-2": Trial({"batch_size": 64, "learning_rate": 1e-2}),
        "linear": Trial(schedule=_linear),
        "Adam": _adam(),
        "Adam, one pass": _adam(_ONE_PASS),
        "Adam, warm-up 0.25, dropout 0.3": _adam({"warmup": 0.25}, {"dropout": 0.3}),
        "Adam, smoothing 0": _adam({"label_smoothing": 0.0}),
        "Adam, direct heads": _adam(design={"heads": "direct"}),
        "AdamW 0.01": Trial(optimizer=partial(keras.optimizers.AdamW, weight_decay=0.01)),
        "AdamW 0.1": Trial(optimizer=partial(keras.optimizers.AdamW, weight_decay=0.1)),
        "Nadam": Trial(optimizer=keras.optimizers.Nadam),
        "Adam, beta 2 0.99": Trial(optimizer=partial(keras.optimizers.Adam, beta_2=0.99)),
        "SGD 0.1": Trial({"learning_rate": 0.1}, optimizer=_NESTEROV),
        "SGD 0.3": Trial({"learning_rate": 0.3}, optimizer=_NESTEROV),
        "Lion 1e-3": Trial({"learning_rate": 1e-3}, optimizer=partial(keras.optimizers.Lion, weight_decay=0.1)),
        "Adam, weights averaged": Trial(optimizer=partial(keras.optimizers.Adam, use_ema=True, ema_momentum=0.998)),
        "smoothing 0": Trial({"label_smoothing": 0.0}),
        "smoothing 0.05": Trial({"label_smoothing": 0.05}),
        "smoothing 0.2": Trial({"label_smoothing": 0.2}),
        "float32": Trial({"precision": "float32"}),
        # The model.
        "dropout 0": Trial(design={"dropout": 0.0}),
        "dropout 0.3": Trial(design={"dropout": 0.3}),
        "dropout 0.5": Trial(design={"dropout": 0.5}),
        "narrow": Trial(design=_groups((12,), (24, 24), (48, 48), (96, 96))),
        "wide": Trial(design=_groups((24,), (48, 48), (96, 96), (192, 192))),
        "shallow": Trial(design=_groups((16,), (32,), (64,), (128,))),
        "deep": Trial(design=_groups((16, 16), (32, 32), (64, 64, 64), (128, 128, 128))),
        "late": Trial(design=_groups((16,), (32,), (64, 64), (128, 128))),
        "five groups": Trial(design=_groups((16,), (32, 32), (64, 64), (128, 128), (256,))),
        "direct heads": Trial(design={"heads": "direct"}),
        "own heads": Trial(build=_own_heads),
        "position-wise": Trial(build=partial(_with_head, _position_wise)),
        "colour-blind at first": Trial(build=_colour_blind),
        "pooled": Trial(build=partial(_with_head, _pooled)),
        # The pictures.
        "shift 0": Trial({"shift": 0}),
        "shift 1": Trial({"shift": 1}),
        "shift 4": Trial({"shift": 4}),
        "per-image normalisation": Trial(change=_per_image, random=False),
        "grey": Trial(change=_grey, random=False),
        "rotation 5": Trial(change=partial(_affine, 5.0, 0.0)),
        "zoom 0.1": Trial(change=partial(_affine, 0.0, 0.1)),
        "colour": Trial(change=_colour),
        "cutout": Trial(change=_cutout),
        "blur": Trial(change=_blur),
        "progressive resizing": Trial(progressive=True),
    }
)
