"""Lists the pictures of a folder. A hash of the visible pixels identifies a picture, so renamed files and copies are recognised."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.pictures import PictureError, PictureRules, visible_picture
from components.data.sources.imported import read_entry
from components.data.sources.index import Progress
from components.data.sources.listing import Entry, regular_files
from components.data.sources.outcome import Imported
from components.data.splits import split_key, split_of

_THUMBNAIL: Final = (16, 8)  # width and height


@dataclass
class Catalogue:
    """The N different pictures of a folder that a model can read.

    Attributes:
      folder: the folder.
      entries: a file for each picture, in the order of the file names.
      keys: the key of each picture, see components/data/splits.py.
      embeddings: float32 [N, 128], from `embedding`.
      copies: the number of files that have the same pixels as an earlier file.
      left_out: has the files that are not usable pictures, by reason.
    """

    folder: Path
    entries: list[Entry] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    embeddings: npt.NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    copies: int = 0
    left_out: Imported = field(default_factory=Imported)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def broken(self) -> int:
        """The number of files that are not usable pictures."""
        return sum(self.left_out.left_out.values())

    def splits(self, shares: Mapping[str, int]) -> list[str]:
        """Returns the split of each picture, from its key alone.

        `data import` chooses the same split, unless the picture looks like a picture in a span.

        Args:
          shares: the relative size of each split.
        """
        return [split_of(key, shares) for key in self.keys]

    def read(self, index: int, result: Imported) -> bytes | None:
        """Returns the bytes of a picture's file; None, with a note in `result`, if the file cannot be read any more."""
        return read_entry(self.entries[index], result)


def scan(folder: Path, spec: CaptchaSpec, rules: PictureRules, progress: Progress | None = None) -> Catalogue:
    """Reads the pictures in a folder and its subfolders once, one at a time. Hidden files are left out.

    Args:
      folder: links that lead out of it are not followed.
      spec: gives the only size that is accepted if the rules refuse pictures of other sizes.
      rules: how pictures are decoded.
      progress: called before each file is read.

    Raises:
      CaptchaPipelineError: the folder does not exist, or has no usable picture.
    """
    found = Catalogue(folder)
    files = list(regular_files(folder, found.left_out.leave_out))
    seen, embeddings = set[bytes](), list[npt.NDArray[np.float32]]()
    for done, (path, name) in enumerate(files, start=1):
        if progress:
            progress("Looking at the pictures", done, len(files))
        entry = Entry(path, name, "")
        if (data := read_entry(entry, found.left_out)) is None:
            continue
        try:
            picture = visible_picture(data, rules)
        except PictureError as error:
            found.left_out.leave_out(error.reason, f"{name} ({error})")
            continue
        if rules.wrong_size == "refuse" and picture.size != (spec.width, spec.height):
            found.left_out.leave_out("image_size", f"{name} ({picture.width}x{picture.height} pixels)")
            continue
        key = split_key(picture)
        if key in seen:
            found.copies += 1
            continue
        seen.add(key)
        found.entries.append(entry)
        found.keys.append(key)
        embeddings.append(embedding(picture))
    if not embeddings:
        raise CaptchaPipelineError(f"{folder} has no usable picture.\n{found.left_out.describe() or 'The folder is empty.'}")
    found.embeddings = np.stack(embeddings)
    return found


def embedding(picture: Image.Image) -> npt.NDArray[np.float32]:
    """Returns a vector that describes a picture: float32 [128] of length 1, or all zeros for a picture of one colour.

    The distance of two vectors says how different the pictures are. The vector is a thumbnail of 16x8 grey pixels, minus its mean and
    divided by its length, so that brightness and contrast do not count.

    Args:
      picture: of mode L or RGB.
    """
    pixels = np.asarray(picture.convert("L").resize(_THUMBNAIL, Image.Resampling.BOX), np.float32).ravel()
    pixels -= pixels.mean()
    length = float(np.linalg.norm(pixels))
    return pixels / length if length else pixels
