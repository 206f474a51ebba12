"""Resizes pixels exactly as `tf.image.resize(…, antialias=True)`: bilinearly, with a triangle kernel that is as wide as a step.

The arithmetic and its order follow TensorFlow's operation ScaleAndTranslate, in float32, because another order rounds differently:
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/kernels/image/scale_and_translate_op.cc
"""

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
_ONE = np.float32(1)
_HALF = np.float32(0.5)


def pad(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resizes to the largest size with the same aspect ratio and centres the picture. The margins have the mean colour of its border.

    Args:
      pixels: uint8 [H, W, C].
      height, width: of the result.
    """
    own_height, own_width, _ = pixels.shape
    fitted_height = min(max((2 * own_height * width + own_width) // (2 * own_width), 1), height)
    fitted_width = min(max((2 * own_width * height + own_height) // (2 * own_height), 1), width)
    fitted = resize(pixels, fitted_height, fitted_width)
    border = np.concatenate([fitted[0], fitted[-1], fitted[:, 0], fitted[:, -1]])
    colour = np.rint(border.sum(axis=0, dtype=np.int64).astype(np.float32) / np.float32(len(border))).astype(np.uint8)
    above, before = (height - fitted_height) // 2, (width - fitted_width) // 2
    padded = np.tile(colour, (height, width, 1))
    padded[above : above + fitted_height, before : before + fitted_width] = fitted
    return padded


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resizes pixels, uint8 [H, W, C], to uint8 [height, width, C]."""
    rows = _gathered(pixels.astype(np.float32), height)
    resized = _gathered(rows.transpose(1, 0, 2), width).transpose(1, 0, 2)
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


def _gathered(values: Floats, size: int) -> Floats:
    """Resizes the first axis of float32 [n, …] to `size`."""
    starts, weights = _spans(len(values), size)
    found = np.zeros((size, *values.shape[1:]), np.float32)
    for place, weight in enumerate(weights.T):
        source = np.minimum(starts + place, len(values) - 1)  # beyond the end, the weight is 0
        found += weight[:, np.newaxis, np.newaxis] * values[source]
    return found


def _spans(before: int, after: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Returns the first value that each result needs, int64 [after], and the weights of it and of the next values, float32 [after, n]."""
    step = _ONE / (np.float32(after) / np.float32(before))
    reach = np.maximum(step, _ONE)
    centres = (np.arange(after, dtype=np.float32) + _HALF) * step
    starts = np.clip(np.ceil(centres - reach - _HALF).astype(np.int64), 0, before - 1)
    ends = np.clip(np.floor(centres + reach - _HALF).astype(np.int64), 0, before - 1) + 1
    sources = starts[:, np.newaxis] + np.arange((ends - starts).max())
    distances = np.abs((sources.astype(np.float32) + _HALF - centres[:, np.newaxis]) * (_ONE / reach))
    weights = np.where((sources < ends[:, np.newaxis]) & (distances < _ONE), _ONE - distances, np.float32(0))
    totals = np.zeros(after, np.float32)
    for weight in weights.T:  # `sum` would add in another order
        totals += weight
    weights = weights * (_ONE / totals)[:, np.newaxis]
    # TensorFlow takes no value whose centre is beyond the picture, which rounding can cause.
    weights[centres > before] = 0
    return starts, weights
