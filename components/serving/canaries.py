"""Canaries: pictures with known readings inside a version. A server reads them before it lets the version answer requests."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from components.base.errors import CaptchaPipelineError
from components.base.features import CANARIES_FILE, TEXT, VALID

if TYPE_CHECKING:
    from components.serving.loaded import LoadedModel

COUNT: Final = 8


@dataclass(frozen=True)
class Canary:
    """An encoded picture, and the text that the model read in it when it was exported."""

    picture: bytes
    text: str


def write_canaries(folder: Path, canaries: Sequence[Canary]) -> None:
    """Writes canaries into the folder assets.extra of a SavedModel, as JSON: a list of objects with `b64`, a PNG, and `text`."""
    content = [{"b64": base64.b64encode(canary.picture).decode(), "text": canary.text} for canary in canaries]
    (folder / CANARIES_FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_canaries(version: Path) -> list[Canary]:
    """Returns the canaries of a version; [] if it has none, because an earlier release exported it.

    Raises:
      CaptchaPipelineError: the file is damaged.
    """
    file = version / "assets.extra" / CANARIES_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return [Canary(base64.b64decode(canary["b64"], validate=True), canary["text"]) for canary in content]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaptchaPipelineError(f"{file} is damaged: {error}.") from None


def check_canaries(model: "LoadedModel", version: Path) -> None:
    """Checks that a loaded model reads its canaries as it did when it was exported.

    Raises:
      CaptchaPipelineError: it does not, or the file of the canaries is damaged.
      ValueError, tf.errors.OpError: the model does not answer.
    """
    canaries = read_canaries(version)
    answer = model.call("serving_default", [canary.picture for canary in canaries])
    for canary, text, valid in zip(canaries, answer[TEXT], answer[VALID], strict=True):
        if not valid or text.decode() != canary.text:
            read = f"reads {text.decode()!r}" if valid else "cannot decode the picture"
            raise CaptchaPipelineError(f"{version} {read} where it read {canary.text!r} when it was exported.")
