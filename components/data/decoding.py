"""From an encoded picture to pixels, as a TensorFlow graph: in Transform and in the served model.

The pixels are those that Pillow shows, by which the data are checked and measured. components/data/exif.py has the rules on headers
in Python.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import tensorflow as tf

from components.data.captcha_spec import CaptchaSpec
from components.data.exif import EXIF_APP1, MAX_PARTS, ORIENTATION_TAG, ORIENTATIONS, PNG_SIGNATURE, UPRIGHT

WHITE: Final = (255, 255, 255)
# ITU-R 601 luma in 1/65536, as Pillow has it: what CaptchaExampleGen measures is what the model gets.
_LUMA: Final = (19595, 38470, 7471)
# The markers of a JPEG's segments for applications and of its comments.
_SKIPPED: Final = [bytes((0xFF, marker)) for marker in (*range(0xE0, 0xF0), 0xFE)]
_STRING: Final = tf.TensorSpec([], tf.string)
_PIXELS: Final = tf.TensorSpec([None, None, 3], tf.uint8)


def _apart(*signature: tf.TensorSpec) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a function one operation for who calls it. TensorFlow goes through all operations of a branch, even if it is not taken."""
    return tf.function(input_signature=signature, autograph=False, experimental_attributes={"_noinline": True})


def decode_picture(encoded: tf.Tensor, spec: CaptchaSpec, background: Sequence[int] = WHITE) -> tf.Tensor:
    """Decodes a PNG or JPEG of any size and colour type to the size and the channels that the model takes.

    Args:
      encoded: string [].
      spec: has the size, the channels and the fit, by which a picture of another size is resized.
      background: RGB, 0 to 255, which transparent pixels show.

    Returns:
      uint8 [height, width, channels].

    Raises:
      tf.errors.InvalidArgumentError: when run on bytes that cannot be decoded.
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
    """Decodes a PNG or JPEG as a viewer shows it: turned by its EXIF orientation, transparent pixels over the background.

    Returns:
      uint8 [H, W, 3].

    Raises:
      tf.errors.InvalidArgumentError: when run on bytes that cannot be decoded, or on what components/data/pictures.py refuses: an animated
        PNG, one with 16 bits a channel and a colour that is declared transparent, or a JPEG in CMYK.
    """
    return tf.cond(
        _is_plain_png(encoded),
        lambda: tf.io.decode_png(encoded, channels=3),
        lambda: tf.cond(is_png(encoded), lambda: _decode_png(encoded, background), lambda: _decode_jpeg(encoded)),
    )


def is_png(encoded: tf.Tensor) -> tf.Tensor:
    """Returns bool []."""
    return tf.strings.substr(encoded, 0, len(PNG_SIGNATURE)) == PNG_SIGNATURE


def _is_plain_png(encoded: tf.Tensor) -> tf.Tensor:
    """Whether the pixels of a PNG are those that a viewer shows: what nearly every picture is, and decoded in half the time.

    Bytes 24 and 25 are the bit depth and the colour type (0 grey, 2 RGB), 37 to 40 the type of the second chunk: a colour that
    is declared transparent or an orientation would come before the pixels.
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
    # What is refused fails: no picture is an empty string.
    readable = tf.where(is_animated | (has_key & (depth_and_type[0] == 16)), "", encoded)
    # Unless asked for four channels, TensorFlow passes over a colour that is declared transparent.
    decoded = tf.cast(tf.io.decode_png(readable, channels=4), tf.int32)
    colour, alpha = decoded[..., :3], decoded[..., 3:]
    # But where there is no transparency, it fills in the largest value of the file's own bit depth, such as 1. Bit 2 of the type is alpha.
    alpha = tf.where(has_key | (tf.bitwise.bitwise_and(depth_and_type[1], 4) != 0), alpha, 255)
    pixels = tf.cast((colour * alpha + tf.constant(background, tf.int32) * (255 - alpha) + 127) // 255, tf.uint8)
    return tf.cond(exif == "", lambda: pixels, lambda: _turned(pixels, exif))


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    """Returns uint8 [H, W, 3]."""
    # What is refused fails, as above: four channels are CMYK.
    readable = tf.where(tf.io.extract_jpeg_shape(encoded)[2] == 4, "", encoded)
    # The accurate DCT gives the pixels that Pillow gives.
    pixels = tf.io.decode_jpeg(readable, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.cond(_holds(encoded, EXIF_APP1), lambda: _turned(pixels, _jpeg_exif(encoded)), lambda: pixels)


def _holds(encoded: tf.Tensor, part: bytes) -> tf.Tensor:
    """Whether some bytes are anywhere in the file. Far cheaper than to walk through its parts, which few files need."""
    return tf.size(tf.raw_ops.StringSplitV2(input=[encoded], sep=part, maxsplit=1).values) > 1


@_apart(_STRING)
def _special_chunks(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns bool [], whether there is a chunk tRNS; bool [], whether there is a chunk acTL; and string [], the content of eXIf."""
    has_key, _ = _png_chunk(encoded, b"tRNS")
    is_animated, _ = _png_chunk(encoded, b"acTL")
    return has_key, is_animated, _png_chunk(encoded, b"eXIf")[1]


def _png_chunk(encoded: tf.Tensor, kind: bytes) -> tuple[tf.Tensor, tf.Tensor]:
    """As `exif.png_chunk`: returns bool [], whether there is such a chunk, and string [], its content."""

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
    """As `exif._jpeg_exif`: returns string []."""

    def header(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the marker, the length, and whether EXIF data follow."""
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
    """Returns the position, int64 [], of the part of a file at which a walk from `start` ends."""
    first = tf.constant(start, tf.int64)
    (end,) = tf.while_loop(goes_on, lambda position: (advance(position),), (first,), maximum_iterations=MAX_PARTS - 1)
    return end


@_apart(_PIXELS, _STRING)
def _turned(pixels: tf.Tensor, exif: tf.Tensor) -> tf.Tensor:
    """Turns uint8 [H, W, 3] as EXIF data, string [], have it."""
    orientation = _exif_orientation(exif)
    # EXIF's numbers say on which sides the stored picture has its first row and its first column.
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    is_reversed = [tf.reduce_any(orientation == [3, 4, 7, 8]), tf.reduce_any(orientation == [2, 3, 6, 7])]
    return tf.reverse(pixels, tf.boolean_mask([0, 1], is_reversed))


def _exif_orientation(tiff: tf.Tensor) -> tf.Tensor:
    """As `exif.exif_orientation`: returns int64 []."""
    order = tf.strings.substr(tiff, 0, 4)
    is_little = order == b"II*\0"

    def numbers(data: tf.Tensor) -> tf.Tensor:
        """The 16-bit numbers of a string of even length."""
        little, big = (tf.cast(tf.io.decode_raw(data, tf.uint16, little_endian=little), tf.int64) for little in (True, False))
        return tf.where(is_little, little, big)

    def wide(low_or_high: tf.Tensor, high_or_low: tf.Tensor) -> tf.Tensor:
        """The 32-bit number of two 16-bit ones that follow each other."""
        return tf.where(is_little, low_or_high + 65536 * high_or_low, 65536 * low_or_high + high_or_low)

    directory = wide(*tf.unstack(numbers(_padded(_bytes_at(tiff, 4, 4), 4)), 2))
    count = numbers(_padded(_bytes_at(tiff, directory, 2), 2))[0]
    entries = _bytes_at(tiff, directory + 2, 12 * count)
    whole = tf.strings.length(entries) // 12
    # A row of zeros at the end, so that there is one to look at.
    rows = tf.reshape(numbers(tf.strings.join([tf.strings.substr(entries, 0, 12 * whole), b"\0" * 12])), [-1, 6])
    tag, kind, *size, value, _ = tf.unstack(rows[tf.argmax(rows[:, 0] == ORIENTATION_TAG, output_type=tf.int32)], 6)
    is_orientation = (tag == ORIENTATION_TAG) & (kind == 3) & (wide(*size) == 1) & (value >= UPRIGHT) & (value < ORIENTATIONS.stop)
    return tf.where(is_orientation & (is_little | (order == b"MM\0*")), value, UPRIGHT)


def _bytes_at(data: tf.Tensor, start: tf.Tensor | int, size: tf.Tensor | int) -> tf.Tensor:
    """Returns the `size` bytes from `start`, or those of them that are there."""
    start = tf.minimum(tf.cast(start, tf.int64), tf.cast(tf.strings.length(data), tf.int64))
    return tf.strings.substr(data, start, tf.cast(size, tf.int64))


def _padded(data: tf.Tensor, size: int) -> tf.Tensor:
    """Fills up with zeros."""
    return tf.strings.substr(tf.strings.join([data, b"\0" * size]), 0, size)


def _big_endian(data: tf.Tensor, size: int) -> tf.Tensor:
    """The number, int64 [], that up to `size` bytes are."""
    digits = tf.cast(tf.io.decode_raw(_padded(data, size), tf.uint8), tf.int64)
    return tf.reduce_sum(digits * [256**power for power in reversed(range(size))])


def _pad(pixels: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Resizes to the largest size of the same aspect ratio, in the middle. What is left over has the mean colour of the border."""
    own_height, own_width = tf.unstack(tf.shape(pixels, tf.int64)[:2])
    # In whole numbers, rounded half up, so that all processors come to the same size.
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
    """Resizes bilinearly, with antialiasing."""
    resized = tf.image.resize(pixels, [height, width], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
