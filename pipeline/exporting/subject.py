"""What an export is made from: a pushed version, and pictures of the training split."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt

from captcha_read.manifest import Manifest
from captcha_read.model import Reading
from captcha_read.pictures import PictureError, Pixels, pixels_of
from components.base.errors import CaptchaPipelineError
from components.base.features import BACKGROUND, MAX_PIXELS, PIXEL_MEAN, PIXEL_STD, SPLITS
from components.data.captcha_spec import CaptchaSpec
from components.serving.serving_dir import Pushed, version_at
from components.training.warm_start import UnreadableBase, load_base
from pipeline.config.config import Config
from pipeline.inference.evaluation import good_records

# From pixels, uint8 [N, height, width, channels], to probabilities, float32 [N, max_length, num_classes].
Probabilities = Callable[[Pixels], npt.NDArray[np.float32]]
# From encoded pictures to their readings, and the probabilities of each, float32 [max_length, num_classes]; those of a refused picture are
# empty.
PictureReader = Callable[[Sequence[bytes]], list[tuple[Reading, npt.NDArray[np.float32]]]]
_RECORDED: Final = (PIXEL_MEAN, PIXEL_STD, MAX_PIXELS, BACKGROUND)


@dataclass(frozen=True)
class Subject:
    """A version to export.

    Attributes:
      name: of the pipeline.
      version: its number, its folder, and what is written about it.
      spec: what it reads.
      model: the Keras model, float32, with the temperature in its heads. Input: normalised pixels. Output: logits.
      mean, std: of the pixel values, 0 to 255; the model gets (pixel - mean) / std.
      sample: returns at most the given number of pictures of the training split, uint8 [n, height, width, channels].
    """

    name: str
    version: Pushed
    spec: CaptchaSpec
    model: keras.Model
    mean: float
    std: float
    sample: Callable[[int], Pixels]


def load_version(folder: Path) -> tuple[Pushed, keras.Model]:
    """Returns the version in a folder and its Keras model.

    Raises:
      CaptchaPipelineError: the folder is not a version, cannot be read, or an earlier release made it.
    """
    version = version_at(folder)
    if version is None:
        raise CaptchaPipelineError(f"{folder} is not a version of a serving folder: a folder with a number for its name, and a SavedModel.")
    try:
        base = load_base(folder)
    except UnreadableBase as error:
        raise CaptchaPipelineError(f"The model in {folder} cannot be read: {error}.") from None
    missing = [key for key in _RECORDED if key not in version.about]
    if missing or base is None:
        raise CaptchaPipelineError(
            f"An earlier release made version {version.version}: its captcha.json does not have {', '.join(missing)}, which an export "
            "needs. Train it again with `captcha-pipeline retrain --force`."
        )
    return version, base.model


def subject_of(config: Config, version: Pushed, model: keras.Model, manifest: Manifest) -> Subject:
    """Returns what an export is made from.

    Args:
      config: of the pipeline, which names the training split.
      version, model: from `load_version`.
      manifest: of the export, which has the rules for pictures.
    """
    about: dict[str, Any] = version.about
    spec = CaptchaSpec.model_validate(about["spec"])

    def sample(count: int) -> Pixels:
        window = config.data.read_window()
        # As many of each span, because the pictures of spans may differ.
        each = -(-count // len(window.spans))
        parts = (itertools.islice(good_records(config, SPLITS[0], window.only(span), spec), each) for span in window.spans)
        pictures = (_decoded(data, manifest) for data, _ in itertools.chain.from_iterable(parts))
        return np.stack(list(itertools.islice((pixels for pixels in pictures if pixels is not None), count)))

    return Subject(config.name, version, spec, model, about[PIXEL_MEAN], about[PIXEL_STD], sample)


def _decoded(data: bytes, manifest: Manifest) -> Pixels | None:
    try:
        return pixels_of(data, manifest)
    except PictureError:
        return None
