"""An exported ONNX model: from encoded pictures to texts."""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from captcha_read.manifest import ExportError, Manifest, load_manifest
from captcha_read.pictures import PictureError, Pixels, pixels_of

_MAX_BYTES: Final = 2**31 - 1  # the limit of an ONNX file
_BATCH: Final = 64
_SMALLEST: Final = 2.0**-126  # the smallest normal float32: a softmax may give less, or 0


@dataclass(frozen=True)
class Reading:
    """The reading of one picture.

    Attributes:
      text: the most probable text; "" if the picture was refused.
      confidence: the probability of the text, 0 to 1; 0 if the picture was refused.
      position_confidence: the probability of the class read at each position, [max_length]; the product is the confidence.
      error: why the picture was refused; "" if it was read.
    """

    text: str
    confidence: float
    position_confidence: tuple[float, ...]
    error: str = ""


class Model:
    """A model and its manifest.

    Attributes:
      manifest: what the model reads, and how.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 0):
        """Loads a model.

        Args:
          path: of the file, such as model.onnx, with the manifest in the same folder.
          threads: of one call; 0 for one per core that this process may use.

        Raises:
          ExportError: the model or its manifest is missing, damaged or changed.
        """
        path = Path(path)
        self.manifest = load_manifest(path.parent)
        if path.name != self.manifest.file:
            raise ExportError(f"{path} is not the file that the manifest beside it describes, which is {self.manifest.file}.")
        model = _checked(path, self.manifest.sha256)
        # Here, because its import takes longer than all checks.
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or _cores()
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            (given,), (answer,) = self._session.get_inputs(), self._session.get_outputs()
        except Exception as error:  # ONNX Runtime raises exceptions of many types.
            raise ExportError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}") from None
        shapes = given.shape[1:], answer.shape[1:]
        wanted = [self.manifest.height, self.manifest.width, self.manifest.channels], [self.manifest.max_length, self.manifest.num_classes]
        if shapes != wanted:
            raise ExportError(f"{path} turns {shapes[0]} into {shapes[1]}; by its manifest, {wanted[0]} into {wanted[1]}. Export it again.")
        self._given, self._answer = given.name, answer.name

    def probabilities(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Returns float32 [N, max_length, num_classes] of pixels, uint8 [N, height, width, channels]."""
        (found,) = self._session.run([self._answer], {self._given: pixels})
        return np.asarray(found)

    def read(self, pictures: Iterable[bytes]) -> Iterator[Reading]:
        """Yields one reading per encoded picture, in order. A refused picture does not affect the others."""
        remaining = iter(pictures)
        while batch := list(itertools.islice(remaining, _BATCH)):
            decoded = [self._decoded(data) for data in batch]
            good = [pixels for pixels in decoded if not isinstance(pixels, str)]
            found = iter(readings(self.probabilities(np.stack(good)), self.manifest) if good else ())
            for pixels in decoded:
                yield Reading("", 0.0, (), pixels) if isinstance(pixels, str) else next(found)

    def _decoded(self, data: bytes) -> Pixels | str:
        """Returns the pixels of a picture, or why it is refused."""
        try:
            return pixels_of(data, self.manifest)
        except PictureError as error:
            return str(error)


def _cores() -> int:
    """Returns how many cores this process may use. ONNX Runtime itself would start a thread for each core of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked(path: Path, sha256: str) -> bytes:
    """Returns the content of the file."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)
    except OSError as error:
        raise ExportError(f"Cannot read {path}: {error.strerror}.") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ExportError(f"{path} has changed: its SHA-256 is not that of the manifest beside it. Export the model again.")
    return content


def readings(probabilities: npt.NDArray[np.float32], manifest: Manifest) -> list[Reading]:
    """Reads the most probable text that is allowed: first `min_length` or more characters, then blanks.

    The positions are independent, so that at each position only the best character is possible, and the sum of the logarithms shows the
    best length. Of equally probable lengths the shortest is chosen.

    Args:
      probabilities: float32 [N, max_length, num_classes].
      manifest: of the model.
    """
    values = probabilities.astype(np.float64)
    classes = values[..., : len(manifest.characters)]
    ids, chosen = classes.argmax(-1), classes.max(-1)
    lengths = np.full(len(values), manifest.max_length)
    if manifest.min_length < manifest.max_length:
        blanks = values[..., -1]
        gains = np.log(np.maximum(chosen, _SMALLEST)) - np.log(np.maximum(blanks, _SMALLEST))
        totals = np.cumsum(gains[:, manifest.min_length :], axis=-1)
        lengths = manifest.min_length + np.where(totals.max(-1) > 0, totals.argmax(-1) + 1, 0)
        chosen = np.where(np.arange(manifest.max_length) < lengths[:, np.newaxis], chosen, blanks)
    texts = ["".join(manifest.characters[i] for i in row[:length]) for row, length in zip(ids.tolist(), lengths.tolist(), strict=True)]
    return [
        # In float32, like the SavedModel.
        Reading(text, float(np.float32(row.prod())), tuple(row.tolist()))
        for text, row in zip(texts, chosen, strict=True)
    ]
