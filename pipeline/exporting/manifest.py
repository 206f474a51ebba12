"""The manifest of an export: everything that a program in another language needs to read pictures with the model's file.

docs/how-to/exports.md explains the keys. `captcha_read.manifest` reads them.
"""

import importlib.metadata
from typing import Any, Final

from captcha_read.manifest import FORMAT_VERSION
from components.base.features import BACKGROUND, MAX_PIXELS, PIXELS, PROBABILITIES, WRONG_SIZE
from components.data.captcha_spec import CaptchaSpec
from components.serving.serving_dir import Pushed

_DECODE: Final = (
    "Decode the PNG or JPEG to RGB with 8 bits per channel; of 16 bits, keep the high byte. A JPEG is decoded with the accurate "
    "integer DCT and the usual (fancy) upsampling. Put transparent pixels over the background: (colour * alpha + background * (255 - "
    "alpha) + 127) // 255. Then turn the picture upright by its EXIF orientation."
)
_REFUSED: Final = (
    "Before decoding: more than max_pixels pixels by the header. Also: what is neither PNG nor JPEG, broken files (also checksums "
    "and missing ends), animated PNGs, PNGs with 16 bits per channel and a transparent colour, JPEGs in CMYK, and, if wrong_size is "
    "refuse, upright pictures of another size than width x height."
)
_GREY: Final = "If channels is 1: (19595 * R + 38470 * G + 7471 * B + 32768) >> 16."
_RESIZE: Final = (
    "If the upright size (h, w) is not (height, width). stretch: resize to (height, width). pad: resize to (H, W) with H = clip((2 * "
    "h * width + w) // (2 * w), 1, height) and W = clip((2 * w * height + h) // (2 * h), 1, width), and put the result at row "
    "(height - H) // 2 and column (width - W) // 2 of a picture with one colour: the mean of the resized picture's first row, last "
    "row, first column and last column together, rounded half to even. To resize: bilinear with antialiasing, in float32, first "
    "along the height, then along the width, without rounding in between. From n values to m: step = 1 / (m / n), reach = max(step, "
    "1), and result i has the centre c = (i + 0.5) * step. Value j has the weight max(0, 1 - abs((j + 0.5 - c) * (1 / reach))), for "
    "j from ceil(c - reach - 0.5) to floor(c + reach - 0.5), both clipped to 0 and n - 1. Divide the weights by their sum. At the "
    "end round half to even, and clip to 0 and 255. This is tf.image.resize with antialias=True."
)
_TEXT: Final = (
    "Row i of the probabilities is the distribution over the classes at position i. Class k is characters[k]; blank_id, if there is "
    "one, means no character at this position. Without blank_id: the text is the most probable character at each position. With "
    "blank_id: at each position take the most probable character, with probability p, and the probability b of the blank. The text "
    "has the n characters, min_length <= n <= max_length, that maximise the product of p over the first n positions and b over the "
    "others; of equal products, the shortest. Use logarithms, and at least 2 ** -126 for p and b. The confidence is that product."
)


def manifest_of(version: Pushed, format_name: str, int8: bool, file: str, sha256: str) -> dict[str, Any]:
    """Returns the manifest of an export, without its proof, as JSON values.

    Args:
      version: the version that is exported.
      format_name: such as "onnx".
      int8: whether the model has weights of 8 bits.
      file: the name of the model's file.
      sha256: of that file, in hexadecimal.
    """
    about, spec = version.about, CaptchaSpec.model_validate(version.about["spec"])
    return {
        "format_version": FORMAT_VERSION,
        "format": format_name,
        "int8": int8,
        "file": file,
        "sha256": sha256,
        "version": version.original,
        "recipe": version.recipe,
        "fingerprint": version.fingerprint,
        "made_by": f"captcha-pipeline {importlib.metadata.version('captcha-pipeline')}",
        "input": {"name": PIXELS, "type": "uint8", "shape": ["N", spec.height, spec.width, spec.channels]},
        "output": {"name": PROBABILITIES, "type": "float32", "shape": ["N", spec.max_length, spec.num_classes]},
        "picture": {
            "formats": ["PNG", "JPEG"],
            "width": spec.width,
            "height": spec.height,
            "channels": spec.channels,
            "fit": spec.fit,
            "wrong_size": about[WRONG_SIZE],
            "max_pixels": about[MAX_PIXELS],
            "background": about[BACKGROUND],
            "rules": {"refused": _REFUSED, "decode": _DECODE, "grey": _GREY, "resize": _RESIZE},
        },
        "text": {
            "characters": list(spec.characters),
            "blank_id": spec.blank_id,
            "min_length": spec.min_length,
            "max_length": spec.max_length,
            "case_sensitive": spec.case_sensitive,
            "rule": _TEXT,
        },
    }
