"""The multi-head VGG: groups of 3x3 convolutions, a pooling after each group, and one softmax head per position.

After Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2015), with one head per
character as in Goodfellow et al., "Multi-digit Number Recognition from Street View Imagery using Deep Convolutional Neural
Networks" (2014).
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import keras
from keras import ops

from components.data.captcha_spec import CaptchaSpec
from components.evaluation.metrics import read
from components.training.counting import Count, Glimpses


@dataclass(frozen=True)
class Preset:
    """An architecture, as data.

    Attributes:
      groups: the numbers of filters of the convolutions in each group. A 2x2 pooling follows each group; see `heads`.
      dense: the units of the fully connected layers between the last pooling and the heads.
      dropout: the rate after each fully connected layer or, without such layers, before the heads.
      heads: "direct": each head is a fully connected layer on the whole output of the layers before. "counted": all positions share one
        layer, on what `Glimpses` shows each position. With counted heads, a pooling halves the width only if three columns per position
        remain, so that no two positions have to share a column.
      patches: whether each block of 2x2 pixels first becomes the channels of one place, instead of a first convolution over all pixels
        and its pooling.
      context: the number of filters of the convolution before counted heads, over the whole height and three columns.
      batch_norm: whether batch normalisation (Ioffe and Szegedy, 2015) follows each convolution and each fully connected layer.
        Without it VGG stays at chance for long at Adam's usual rates.
    """

    groups: tuple[tuple[int, ...], ...]
    dense: tuple[int, ...] = ()
    dropout: float = 0.5
    heads: Literal["direct", "counted"] = "direct"
    patches: bool = False
    context: int = 0
    batch_norm: bool = True


_TEXTBOOK_GROUPS: Final = ((64, 64), (128, 128), (128, 128, 128), (256, 128, 128), (512, 512, 512))

PRESETS: Final = MappingProxyType(
    {
        # The heads see the columns of the map, not a pooled or dense summary, because only the place of a character shows its position.
        "vgg-slim": Preset(groups=((32, 32), (64, 64), (128, 128)), dropout=0.1, heads="counted", patches=True, context=256),
        "vgg16-bn": Preset(groups=_TEXTBOOK_GROUPS, dense=(4096, 4096)),
        "vgg-book": Preset(groups=_TEXTBOOK_GROUPS, dense=(4096, 4096), batch_norm=False),
    }
)

# The eval split is read with the moving averages. 0.9 follows the weights within about ten batches. Keras' 0.99 lags behind by hundreds of
# batches, which is a large part of a fit of a few thousand batches.
_BATCH_NORM_MOMENTUM: Final = 0.9
_COLUMNS_A_POSITION: Final = 3
_NAME: Final = "multi_head_vgg"
COLUMN_HEAD: Final = "column_head"


def build_model(spec: CaptchaSpec, design: Preset, dtype: str = "float32") -> keras.Model:
    """Returns an uncompiled model.

    Input: float32 [N, height, width, channels], normalised. Output: float32 logits [N, max_length, num_classes].
    Layers are named as in the VGG paper: conv1_1, pool1, fc6, …, then glimpses and head, or head_1 to head_<max_length>.

    Args:
      spec: the image size, and the number and size of the heads.
      design: one of the PRESETS, or any other Preset.
      dtype: a Keras dtype policy for everything below the heads, "float32" or "mixed_bfloat16". Variables are float32 in both,
        so the weights of one also fit the other.
    """
    policy = keras.DTypePolicy(dtype)

    def activate(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        if design.batch_norm:
            x = keras.layers.BatchNormalization(momentum=_BATCH_NORM_MOMENTUM, name=f"{name}_bn", dtype=policy)(x)
        return keras.layers.ReLU(name=f"{name}_relu", dtype=policy)(x)

    # He et al. (2015): the variance that preserves the scale of a signal through a ReLU.
    weights = {"kernel_initializer": "he_normal", "use_bias": not design.batch_norm, "dtype": policy}
    x = inputs = keras.Input((spec.height, spec.width, spec.channels), dtype="float32", name="image")

    def narrower(x: keras.KerasTensor) -> int:
        return 2 if design.heads == "direct" or -(-x.shape[2] // 2) >= _COLUMNS_A_POSITION * spec.max_length else 1

    if design.patches:
        x = _patches(x, 2, narrower(x), policy)
    for group, filters in enumerate(design.groups, start=1):
        # "same" rounds up, so that small pictures never reach a height of zero.
        pool = keras.layers.MaxPooling2D((2, narrower(x)), padding="same", name=f"pool{group}", dtype=policy)
        for number, count in enumerate(filters, start=1):
            name = f"conv{group}_{number}"
            x = keras.layers.Conv2D(count, 3, padding="same", name=name, **weights)(x)
            if design.batch_norm and number == len(filters):
                x = pool(x)  # before the normalisation and the ReLU, which then process a quarter of the pixels
            x = activate(x, name)
        if not design.batch_norm:
            x = pool(x)
    if design.heads == "counted":
        _, height, width, _ = x.shape
        x = keras.layers.ZeroPadding2D((0, 1), name="margin", dtype=policy)(x)
        x = activate(keras.layers.Conv2D(design.context, (height, 3), name="context", **weights)(x), "context")
        x = keras.layers.Reshape((width, design.context), name="columns", dtype=policy)(x)
        dropped = keras.layers.Dropout(design.dropout, name="column_drop", dtype=policy)(x)
        read = keras.layers.Dense(len(spec.characters) + 1, name=COLUMN_HEAD, dtype="float32")(dropped)
        x = Glimpses(spec.max_length, name="glimpses", dtype=policy)([x, Count(name="count", dtype="float32")(read)])
        x = keras.layers.Dropout(design.dropout, name="drop", dtype=policy)(x)
        return keras.Model(inputs, keras.layers.Dense(spec.num_classes, name="head", dtype="float32")(x), name=_NAME)
    x = keras.layers.Flatten(name="flatten", dtype=policy)(x)
    for number, units in enumerate(design.dense, start=len(design.groups) + 1):
        x = activate(keras.layers.Dense(units, name=f"fc{number}", **weights)(x), f"fc{number}")
        x = keras.layers.Dropout(design.dropout, name=f"drop{number}", dtype=policy)(x)
    if not design.dense:
        x = keras.layers.Dropout(design.dropout, name="drop", dtype=policy)(x)
    heads = [keras.layers.Dense(spec.num_classes, name=f"head_{i}", dtype="float32")(x) for i in range(1, spec.max_length + 1)]
    return keras.Model(inputs, ops.stack(heads, axis=1), name=_NAME)


def _patches(image: keras.KerasTensor, tall: int, wide: int, policy: keras.DTypePolicy) -> keras.KerasTensor:
    """Returns [N, h, w, tall * wide * channels]: the values of each block of an image, padded with zeros at the bottom and the right."""
    _, height, width, channels = image.shape
    down, across = -(-height // tall), -(-width // wide)
    margin = ((0, down * tall - height), (0, across * wide - width))
    x = keras.layers.ZeroPadding2D(margin, name="even", dtype=policy)(image)
    x = keras.layers.Reshape((down, tall, across, wide * channels), name="rows", dtype=policy)(x)
    x = keras.layers.Permute((1, 3, 2, 4), name="parts", dtype=policy)(x)
    return keras.layers.Reshape((down, across, tall * wide * channels), name="patches", dtype=policy)(x)


def with_column_loss(model: keras.Model, weight: Callable[[Any], Any] | None = None) -> keras.Model:
    """Returns a model of the same layers and weights to fit, whose loss also includes the readings of its columns.

    Its outputs are the logits and, with counted heads, float32 [N, columns, characters + 1]. Compile it with `captcha_loss`. The model
    adds the CTC loss (Graves et al., 2006), without which counted heads would have to learn by themselves what to count. If the model
    has no columns, or too few for CTC, it is returned unchanged.

    Args:
      model: from `build_model`.
      weight: returns the weight of the CTC loss, float32 [], in a step, which counts from 0; None for 1. The returned model then needs an
        optimizer, which counts the steps.
    """
    columns = [layer.output for layer in model.layers if layer.name == COLUMN_HEAD]
    if not columns or columns[0].shape[1] < 2 * model.output.shape[1] - 1:  # CTC may need a blank between any two characters
        return model
    fitted = _WithColumnLoss(model.inputs, [model.output, *columns], name=_NAME)
    fitted.column_weight = weight
    fitted.output_names = fitted.output_names[:1]  # `compile` gets the loss and the metrics of the logits only
    return fitted


class _WithColumnLoss(keras.Model):
    column_weight: Callable[[Any], Any] | None = None

    def compute_loss(
        self,
        x: Any = None,
        y: keras.KerasTensor | None = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> keras.KerasTensor:
        """Called by Keras."""
        logits, columns = y_pred
        column_loss = _ColumnLoss(name="columns")(y, columns)
        if self.column_weight is not None:
            column_loss = column_loss * self.column_weight(self.optimizer.iterations)
        return super().compute_loss(x, y, logits, sample_weight, training) + column_loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Called by Keras."""
        return super().compute_metrics(x, y, y_pred[0], sample_weight)


class _ColumnLoss(keras.losses.Loss):
    """The CTC loss per character, averaged over pictures. A Keras loss accounts for the share of a replica, if there are several."""

    def call(self, labels: keras.KerasTensor, columns: keras.KerasTensor) -> keras.KerasTensor:
        blank = columns.shape[-1] - 1
        lengths = ops.sum(ops.cast(ops.not_equal(labels, blank), "int32"), axis=1)
        widths = ops.full_like(lengths, columns.shape[1])
        labels, columns = ops.cast(labels, "int32"), ops.cast(columns, "float32")
        if _without_gpu():
            losses = _ctc_loss(labels, columns, widths, blank)
        else:
            losses = ops.ctc_loss(labels, columns, lengths, widths, mask_index=blank)
        return losses / ops.cast(lengths, "float32")


def _without_gpu() -> bool:
    """Returns whether Keras runs on TensorFlow without a GPU."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf  # not on other backends

    return not tf.config.list_physical_devices("GPU")


def _ctc_loss(labels: Any, columns: Any, widths: Any, blank: int) -> Any:
    """Returns what `ops.ctc_loss` returns, by a kernel of TensorFlow that exists only for the CPU, and that XLA cannot compile.

    On a CPU, Keras' own loop of operations over the columns takes 3.5 times as long.
    """
    import tensorflow as tf

    characters = tf.where(labels != blank)
    sparse = tf.SparseTensor(characters, tf.gather_nd(labels, characters), tf.shape(labels, tf.int64))
    return tf.compat.v1.nn.ctc_loss(sparse, columns, widths, time_major=False)


def captcha_loss(smoothing: float = 0.0) -> keras.losses.Loss:
    """Returns the softmax cross-entropy of labels [N, max_length] and logits [N, max_length, num_classes], averaged over the heads.

    Args:
      smoothing: the share of each label that is spread evenly over all classes (Szegedy et al., "Rethinking the Inception
        Architecture for Computer Vision", 2016).
    """
    return _CrossEntropy(smoothing)


class _CrossEntropy(keras.losses.Loss):
    def __init__(self, smoothing: float):
        super().__init__(name="cross_entropy")
        self._smoothing = smoothing

    def call(self, labels: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
        targets = ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1])
        return keras.losses.categorical_crossentropy(targets, logits, from_logits=True, label_smoothing=self._smoothing)


def captcha_metrics(spec: CaptchaSpec) -> list[keras.metrics.Metric]:
    """Returns `sequence_accuracy`, the share of pictures read without error, and `position_accuracy`, the share of characters read right.

    Both measure the readings of `components.evaluation.metrics.read`. The blanks after a label do not count as characters, as there.
    """
    return [_SequenceAccuracy(spec, name="sequence_accuracy"), _PositionAccuracy(spec, name="position_accuracy")]


class _SequenceAccuracy(keras.metrics.Mean):
    def __init__(self, spec: CaptchaSpec, name: str):
        super().__init__(name=name)
        self._spec = spec

    def update_state(self, labels: keras.KerasTensor, logits: keras.KerasTensor, sample_weight: keras.KerasTensor | None = None) -> None:
        """Compares labels [N, max_length] with logits [N, max_length, num_classes]."""
        super().update_state(ops.all(_right(labels, logits, self._spec), axis=-1), sample_weight)


class _PositionAccuracy(_SequenceAccuracy):
    def update_state(self, labels: keras.KerasTensor, logits: keras.KerasTensor, sample_weight: keras.KerasTensor | None = None) -> None:
        """Compares the same by character. Ignores `sample_weight`."""
        blank = -1 if self._spec.blank_id is None else self._spec.blank_id
        is_character = ops.not_equal(ops.cast(labels, "int32"), blank)
        keras.metrics.Mean.update_state(self, _right(labels, logits, self._spec), ops.cast(is_character, "float32"))


def _right(labels: keras.KerasTensor, logits: keras.KerasTensor, spec: CaptchaSpec) -> keras.KerasTensor:
    ids, _ = read(ops.softmax(logits), spec.min_length, ops)
    return ops.equal(ops.cast(labels, "int32"), ops.cast(ids, "int32"))
