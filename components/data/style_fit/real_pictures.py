"""Reads a sample of the pictures in a folder, labelled or not, for `synth fit`."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from components.base.errors import CaptchaPipelineError
from components.data.pictures import PictureError, PictureRules, visible_picture
from components.data.sources.imported import MAX_FILE_BYTES
from components.data.sources.listing import regular_files
from components.data.style_fit.picture_features import Floats
from components.data.style_fit.style_estimates import jpeg_quality

LEAST: Final = 50  # pictures of the same size that a style needs
_MOST: Final = 400  # pictures that are read; more would only cost time
_LEAST_SIDE: Final = 16  # pixels
_MOST_PIXELS: Final = 60_000  # of a picture; a larger one hardly shows a short text, and the search would take hours
_SEED: Final = 25  # of the random choice of files


@dataclass(frozen=True)
class RealPictures:
    """N real pictures of one size, in random order.

    Attributes:
      pixels: float32 [N, height, width, 3], 0 to 255.
      names: the path of each file, relative to the folder.
      grey: whether all pictures are grey.
      quality: the commonest JPEG quality, 10 to 95; None if files of other formats are more frequent than any quality.
      left_out: the number of files that were not taken, by reason.
    """

    pixels: Floats
    names: tuple[str, ...]
    grey: bool
    quality: int | None
    left_out: Counter[str]


def read_sample(folder: Path, rules: PictureRules, on_file: Callable[[int, int], None] = lambda done, total: None) -> RealPictures:
    """Reads at most 400 random pictures of a folder and its subfolders, and returns those with the commonest size.

    Args:
      folder: links that lead out of it are not followed.
      rules: how pictures are decoded.
      on_file: called after each decoded picture with the number of pictures so far and the number that will be read at most.

    Raises:
      CaptchaPipelineError: the folder does not exist, fewer than 50 pictures have the commonest size, or that size is too small or too
        large.
    """
    left_out: Counter[str] = Counter()
    files = list(regular_files(folder, lambda reason, name: left_out.update([reason])))
    random.Random(_SEED).shuffle(files)  # noqa: S311
    found: list[tuple[str, Image.Image, int | None]] = []
    for path, name in files:
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise PictureError("image_too_large", f"the file has more than {MAX_FILE_BYTES:,} bytes")
            image = visible_picture(data, rules)
        except (OSError, PictureError) as error:
            left_out[getattr(error, "reason", "it cannot be read")] += 1
            continue
        found.append((name, image, jpeg_quality(image)))
        on_file(len(found), min(_MOST, len(files)))
        if len(found) == _MOST:
            break
    sizes = Counter(image.size for _, image, _ in found)
    size = max(sizes, key=lambda size: (sizes[size], size), default=(0, 0))
    chosen = [item for item in found if item[1].size == size]
    if len(found) > len(chosen):
        left_out[f"it does not have the commonest size, {size[0]}x{size[1]}"] = len(found) - len(chosen)
    if len(chosen) < LEAST:
        reasons = "".join(f"\n  {count:,} left out: {reason}" for reason, count in left_out.most_common())
        of_size = f" of the commonest size, {size[0]}x{size[1]}" if len(sizes) > 1 else ""
        raise CaptchaPipelineError(
            f"{folder} has {len(chosen)} usable pictures{of_size}. At least {LEAST} usable pictures of one size are needed.{reasons}"
        )
    if min(size) < _LEAST_SIDE or size[0] * size[1] > _MOST_PIXELS:
        raise CaptchaPipelineError(
            f"The pictures in {folder} have {size[0]}x{size[1]} pixels. They must be at least {_LEAST_SIDE} pixels wide and high, and have "
            f"at most {_MOST_PIXELS:,} pixels in all. Resize them first."
        )
    qualities = Counter(quality for _, _, quality in chosen)
    return RealPictures(
        pixels=np.stack([np.asarray(image.convert("RGB"), np.float32) for _, image, _ in chosen]),
        names=tuple(name for name, _, _ in chosen),
        grey=all(_is_grey(image) for _, image, _ in chosen),
        quality=qualities.most_common(1)[0][0],
        left_out=left_out,
    )


def _is_grey(image: Image.Image) -> bool:
    return image.mode == "L" or all(band.tobytes() == image.getchannel(0).tobytes() for band in image.split()[1:])
