"""Checks and converts one picture from an untrusted source.

The size is checked in the header before any pixel is decoded, because a file of a few kilobytes can unpack to gigabytes.
"""

import io
import math
import re
import struct
import sys
import warnings
import zlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from components.data.captcha_spec import CaptchaSpec
from components.data.exif import EXIF_APP1, JPEG_SIGNATURE, SIDEWAYS, UPRIGHT, exif_orientation, orientation, png_chunk, png_chunks

ALLOWED_FORMATS: Final = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")

# Upper bounds of `contrast`. They divide 100x30 pictures of the captcha library, whose text has one random colour on a light
# background, into groups of about 25, 35 and 40 %, and its 128x64 pictures into groups of 65, 15 and 20 %.
_DIFFICULTIES: Final = (("low contrast", 44.0), ("medium contrast", 49.0), ("high contrast", float("inf")))
DIFFICULTIES: Final = tuple(name for name, _ in _DIFFICULTIES)

# The names of a PNG's chunks in the order of the standard (https://www.w3.org/TR/png-3/#5ChunkOrdering). Optional chunks, whose names
# start with a small letter, may be between them in any number. Of the optional chunks only the place of tRNS is checked.
_ANY: Final = rb"(?:(?!tRNS)[a-z]...)*"
_PNG_CHUNKS: Final = re.compile(rb"IHDR%b(?:PLTE%b)?(?:tRNS%b)?(?:IDAT)+%bIEND" % ((_ANY,) * 4), re.DOTALL)
# IHDR has 13 bytes. Its compression and filter bytes have only one valid value each.
_PNG_HEADER: Final = re.compile(rb".{8}\0\0\0\x0dIHDR.{10}\0\0[\0\1]", re.DOTALL)
_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# The passes of an interlaced PNG: first column, first row, step between columns, step between rows.
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# All markers except those inside the pixel data, which are not followed by a length.
_JPEG_MARKER: Final = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")

# The operation that turns a picture upright, by its orientation.
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow's warning is not needed: `max_pixels` is below Pillow's limit, and larger pictures are an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PictureError(ValueError):
    """A picture that is refused.

    Attributes:
      reason: the name used to count such records: `image_empty`, `image_undecodable`, `image_too_large`, `image_animated`, `image_mode`
        or `image_size`.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class PictureRules:
    """How pictures are checked and converted.

    Attributes:
      max_pixels: larger pictures are refused before they are decoded.
      background: the colour of transparent pixels, RGB, 0 to 255.
      wrong_size: "resize" leaves a picture whose size differs from the spec for Transform to resize; "refuse" refuses it.
    """

    max_pixels: int
    background: tuple[int, int, int]
    wrong_size: Literal["resize", "refuse"]


@dataclass(frozen=True)
class Picture:
    """A picture that Transform can decode.

    Attributes:
      encoded: the original bytes of an upright 8-bit grey or RGB PNG or JPEG; of other pictures, a PNG made from them.
      width, height: pixels.
      brightness, contrast: mean and standard deviation of the pixel values (0 to 255), in RGB or grey as in the spec.
      sharpness: mean absolute difference of neighbouring pixels in a row.
      pixels: the decoded picture of `encoded`, of mode L or RGB.
    """

    encoded: bytes
    width: int
    height: int
    brightness: float
    contrast: float
    sharpness: float
    pixels: Image.Image

    @property
    def difficulty(self) -> str:
        """One of DIFFICULTIES. A text with low contrast to its background is hard to read."""
        return next(name for name, bound in _DIFFICULTIES if self.contrast < bound)


def inspect_picture(data: bytes, spec: CaptchaSpec, rules: PictureRules) -> Picture:
    """Checks, decodes and measures a picture. Converts it if Transform would not read it as a viewer shows it.

    Pictures with a palette, 16 bits or 1 bit become 8-bit pictures. Transparent pixels show the background. Formats other than PNG and
    JPEG become PNG. Pictures are turned by their EXIF orientation. The size is not changed.

    Raises:
      PictureError: the picture is empty, too large, not decodable, animated, of a mode without a safe conversion, or of a wrong size if
        the rules refuse that.
    """
    converted = visible_picture(data, rules)
    width, height = converted.size
    if rules.wrong_size == "refuse" and (width, height) != (spec.width, spec.height):
        raise PictureError("image_size", f"the picture is {width}x{height} pixels, not {spec.width}x{spec.height}")
    encoded = data if converted.format else _png(converted)
    mode = "RGB" if spec.channels == 3 else "L"
    brightness, contrast, sharpness = _measure(np.asarray(converted if converted.mode == mode else converted.convert(mode)))
    return Picture(encoded, width, height, brightness, contrast, sharpness, converted)


def visible_picture(data: bytes, rules: PictureRules) -> Image.Image:
    """Returns the pixels that the model gets, before they are resized: a decoded, upright picture of mode L or RGB.

    Of a JPEG with several pictures, the first is returned. The `format` of the result is None if the picture was converted. It is set if
    Transform reads the same pixels from `data` itself.

    Raises:
      PictureError: the picture is empty, too large, not decodable, animated, or of a mode without a safe conversion.
    """
    if not data:
        raise PictureError("image_empty", "the picture has no bytes")
    image = _open(data, rules.max_pixels)
    if _is_animated(image) or (image.format == "PNG" and png_chunk(data, b"acTL") is not None):
        raise PictureError("image_animated", f"the {image.format} is animated; a picture must have one frame")
    _decode(image, data)
    turn = _TURNS.get(_orientation(image, data))
    if turn is not None:
        return _convert(image, data, rules.background).transpose(turn)
    return image if _is_plain(image, data) else _convert(image, data, rules.background)


def upright_size(data: bytes) -> tuple[int, int]:
    """Returns the width and height of a PNG or JPEG as a viewer shows it, in pixels. Decodes no pixels, so the size has no limit.

    Raises:
      PictureError: the header cannot be read.
    """
    image = _open(data, sys.maxsize)
    width, height = image.size
    return (height, width) if _orientation(image, data) in SIDEWAYS else (width, height)


def _is_animated(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception as error:  # Pillow looks for a second frame, and its parsers raise exceptions of many types
        raise PictureError("image_undecodable", f"the picture cannot be decoded: {error}") from None


def _orientation(image: Image.Image, data: bytes) -> int:
    if image.format in ("JPEG", "PNG"):
        return orientation(data)
    # Pillow turns a TIFF while decoding it.
    return exif_orientation(image.info.get("exif", b"").removeprefix(EXIF_APP1)) if image.format == "WEBP" else UPRIGHT


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Reads the header of a picture, and checks its format and size."""
    try:
        if data.startswith(JPEG_SIGNATURE):
            # `Image.open` treats a JPEG with several pictures as another format.
            image: Image.Image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        else:
            image = Image.open(io.BytesIO(data), formats=ALLOWED_FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError("image_too_large", f"the picture has more than {max_pixels} pixels ({error})") from None
    except UnidentifiedImageError:
        message = f"the file is not a picture in a supported format ({', '.join(ALLOWED_FORMATS)})"
        raise PictureError("image_undecodable", message) from None
    except Exception as error:  # Pillow's parsers raise exceptions of many types.
        raise PictureError("image_undecodable", f"the picture's header cannot be read: {error}") from None
    width, height = image.size
    if width * height > max_pixels:
        message = f"the picture is {width}x{height} pixels, more than the limit of {max_pixels} (data.max_pixels)"
        raise PictureError("image_too_large", message)
    return image


def _decode(image: Image.Image, data: bytes) -> None:
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise exceptions of many types.
        raise PictureError("image_undecodable", f"the {image.format} is broken: {error}") from None
    if (image.format == "PNG" and not _png_is_whole(data)) or (image.format == "JPEG" and not _jpeg_is_whole(data)):
        raise PictureError("image_undecodable", f"the {image.format} is broken: a part is missing, misplaced or has a wrong checksum")


def _png_is_whole(data: bytes) -> bool:
    """Returns whether a PNG has all its pixels, correct checksums, and all its chunks in the right order.

    Pillow ignores missing pixels and their checksums, and missing, unknown or misplaced chunks. TensorFlow refuses such files.
    """
    names, packed = list[bytes](), list[bytes]()
    for name, content, checksum in png_chunks(data):
        if zlib.crc32(content, zlib.crc32(name)).to_bytes(4, "big") != checksum:
            return False
        if name == b"PLTE" and len(content) % 3:
            return False
        names.append(name)
        if name == b"IDAT":
            packed.append(content)
    has_palette = data[25] != 3 or b"PLTE" in names
    if not has_palette or not _PNG_HEADER.match(data) or not _PNG_CHUNKS.fullmatch(b"".join(names)):
        return False
    return _unpacks(b"".join(packed), _unpacked_size(data))


def _unpacked_size(png: bytes) -> int:
    """Returns the number of bytes in the rows of a PNG, including one filter byte per row."""
    width, height, depth, colour_type, interlaced = struct.unpack_from(">IIBBxxB", png, 16)
    bits = depth * _PNG_CHANNELS[colour_type]
    size = 0
    for x, y, step_x, step_y in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // step_x), -((y - height) // step_y)
        size += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    return size


def _unpacks(packed: bytes, size: int) -> bool:
    """Returns whether a zlib stream has more than `size` bytes, or exactly `size` bytes and its end."""
    stream = zlib.decompressobj()
    try:
        # One byte more than `size`, so that zlib also reads the checksum at the end.
        unpacked = stream.decompress(packed, size + 1)
    except zlib.error:
        return False
    return len(unpacked) > size or (len(unpacked) == size and stream.eof)


def _jpeg_is_whole(data: bytes) -> bool:
    """Returns whether a JPEG has its end marker. Pillow needs only the pixels of a JPEG; TensorFlow also needs the end marker."""
    position = 2
    while found := _JPEG_MARKER.search(data, position):
        if found[0] == b"\xff\xd9":
            return True
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return False


def _measure(pixels: np.ndarray) -> tuple[float, float, float]:
    """Returns the brightness, contrast and sharpness of uint8 [H, W] or [H, W, 3], as defined in Picture."""
    # This takes a fifth of the time of NumPy's mean and std, and is exact: all sums are whole numbers below 2**53.
    values = pixels.ravel().astype(np.float64)
    count, total, squares = values.size, int(values.sum()), int(values.dot(values))
    left, right = pixels[:, :-1], pixels[:, 1:]
    steps = np.maximum(left, right) - np.minimum(left, right)
    return total / count, math.sqrt(count * squares - total**2) / count, int(steps.sum()) / max(steps.size, 1)


def _is_plain(image: Image.Image, data: bytes) -> bool:
    if image.format == "JPEG":
        return image.mode in ("L", "RGB")
    # Pillow's mode of a 16-bit RGB PNG is RGB too, so the header is checked: bytes 24 and 25 are the bit depth and the colour type
    # (0 grey, 2 RGB).
    return image.format == "PNG" and data[24] == 8 and data[25] in (0, 2) and not image.has_transparency_data


def _convert(image: Image.Image, data: bytes, background: tuple[int, int, int]) -> Image.Image:
    """Returns a picture of mode L or RGB."""
    if image.format == "PNG" and "transparency" in image.info and data[25] == 0:
        # Pillow scales 2-bit and 4-bit grey to 8 bits, but leaves the transparent grey as it is in the file.
        image.info["transparency"] *= {2: 85, 4: 17}.get(data[24], 1)
    if image.format == "PNG" and data[24] == 16 and png_chunk(data, b"tRNS") is not None:
        raise PictureError("image_mode", "the picture has 16 bits per channel and a transparent colour, which has no safe conversion")
    if image.format == "JPEG" and image.mode == "CMYK":
        # TensorFlow rounds differently from Pillow. Without an Adobe marker, TensorFlow treats the values as inverted, Pillow does not.
        raise PictureError("image_mode", "the JPEG is in CMYK, which programs convert to RGB in different ways; save it in RGB")
    return visible_pixels(image, background)


def visible_pixels(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Returns the pixels that the model gets from a decoded picture, as a picture of mode L or RGB.

    Args:
      image: the decoded picture.
      background: the colour of transparent pixels, RGB, 0 to 255.

    Raises:
      PictureError: the mode has no safe conversion; the reason is `image_mode`.
    """
    if image.mode.startswith("I;16"):
        # Keeps the high byte, as TensorFlow does for a 16-bit PNG.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise PictureError("image_mode", f"the picture's mode is {image.mode}, which has no safe conversion to 8 bits per channel")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        flat = Image.new("RGB", image.size, background)
        flat.paste(layer, mask=layer.getchannel("A"))
        return flat
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _png(image: Image.Image) -> bytes:
    image.info = {}  # Metadata such as a CMYK colour profile is no longer valid.
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
