"""What happens to a record between its check and the model. The same graph is in the served model."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import tensorflow as tf
import tensorflow_transform as tft

from components.captcha import CaptchaSpec
from components.features import BRIGHTNESS, CHARACTERS, CONTRAST, IMAGE, LABEL_IDS, PIXEL_MEAN, PIXEL_STD, PIXELS

_WHITE: Final = (255, 255, 255)
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# ITU-R 601 luma in 1/65536, as Pillow has it: what CaptchaExampleGen measures is what the model gets.
_LUMA: Final = (19595, 38470, 7471)


def preprocessing_fn(inputs: Mapping[str, Any], custom_config: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Decodes and sizes the pictures, measures the training split, and turns labels into class ids.

    PIXELS and the two measures need IMAGE alone, and LABEL_IDS needs CHARACTERS alone, so that the served model can ask for
    either. The measures are of the pictures in their own size: where Transform resizes them they hold nearly.

    Args:
      inputs: what CaptchaExampleGen emits; components/features.py gives types and shapes.
      custom_config: `spec`, the CaptchaSpec as JSON, and `background`, RGB from 0 to 255.

    Returns:
      PIXELS string [N], PIXEL_MEAN and PIXEL_STD float32 [N], LABEL_IDS int64 [N, max_length].
    """
    spec = CaptchaSpec.model_validate_json(custom_config["spec"])
    images = tf.reshape(inputs[IMAGE], [-1])
    size = spec.height * spec.width * spec.channels

    def decoded(encoded: tf.Tensor) -> tf.Tensor:
        return decode_picture(encoded, spec.height, spec.width, spec.channels, custom_config["background"])

    def raw_pixels(encoded: tf.Tensor) -> tf.Tensor:
        # TFT's layer puts an empty string where the caller gives no picture.
        pixels = tf.cond(encoded == "", lambda: tf.zeros([spec.height, spec.width, spec.channels], tf.uint8), lambda: decoded(encoded))
        # A TensorProto ends with the tensor's bytes: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/framework/tensor.proto
        return tf.strings.substr(tf.io.serialize_tensor(pixels), -size, size)

    mean, std = _pixel_statistics(inputs[BRIGHTNESS], inputs[CONTRAST])
    return {
        PIXELS: tf.map_fn(raw_pixels, images, fn_output_signature=tf.TensorSpec([], tf.string)),
        PIXEL_MEAN: tf.fill(tf.shape(images), mean),
        PIXEL_STD: tf.fill(tf.shape(images), std),
        LABEL_IDS: _label_ids(inputs[CHARACTERS], spec),
    }


def decode_picture(encoded: tf.Tensor, height: int, width: int, channels: int, background: Sequence[int] = _WHITE) -> tf.Tensor:
    """Decodes a PNG or JPEG of any size and colour type; transparent pixels show the background.

    Args:
      encoded: string [].
      height, width: to which a picture of another size is resized: bilinear, with antialiasing.
      channels: 3 for colour, 1 for grey.
      background: RGB, 0 to 255.

    Returns:
      uint8 [height, width, channels].

    Raises:
      tf.errors.InvalidArgumentError: when run on bytes that cannot be decoded.
    """
    is_png = tf.strings.substr(encoded, 0, len(_PNG_SIGNATURE)) == _PNG_SIGNATURE
    pixels = tf.cond(
        _is_plain_png(encoded),
        lambda: tf.io.decode_png(encoded, channels=3),
        lambda: tf.cond(is_png, lambda: _decode_png(encoded, background), lambda: _decode_jpeg(encoded)),
    )
    if channels == 1:
        pixels = tf.cast((tf.reduce_sum(tf.cast(pixels, tf.int32) * _LUMA, axis=-1, keepdims=True) + 32768) // 65536, tf.uint8)
    has_size = tf.reduce_all(tf.shape(pixels)[:2] == [height, width])
    pixels = tf.cond(has_size, lambda: pixels, lambda: _resize(pixels, height, width))
    return tf.ensure_shape(pixels, [height, width, channels])


def _is_plain_png(encoded: tf.Tensor) -> tf.Tensor:
    """Whether the pixels of a PNG are those that a viewer shows: what nearly every picture is, and decoded in half the time.

    Bytes 24 and 25 are the bit depth and the colour type (0 grey, 2 RGB), 37 to 40 the type of the second chunk: a colour that
    is declared transparent would come before the pixels.
    """
    header = tf.strings.substr(encoded, 24, 17)
    has_plain_mode = tf.reduce_any(tf.strings.substr(header, 0, 2) == [b"\x08\x00", b"\x08\x02"])
    return has_plain_mode & (tf.strings.substr(header, 13, 4) == b"IDAT")


def _decode_png(encoded: tf.Tensor, background: Sequence[int]) -> tf.Tensor:
    """Returns uint8 [H, W, 3]."""
    # Unless asked for four channels, TensorFlow passes over a colour that is declared transparent.
    decoded = tf.cast(tf.io.decode_png(encoded, channels=4), tf.int32)
    colour, alpha = decoded[..., :3], decoded[..., 3:]
    # But where there is no transparency, it fills in the largest value of the file's own bit depth, such as 1. Byte 24 is that depth.
    depth = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 24, 1), tf.uint8)[0], tf.int32)
    opaque = tf.bitwise.left_shift(1, tf.minimum(depth, 8)) - 1
    alpha = tf.where(tf.reduce_all(alpha == opaque), 255, alpha)
    return tf.cast((colour * alpha + tf.constant(background, tf.int32) * (255 - alpha) + 127) // 255, tf.uint8)


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Returns uint8 [H, W, 3]."""
    # The accurate DCT gives the pixels that Pillow gives.
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def _resize(pixels: tf.Tensor, height: int, width: int) -> tf.Tensor:
    resized = tf.image.resize(pixels, [height, width], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _pixel_statistics(brightness: tf.Tensor, contrast: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and standard deviation, float32 [], of all pixel values of the training split.

    By the law of total variance: the variance over all pixels is the mean over the pictures of contrast² + brightness², less the
    square of the mean. So no picture is decoded to find it.
    """
    brightness, contrast = (tf.reshape(tf.cast(measure, tf.float64), [-1]) for measure in (brightness, contrast))
    # One analysis for both means: each is a stage of its own to Beam.
    moments = tf.stack([brightness, tf.square(contrast) + tf.square(brightness)], axis=1)
    mean, square = tf.unstack(tft.mean(moments, reduce_instance_dims=False))
    variance = square - tf.square(mean)
    # Pictures of one colour throughout have no deviation to divide by.
    return tf.cast(mean, tf.float32), tf.cast(tf.sqrt(tf.maximum(variance, 1.0)), tf.float32)


def _label_ids(characters: tf.SparseTensor, spec: CaptchaSpec) -> tf.Tensor:
    """Returns int64 [N, max_length]: the class of each character in the order of the charset, padded with `blank_id`."""
    vocabulary = tft.make_and_track_object(
        lambda: tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(list(spec.characters), tf.range(len(spec.characters), dtype=tf.int64)),
            # Without a blank class no position is empty; CaptchaExampleGen lets no other character through.
            default_value=-1 if spec.blank_id is None else spec.blank_id,
        ),
        name="charset",
    )
    shape = tf.stack([characters.dense_shape[0], spec.max_length])
    padded = tf.sparse.to_dense(tf.SparseTensor(characters.indices, characters.values, shape), default_value="")
    return tf.ensure_shape(vocabulary.lookup(padded), [None, spec.max_length])
