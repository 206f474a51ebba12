"""Decodes a picture to pixels as a TensorFlow graph, in Transform and in the served model.

The pixels are the same as Pillow's, which are used to check and measure the data. components/data/exif.py has the rules for headers in
Python.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import tensorflow as tf

from components.data.captcha_spec import CaptchaSpec
from components.data.exif import EXIF_APP1, MAX_PARTS, ORIENTATION_TAG, ORIENTATIONS, PNG_SIGNATURE, UPRIGHT

WHITE: Final = (255, 255, 255)
# ITU-R 601 luma in units of 1/65536, as in Pillow, so that CaptchaExampleGen measures the pixels that the model gets.
_LUMA: Final = (19595, 38470, 7471)
# The markers of the application segments and comments of a JPEG.
_SKIPPED: Final = [bytes((0xFF, marker)) for marker in (*range(0xE0, 0xF0), 0xFE)]
_STRING: Final = tf.TensorSpec([], tf.string)
_PIXELS: Final = tf.TensorSpec([None, None, 3], tf.uint8)


def _apart(*signature: tf.TensorSpec) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a function a single operation for its callers, because TensorFlow visits all operations of a branch that is not taken."""
    return tf.function(input_signature=signature, autograph=False, experimental_attributes={"_noinline": True})


def decode_picture(encoded: tf.Tensor, spec: CaptchaSpec, background: Sequence[int] = WHITE) -> tf.Tensor:
    """Decodes a PNG or JPEG of any size and colour type to the size and channels of the model's input.

    Args:
      encoded: string [], the bytes of the picture.
      spec: gives the size, the channels, and the fit, which is the way to resize a picture of another size.
      background: the colour of transparent pixels, RGB, 0 to 255.

    Returns:
      uint8 [height, width, channels].

    Raises:
      tf.errors.InvalidArgumentError: as for `visible_pixels`.
    """
    height, width, channels = spec.height, spec.width, spec.channels
    resize = {"pad": _pad, "stretch": _resize}[spec.fit]
    pixels = visible_pixels(encoded, background)
    if channels == 1:
        pixels = tf.cast((tf.reduce_sum(tf.cast(pixels, tf.int32) * _LUMA, axis=-1, keepdims=True) + 32768) // 65536, tf.uint8)
    has_size = tf.reduce_all(tf.shape(pixels)[:2] == [height, width])
    pixels = tf.cond(has_size, lambda: pixels, lambda: resize(pixels, height, width))
    return tf.ensure_shape(pixels, [height, width, channels])


def visible_pixels(encoded: tf.Tensor, background: Sequence[int] = WHITE) -> tf.Tensor:
    """Decodes a PNG or JPEG as a viewer shows it: turned by its EXIF orientation, with transparent pixels over the background.

    Args:
      encoded: string [], the bytes of the picture.
      background: the colour of transparent pixels, RGB, 0 to 255.

    Returns:
      uint8 [H, W, 3].

    Raises:
      tf.errors.InvalidArgumentError: when the graph runs: the bytes cannot be decoded, or components/data/pictures.py refuses the picture
        (an animated PNG, a PNG with 16 bits per channel and a transparent colour, or a JPEG in CMYK).
    """
    return tf.cond(
        _is_plain_png(encoded),
        lambda: tf.io.decode_png(encoded, channels=3),
        lambda: tf.cond(is_png(encoded), lambda: _decode_png(encoded, background), lambda: _decode_jpeg(encoded)),
    )


def is_png(encoded: tf.Tensor) -> tf.Tensor:
    """Returns bool []: whether the bytes, string [], start like a PNG."""
    return tf.strings.substr(encoded, 0, len(PNG_SIGNATURE)) == PNG_SIGNATURE


def _is_plain_png(encoded: tf.Tensor) -> tf.Tensor:
    """Returns bool []: whether the stored pixels of a PNG are those that a viewer shows.

    Nearly every picture is such a PNG, and it decodes in half the time. Bytes 24 and 25 are the bit depth and the colour type (0 grey,
    2 RGB). Bytes 37 to 40 are the type of the second chunk. A transparent colour or an orientation would have a chunk before the pixels.
    """
    header = tf.strings.substr(encoded, 24, 17)
    has_plain_mode = tf.reduce_any(tf.strings.substr(header, 0, 2) == [b"\x08\x00", b"\x08\x02"])
    return has_plain_mode & (tf.strings.substr(header, 13, 4) == b"IDAT")


def _decode_png(encoded: tf.Tensor, background: Sequence[int]) -> tf.Tensor:
    """Returns uint8 [H, W, 3]."""
    depth_and_type = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 24, 2), tf.uint8), tf.int32)
    is_special = _holds(encoded, b"tRNS") | _holds(encoded, b"eXIf") | _holds(encoded, b"acTL")
    has_key, is_animated, exif = tf.cond(
        is_special, lambda: _special_chunks(encoded), lambda: (tf.constant(False), tf.constant(False), tf.constant(""))
    )
    # A refused picture becomes an empty string, which cannot be decoded.
    readable = tf.where(is_animated | (has_key & (depth_and_type[0] == 16)), "", encoded)
    # TensorFlow ignores a transparent colour unless four channels are requested.
    decoded = tf.cast(tf.io.decode_png(readable, channels=4), tf.int32)
    colour, alpha = decoded[..., :3], decoded[..., 3:]
    # But without transparency, its alpha is the largest value of the file's own bit depth, such as 1. Bit 2 of the colour type is alpha.
    alpha = tf.where(has_key | (tf.bitwise.bitwise_and(depth_and_type[1], 4) != 0), alpha, 255)
    pixels = tf.cast((colour * alpha + tf.constant(background, tf.int32) * (255 - alpha) + 127) // 255, tf.uint8)
    return tf.cond(exif == "", lambda: pixels, lambda: _turned(pixels, exif))


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Returns uint8 [H, W, 3]."""
    # A refused picture becomes an empty string, as above: four channels are CMYK.
    readable = tf.where(tf.io.extract_jpeg_shape(encoded)[2] == 4, "", encoded)
    # The accurate DCT gives the same pixels as Pillow.
    pixels = tf.io.decode_jpeg(readable, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.cond(_holds(encoded, EXIF_APP1), lambda: _turned(pixels, _jpeg_exif(encoded)), lambda: pixels)


def _holds(encoded: tf.Tensor, part: bytes) -> tf.Tensor:
    """Returns bool []: whether a file contains the bytes `part`. Much cheaper than a walk through its parts, which few files need."""
    return tf.size(tf.raw_ops.StringSplitV2(input=[encoded], sep=part, maxsplit=1).values) > 1


@_apart(_STRING)
def _special_chunks(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns whether there is a chunk tRNS, bool [], whether there is a chunk acTL, bool [], and the content of eXIf, string []."""
    has_key, _ = _png_chunk(encoded, b"tRNS")
    is_animated, _ = _png_chunk(encoded, b"acTL")
    return has_key, is_animated, _png_chunk(encoded, b"eXIf")[1]


def _png_chunk(encoded: tf.Tensor, kind: bytes) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns whether there is a chunk of this kind, bool [], and its content, string [], like `exif.png_chunk`."""

    def header(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = _bytes_at(encoded, position, 8)
        return _big_endian(tf.strings.substr(found, 0, 4), 4), tf.strings.substr(found, 4, 4)

    def goes_on(position: tf.Tensor) -> tf.Tensor:
        return tf.reduce_all(header(position)[1] != [kind, b"IDAT"])

    position = _walked(len(PNG_SIGNATURE), goes_on, lambda position: position + 12 + header(position)[0])
    length, found = header(position)
    return found == kind, tf.where(found == kind, _bytes_at(encoded, position + 8, length), "")


@_apart(_STRING)
def _jpeg_exif(encoded: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF data of a JPEG, string [], like `exif._jpeg_exif`."""

    def header(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the marker, the length, and whether EXIF data follows."""
        found = _padded(_bytes_at(encoded, position, 10), 10)
        marker = tf.strings.substr(found, 0, 2)
        is_exif = (marker == b"\xff\xe1") & (tf.strings.substr(found, 4, len(EXIF_APP1)) == EXIF_APP1)
        return marker, _big_endian(tf.strings.substr(found, 2, 2), 2), is_exif

    def goes_on(position: tf.Tensor) -> tf.Tensor:
        marker, _, is_exif = header(position)
        return tf.reduce_any(marker == _SKIPPED) & ~is_exif

    position = _walked(2, goes_on, lambda position: position + 2 + header(position)[1])
    _, length, is_exif = header(position)
    start = 4 + len(EXIF_APP1)
    return tf.where(is_exif, _bytes_at(encoded, position + start, tf.maximum(length + 2 - start, 0)), "")


def _walked(start: int, goes_on: Callable[[tf.Tensor], tf.Tensor], advance: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Returns the position, int64 [], of the part of a file where a walk from `start` ends."""
    first = tf.constant(start, tf.int64)
    (end,) = tf.while_loop(goes_on, lambda position: (advance(position),), (first,), maximum_iterations=MAX_PARTS - 1)
    return end


@_apart(_PIXELS, _STRING)
def _turned(pixels: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
    """Turns pixels, uint8 [H, W, 3], by the orientation in EXIF data, string []."""
    orientation = _exif_orientation(exif)
    # An EXIF orientation gives the sides of the upright picture where the first stored row and the first stored column are.
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    is_reversed = [tf.reduce_any(orientation == [3, 4, 7, 8]), tf.reduce_any(orientation == [2, 3, 6, 7])]
    return tf.reverse(pixels, tf.boolean_mask([0, 1], is_reversed))


def _exif_orientation(tiff: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in EXIF data, int64 [], like `exif.exif_orientation`."""
    order = tf.strings.substr(tiff, 0, 4)
    is_little = order == b"II*\0"

    def numbers(data: tf.Tensor) -> tf.Tensor:
        """Returns the 16-bit numbers in a string of even length."""
        little, big = (tf.cast(tf.io.decode_raw(data, tf.uint16, little_endian=little), tf.int64) for little in (True, False))
        return tf.where(is_little, little, big)

    def wide(low_or_high: tf.Tensor, high_or_low: tf.Tensor) -> tf.Tensor:
        """Returns the 32-bit number made of two consecutive 16-bit numbers."""
        return tf.where(is_little, low_or_high + 65536 * high_or_low, 65536 * low_or_high + high_or_low)

    directory = wide(*tf.unstack(numbers(_padded(_bytes_at(tiff, 4, 4), 4)), 2))
    count = numbers(_padded(_bytes_at(tiff, directory, 2), 2))[0]
    entries = _bytes_at(tiff, directory + 2, 12 * count)
    whole = tf.strings.length(entries) // 12
    # Adds a row of zeros, so that there is at least one row.
    rows = tf.reshape(numbers(tf.strings.join([tf.strings.substr(entries, 0, 12 * whole), b"\0" * 12])), [-1, 6])
    tag, kind, *size, value, _ = tf.unstack(rows[tf.argmax(rows[:, 0] == ORIENTATION_TAG, output_type=tf.int32)], 6)
    is_orientation = (tag == ORIENTATION_TAG) & (kind == 3) & (wide(*size) == 1) & (value >= UPRIGHT) & (value < ORIENTATIONS.stop)
    return tf.where(is_orientation & (is_little | (order == b"MM\0*")), value, UPRIGHT)


def _bytes_at(data: tf.Tensor, start: tf.Tensor | int, size: tf.Tensor | int) -> tf.Tensor:
    """Returns `size` bytes from `start`, or fewer at the end of the data."""
    start = tf.minimum(tf.cast(start, tf.int64), tf.cast(tf.strings.length(data), tf.int64))
    return tf.strings.substr(data, start, tf.cast(size, tf.int64))


def _padded(data: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the first `size` bytes, filled up with zeros at the end."""
    return tf.strings.substr(tf.strings.join([data, b"\0" * size]), 0, size)


def _big_endian(data: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the big-endian number in the first `size` bytes, int64 []."""
    digits = tf.cast(tf.io.decode_raw(_padded(data, size), tf.uint8), tf.int64)
    return tf.reduce_sum(digits * [256**power for power in reversed(range(size))])


def _pad(pixels: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Resizes to the largest size with the same aspect ratio and centres the picture. The margins have the mean colour of its border."""
    own_height, own_width = tf.unstack(tf.shape(pixels, tf.int64)[:2])
    # In whole numbers, rounded half up, so that the size is equal on all processors.
    fitted_height = tf.clip_by_value((2 * own_height * width + own_width) // (2 * own_width), 1, height)
    fitted_width = tf.clip_by_value((2 * own_width * height + own_height) // (2 * own_height), 1, width)
    fitted = _resize(pixels, fitted_height, fitted_width)
    sides = [fitted[0], fitted[-1], fitted[:, 0], fitted[:, -1]]
    colour = tf.cast(tf.round(tf.reduce_mean(tf.cast(tf.concat(sides, axis=0), tf.float32), axis=0)), tf.uint8)
    above, before = (height - fitted_height) // 2, (width - fitted_width) // 2
    edges = [[above, height - fitted_height - above], [before, width - fitted_width - before], [0, 0]]
    # `tf.pad` fills with one number, not with a colour.
    inside = tf.pad(tf.ones_like(fitted, tf.bool), edges)
    return tf.where(inside, tf.pad(fitted, edges), colour)


def _resize(pixels: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Resizes bilinearly with antialiasing, to uint8 [height, width, C]."""
    resized = tf.image.resize(pixels, [height, width], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
