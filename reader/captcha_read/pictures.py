"""From the bytes of a PNG or JPEG to the pixels that the model gets, by the rules of the SavedModel."""

import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import JpegImagePlugin, PngImagePlugin

from captcha_read.headers import JPEG_SIGNATURE, PNG_SIGNATURE, jpeg_is_whole, orientation, png_chunk, png_is_whole
from captcha_read.manifest import Manifest
from captcha_read.resizing import pad, resize

Pixels = npt.NDArray[np.uint8]
# ITU-R 601 luma in units of 1/65536, as in Pillow.
_LUMA: Final = np.array([19595, 38470, 7471])


class PictureError(ValueError):
    """A picture that is refused. The message says why."""


def pixels_of(data: bytes, manifest: Manifest) -> Pixels:
    """Decodes a PNG or JPEG to the input of the model.

    Args:
      data: the bytes of the file.
      manifest: of the model; its `picture` has the rules.

    Returns:
      uint8 [height, width, channels].

    Raises:
      PictureError: the picture is too large, not decodable, animated, of a mode without a safe conversion, or of a wrong size if the
        manifest refuses that.
    """
    pixels = visible_pixels(data, manifest.max_pixels, manifest.background)
    height, width = pixels.shape[:2]
    is_other = (height, width) != (manifest.height, manifest.width)
    if is_other and manifest.wrong_size == "refuse":
        raise PictureError(f"the picture is {width}x{height} pixels, not {manifest.width}x{manifest.height}")
    if manifest.channels == 1:
        pixels = (((pixels.astype(np.int32) * _LUMA).sum(axis=-1, keepdims=True) + 32768) >> 16).astype(np.uint8)
    if is_other:
        pixels = {"pad": pad, "stretch": resize}[manifest.fit](pixels, manifest.height, manifest.width)
    return pixels


def visible_pixels(data: bytes, max_pixels: int, background: tuple[int, int, int]) -> Pixels:
    """Decodes a PNG or JPEG as a viewer shows it: turned by its EXIF orientation, with transparent pixels over the background.

    Of a JPEG with several pictures, the first is decoded.

    Returns:
      uint8 [H, W, 3].

    Raises:
      PictureError: as for `pixels_of`.
    """
    image = _opened(data, max_pixels)
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise exceptions of many types.
        raise PictureError(f"the {image.format} is broken: {error}") from None
    if not (png_is_whole(data) if image.format == "PNG" else jpeg_is_whole(data)):
        raise PictureError(f"the {image.format} is broken: a part is missing, misplaced or has a wrong checksum")
    pixels = _flat(image, data, background)
    # An EXIF orientation gives the sides of the upright picture where the first stored row and the first stored column are.
    turn = orientation(data)
    if turn >= 5:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels[:: -1 if turn in (3, 4, 7, 8) else 1, :: -1 if turn in (2, 3, 6, 7) else 1])


def _opened(data: bytes, max_pixels: int) -> Any:
    """Reads the header of a picture, and checks everything that can be checked before the pixels are decoded."""
    plugins = {PNG_SIGNATURE: PngImagePlugin.PngImageFile, JPEG_SIGNATURE: JpegImagePlugin.JpegImageFile}
    plugin = next((plugin for signature, plugin in plugins.items() if data.startswith(signature)), None)
    if plugin is None:
        raise PictureError("the file is neither a PNG nor a JPEG" if data else "the picture has no bytes")
    try:
        image = plugin(io.BytesIO(data))
    except Exception as error:  # Pillow's parsers raise exceptions of many types.
        raise PictureError(f"the picture's header cannot be read: {error}") from None
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError(f"the picture is {width}x{height} pixels, more than the limit of {max_pixels}")
    if image.format == "PNG" and (getattr(image, "is_animated", False) or png_chunk(data, b"acTL") is not None):
        raise PictureError("the PNG is animated; a picture must have one frame")
    if image.format == "PNG" and data[24] == 16 and png_chunk(data, b"tRNS") is not None:
        raise PictureError("the picture has 16 bits per channel and a transparent colour, which has no safe conversion")
    if image.mode == "CMYK":
        raise PictureError("the JPEG is in CMYK, which programs convert to RGB in different ways; save it in RGB")
    return image


def _flat(image: Any, data: bytes, background: tuple[int, int, int]) -> Pixels:
    """Returns uint8 [H, W, 3], not yet turned."""
    if image.mode.startswith("I"):  # 16-bit grey; other 16-bit PNGs already have the high byte only
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., np.newaxis], 3, axis=-1)
    if image.mode == "P" and len(png_chunk(data, b"tRNS") or b"") > len(png_chunk(data, b"PLTE") or b"") // 3:
        del image.info["transparency"]  # not valid for so few colours; the SavedModel ignores it too
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    if "transparency" in image.info and data[25] == 0:
        # Pillow scales 2-bit and 4-bit grey to 8 bits, but leaves the transparent grey as it is in the file.
        image.info["transparency"] *= {2: 85, 4: 17}.get(data[24], 1)
    layer = np.asarray(image.convert("RGBA")).astype(np.int32)
    colour, alpha = layer[..., :3], layer[..., 3:]
    return ((colour * alpha + np.array(background) * (255 - alpha) + 127) // 255).astype(np.uint8)
