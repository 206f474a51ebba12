"""The file manifest.json beside an exported model: what a reader must know. docs/how-to/exports.md explains its keys."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

MANIFEST: Final = "manifest.json"
FORMAT_VERSION: Final = 1
_MAX_BYTES: Final = 4 * 2**20


class ExportError(Exception):
    """An exported model that cannot be used. The message says why, and what to do."""


@dataclass(frozen=True)
class Manifest:
    """What a reader needs of a manifest.

    Attributes:
      file: the name of the model's file, in the folder of the manifest.
      sha256: of that file, in hexadecimal.
      characters: by class. The class after the last character, if there is one, is the blank.
      min_length, max_length: of a text, in characters. If they differ, there is a blank.
      width, height, channels: of the pixels that the model gets; channels is 3 (RGB) or 1 (grey).
      fit: how a picture of another size is resized; "pad" keeps its aspect ratio.
      wrong_size: whether a picture of another size is resized or refused.
      max_pixels: larger pictures are refused before they are decoded.
      background: the colour of transparent pixels, RGB, 0 to 255.
      content: the whole manifest.
    """

    file: str
    sha256: str
    characters: tuple[str, ...]
    min_length: int
    max_length: int
    width: int
    height: int
    channels: int
    fit: Literal["pad", "stretch"]
    wrong_size: Literal["resize", "refuse"]
    max_pixels: int
    background: tuple[int, int, int]
    content: Mapping[str, Any]

    @property
    def num_classes(self) -> int:
        """The number of classes of each position, including the blank."""
        return len(self.characters) + (self.min_length < self.max_length)


def load_manifest(folder: Path) -> Manifest:
    """Reads the manifest in a folder.

    Raises:
      ExportError: it is missing, damaged, or of a release that this one does not know.
    """
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_BYTES))
        if (found := content["format_version"]) != FORMAT_VERSION:
            raise ExportError(
                f"{path} has the format version {found}; this release reads version {FORMAT_VERSION}. Export the model again."
            )
        return _manifest(content)
    except OSError as error:
        raise ExportError(f"Cannot read {path}: {error.strerror}. The manifest must be in the folder of the model.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path} is damaged ({type(error).__name__}: {error}). Export the model again.") from None


def _manifest(content: Mapping[str, Any]) -> Manifest:
    text, picture = content["text"], content["picture"]
    manifest = Manifest(
        file=str(content["file"]),
        sha256=str(content["sha256"]),
        characters=tuple(map(str, text["characters"])),
        min_length=int(text["min_length"]),
        max_length=int(text["max_length"]),
        width=int(picture["width"]),
        height=int(picture["height"]),
        channels=int(picture["channels"]),
        fit=picture["fit"],
        wrong_size=picture["wrong_size"],
        max_pixels=int(picture["max_pixels"]),
        background=_colour(picture["background"]),
        content=content,
    )
    if Path(manifest.file).name != manifest.file:
        raise ValueError(f"file is {manifest.file!r}, which is not the name of a file")
    if not 1 <= manifest.min_length <= manifest.max_length <= 64:
        raise ValueError(f"the texts have {manifest.min_length} to {manifest.max_length} characters")
    if manifest.channels not in (1, 3) or not all(1 <= side <= 2048 for side in (manifest.width, manifest.height)):
        raise ValueError(f"the pixels are {manifest.width} x {manifest.height} x {manifest.channels}")
    if manifest.fit not in ("pad", "stretch") or manifest.wrong_size not in ("resize", "refuse"):
        raise ValueError(f"fit is {manifest.fit!r} and wrong_size is {manifest.wrong_size!r}")
    return manifest


def _colour(values: Any) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"background is {values}")
    return red, green, blue
