"""Where a picture lies on the model's canvas, and what the columns of the model's map show of it."""

from dataclasses import dataclass

import numpy as np

from components.data.captcha_spec import CaptchaSpec


@dataclass(frozen=True)
class Box:
    """A part of the canvas, in pixels."""

    left: int
    top: int
    width: int
    height: int


def place(width: int, height: int, spec: CaptchaSpec) -> Box:
    """Returns the part of the model's canvas that a picture covers, as `decode_picture` in components/data/decoding.py resizes it.

    Args:
      width, height: of the upright picture, in pixels; see `upright_size` in components/data/pictures.py.
      spec: gives the size of the canvas, and the fit.
    """
    if spec.fit == "stretch":
        return Box(0, 0, spec.width, spec.height)
    # Rounded half up, as in `_pad` of decoding.py.
    fitted_height = min(max((2 * height * spec.width + width) // (2 * width), 1), spec.height)
    fitted_width = min(max((2 * width * spec.height + height) // (2 * height), 1), spec.width)
    return Box((spec.width - fitted_width) // 2, (spec.height - fitted_height) // 2, fitted_width, fitted_height)


def on_picture(attention: np.ndarray, box: Box, spec: CaptchaSpec) -> tuple[np.ndarray, np.ndarray]:
    """Returns the columns that show a picture, and the attention that they got.

    A column that shows the picture's side and the margin beside it is cut there, and gets the share of its width.

    Args:
      attention: float [positions, columns], over all columns of the model's map.
      box: what the picture covers of the canvas.
      spec: gives the size of the canvas.

    Returns:
      The edges of the columns, ascending from 0, the left side of the picture, to 1, its right side: float64 [k + 1]. And the attention,
      float64 [positions, k]. Its sum over the columns is at most 1; the rest is on the margins.
    """
    columns = attention.shape[1]
    # Each patch or pooling halves the width and rounds it up, so the last column may extend over the end of the canvas.
    stride = next(2**power for power in range(12) if -(-spec.width // 2**power) <= columns)
    edges = (stride * np.arange(columns + 1) - box.left) / box.width
    cut = np.clip(edges, 0, 1)
    share = np.diff(cut) / np.diff(edges)
    shown = share > 0
    return np.append(cut[:-1][shown], 1.0), (attention * share)[:, shown]
