"""Checks and converts one picture that comes from a stranger.

Its size is checked in its header, before a pixel is decoded: a file of a few kilobytes can unpack to gigabytes.
"""

import io
import math
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from components.data.captcha_spec import CaptchaSpec
from components.data.exif import EXIF_APP1, JPEG_SIGNATURE, UPRIGHT, exif_orientation, orientation, png_chunk, png_chunks

ALLOWED_FORMATS: Final = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")

# Upper bounds of `contrast`. They cut 100x30 pictures of the captcha library, whose text is drawn in one random colour on a
# light ground, into parts of about 25, 35 and 40 %, and its 128x64 ones into 65, 15 and 20 %.
_DIFFICULTIES: Final = (("low contrast", 44.0), ("medium contrast", 49.0), ("high contrast", float("inf")))
DIFFICULTIES: Final = tuple(name for name, _ in _DIFFICULTIES)

# The names of a PNG's chunks, in the order that the standard has (https://www.w3.org/TR/png-3/#5ChunkOrdering): any number of those that
# start with a small letter, of which only tRNS counts here.
_ANY: Final = rb"(?:(?!tRNS)[a-z]...)*"
_PNG_CHUNKS: Final = re.compile(rb"IHDR%b(?:PLTE%b)?(?:tRNS%b)?(?:IDAT)+%bIEND" % ((_ANY,) * 4), re.DOTALL)
# IHDR has 13 bytes, of which the compression and the filter have one value each.
_PNG_HEADER: Final = re.compile(rb".{8}\0\0\0\x0dIHDR.{10}\0\0[\0\1]", re.DOTALL)
_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# The passes of an interlaced PNG: first column and row, steps between columns and rows.
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# All but those within the pixel data, which have no length after them.
_JPEG_MARKER: Final = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")

# What turns a picture upright, by its orientation.
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# `max_pixels` is below the size at which Pillow begins to warn, and is an error, not a warning.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PictureError(ValueError):
    """A picture that is not used.

    `reason` is the name under which such records are counted: `image_empty`, `image_undecodable`, `image_too_large`,
    `image_animated`, `image_mode` or `image_size`.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class PictureRules:
    """What is done with pictures.

    Attributes:
      max_pixels: larger ones are refused before they are decoded.
      background: RGB, 0 to 255, that shows through transparent pixels.
      wrong_size: whether one of another size than the spec's is left for Transform to resize, or refused.
    """

    max_pixels: int
    background: tuple[int, int, int]
    wrong_size: Literal["resize", "refuse"]


@dataclass(frozen=True)
class Picture:
    """A picture that Transform can decode.

    Attributes:
      encoded: the bytes as given where they are an upright 8-bit grey or RGB PNG or JPEG, else a PNG made of them.
      width, height: pixels.
      brightness, contrast: mean and standard deviation of the pixel values (0 to 255), as RGB or grey, as the spec has it.
      sharpness: mean absolute difference of neighbouring pixels in a row.
      pixels: `encoded`, decoded: of mode L or RGB.
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
        """One of DIFFICULTIES: hard is what stands out little from its ground."""
        return next(name for name, bound in _DIFFICULTIES if self.contrast < bound)


def inspect_picture(data: bytes, spec: CaptchaSpec, rules: PictureRules) -> Picture:
    """Bounds, decodes and measures a picture, and converts what Transform would not read as a viewer shows it.

    Palettes, 16-bit and 1-bit pictures become 8-bit ones, transparent pixels show the background, other formats than
    PNG and JPEG become PNG, and pictures are turned by their EXIF orientation. The size is not changed.

    Raises:
      PictureError: it is empty, too large, not decodable, animated, of a mode that has no safe conversion, or of a wrong size
        where that is refused.
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

    Of a JPEG with several pictures it is the first. Its `format` is set where Transform reads these pixels from `data` itself, and None
    where it was converted.

    Raises:
      PictureError: the picture is empty, too large, not decodable, animated, or of a mode that has no safe conversion.
    """
    if not data:
        raise PictureError("image_empty", "the picture has no bytes")
    image = _open(data, rules.max_pixels)
    if getattr(image, "is_animated", False) or (image.format == "PNG" and png_chunk(data, b"acTL") is not None):
        raise PictureError("image_animated", f"the {image.format} is animated; a picture must have one frame")
    _decode(image, data)
    turn = _TURNS.get(_orientation(image, data))
    if turn is not None:
        return _convert(image, data, rules.background).transpose(turn)
    return image if _is_plain(image, data) else _convert(image, data, rules.background)


def _orientation(image: Image.Image, data: bytes) -> int:
    if image.format in ("JPEG", "PNG"):
        return orientation(data)
    # Pillow turns a TIFF while it decodes it.
    return exif_orientation(image.info.get("exif", b"").removeprefix(EXIF_APP1)) if image.format == "WEBP" else UPRIGHT


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Reads the header."""
    try:
        if data.startswith(JPEG_SIGNATURE):
            # To `open`, a JPEG that holds several pictures is of another format.
            image: Image.Image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        else:
            image = Image.open(io.BytesIO(data), formats=ALLOWED_FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError("image_too_large", f"the picture has more than {max_pixels} pixels ({error})") from None
    except UnidentifiedImageError:
        message = f"this is not a picture of a kind that is read ({', '.join(ALLOWED_FORMATS)})"
        raise PictureError("image_undecodable", message) from None
    except Exception as error:  # Pillow raises whatever its parsers stumble over.
        raise PictureError("image_undecodable", f"the picture's header cannot be read: {error}") from None
    width, height = image.size
    if width * height > max_pixels:
        message = f"the picture is {width}x{height} pixels; more than {max_pixels} (data.max_pixels) are refused"
        raise PictureError("image_too_large", message)
    return image


def _decode(image: Image.Image, data: bytes) -> None:
    try:
        image.load()
    except Exception as error:  # As above.
        raise PictureError("image_undecodable", f"the {image.format} is broken: {error}") from None
    if (image.format == "PNG" and not _png_is_whole(data)) or (image.format == "JPEG" and not _jpeg_is_whole(data)):
        raise PictureError("image_undecodable", f"the {image.format} is broken: a part is missing, out of place or has a wrong checksum")


def _png_is_whole(data: bytes) -> bool:
    """Pillow passes over pixels that are missing and their checksums, and over chunks that are missing, unknown or out of order.

    TensorFlow stops there.
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
    """Returns how many bytes the rows of a PNG have, each with one for its filter."""
    width, height, depth, colour_type, interlaced = struct.unpack_from(">IIBBxxB", png, 16)
    bits = depth * _PNG_CHANNELS[colour_type]
    size = 0
    for x, y, step_x, step_y in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // step_x), -((y - height) // step_y)
        size += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    return size


def _unpacks(packed: bytes, size: int) -> bool:
    """Whether there are so many bytes in a zlib stream, and its end or more."""
    stream = zlib.decompressobj()
    try:
        # One byte more, so that it reads on to the checksum at the end.
        unpacked = stream.decompress(packed, size + 1)
    except zlib.error:
        return False
    return len(unpacked) > size or (len(unpacked) == size and stream.eof)


def _jpeg_is_whole(data: bytes) -> bool:
    """Pillow is content with a JPEG that has all its pixels; TensorFlow reads on to the marker that ends it."""
    position = 2
    while found := _JPEG_MARKER.search(data, position):
        if found[0] == b"\xff\xd9":
            return True
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return False


def _measure(pixels: np.ndarray) -> tuple[float, float, float]:
    """Returns brightness, contrast and sharpness, as Picture has them, of uint8 [H, W] or [H, W, 3]."""
    # A fifth of the time of NumPy's mean and std, and exact: all sums are whole numbers below 2**53.
    values = pixels.ravel().astype(np.float64)
    count, total, squares = values.size, int(values.sum()), int(values.dot(values))
    left, right = pixels[:, :-1], pixels[:, 1:]
    steps = np.maximum(left, right) - np.minimum(left, right)
    return total / count, math.sqrt(count * squares - total**2) / count, int(steps.sum()) / max(steps.size, 1)


def _is_plain(image: Image.Image, data: bytes) -> bool:
    if image.format == "JPEG":
        return image.mode in ("L", "RGB")
    # Pillow shows a 16-bit RGB PNG as RGB; bytes 24 and 25 are the bit depth and the colour type (0 grey, 2 RGB).
    return image.format == "PNG" and data[24] == 8 and data[25] in (0, 2) and not image.has_transparency_data


def _convert(image: Image.Image, data: bytes, background: tuple[int, int, int]) -> Image.Image:
    """Returns a picture of mode L or RGB."""
    if image.format == "PNG" and "transparency" in image.info and data[25] == 0:
        # Pillow has grey of 2 and 4 bits as 8, but the transparent one as it stands in the file.
        image.info["transparency"] *= {2: 85, 4: 17}.get(data[24], 1)
    if image.format == "PNG" and data[24] == 16 and png_chunk(data, b"tRNS") is not None:
        raise PictureError("image_mode", "the picture has 16 bits a channel and a transparent colour, which has no safe conversion")
    if image.format == "JPEG" and image.mode == "CMYK":
        # TensorFlow rounds otherwise than Pillow, and takes the values for inverted where Pillow does not, without an Adobe marker.
        raise PictureError("image_mode", "the JPEG is in CMYK, which programs turn into RGB in different ways; save it in RGB")
    return visible_pixels(image, background)


def visible_pixels(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Returns what the model gets of a decoded picture: one of mode L or RGB. `background` is what shows through transparent pixels.

    Raises:
      PictureError: `image_mode`.
    """
    if image.mode.startswith("I;16"):
        # The high byte, which is also what TensorFlow makes of a 16-bit PNG.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise PictureError("image_mode", f"the picture's mode is {image.mode}, which has no safe conversion to 8 bits a channel")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        flat = Image.new("RGB", image.size, background)
        flat.paste(layer, mask=layer.getchannel("A"))
        return flat
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _png(image: Image.Image) -> bytes:
    image.info = {}  # A CMYK colour profile, say, is no longer right.
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
