"""Pictures in memory: the same pictures as in a task's span, in a new order for each pass, each shifted by a few pixels.

Fits without TensorFlow take their pictures from here. Nothing is written to disk.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from components.base.features import SPLITS
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.painting import CaptchaPainter, SynthPlan
from components.data.splits import split_key, split_of
from pipeline.config.config import Config

_PART: Final = 1_000  # pictures that a process draws before it returns them


@dataclass(frozen=True)
class Split:
    """The pictures of one split, uint8 [N, height, width, channels], and their class ids, int32 [N, max_length]."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]


def draw(config: Config, count: int, workers: int) -> dict[str, Split]:
    """Draws the first `count` pictures of a configuration's seed in `workers` processes, and returns them by split.

    Pictures are drawn in colour, and their colour version decides the split, even if the model reads grey. The tasks of
    benchmarks/tasks.py that are read in grey and in colour do the same, so a picture is in the same split here and there.
    """
    drawn = config.synth.model_copy(update={"count": count, "shard_size": _PART})
    plan = SynthPlan(config.captcha.model_copy(update={"channels": 3}), drawn, config.data.splits.model_dump())
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(partial(_draw_part, plan, config.captcha), range(plan.shards)))
    return {split: _joined([part[split] for part in parts]) for split in SPLITS}


def _draw_part(plan: SynthPlan, spec: CaptchaSpec, part: int) -> dict[str, Split]:
    painter = CaptchaPainter(plan)
    drawn: dict[str, list[tuple[npt.NDArray[np.uint8], list[int]]]] = {split: [] for split in SPLITS}
    for index in range(part * plan.synth.shard_size, min((part + 1) * plan.synth.shard_size, plan.synth.count)):
        captcha = painter.paint(index)
        pixels = np.asarray(captcha.image if spec.channels == 3 else captcha.image.convert("L"))
        drawn[split_of(split_key(captcha.image), plan.splits)].append((pixels, spec.encode(captcha.label)))
    shape = (-1, spec.height, spec.width, spec.channels)
    return {
        split: Split(
            np.array([pixels for pixels, _ in pictures], np.uint8).reshape(shape),
            np.array([ids for _, ids in pictures], np.int32).reshape(-1, spec.max_length),
        )
        for split, pictures in drawn.items()
    }


def _joined(parts: Sequence[Split]) -> Split:
    return Split(np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts]))


def passes(count: int, images: int, seed: int) -> npt.NDArray[np.int32]:
    """Returns int32 [images]: indices below `count` in random order. Each occurs once before any is repeated."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(count).astype(np.int32) for _ in range(-(-images // count))])[:images]


def shifted(pixels: keras.KerasTensor, offsets: keras.KerasTensor, shift: int) -> keras.KerasTensor:
    """Shifts each image like `components.training.augmentations.shift.random_shift`, but by given offsets.

    Args:
      pixels: [N, H, W, C], H and W at least `shift`.
      offsets: int [2, N, 1], down and to the right, in [-shift, shift].
      shift: largest offset, in pixels.

    Returns:
      A tensor like `pixels`.
    """
    rows, columns = (
        # Pixels beyond an edge mirror the pixels inside it.
        ops.take(np.pad(np.arange(size), shift, "symmetric"), np.arange(size) + shift + offsets[axis])
        for axis, size in enumerate(pixels.shape[1:3])
    )
    moved = ops.take_along_axis(pixels, rows[:, :, np.newaxis, np.newaxis], axis=1)
    return ops.take_along_axis(moved, columns[:, np.newaxis, :, np.newaxis], axis=2)
