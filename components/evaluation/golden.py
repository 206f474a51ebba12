"""The golden set, picture by picture: which pictures a model misreads, and which pushed model has read the set best. No TensorFlow.

The Evaluator writes a GoldenReading beside its blessing. A push records it in the serving folder, and LatestPushedModel passes the best
reading to the Evaluator of the next model. This stops a series of models that are each slightly worse than the one before. Each content
of the golden set has its own record: if the configuration names a different span, or the pictures of the span have changed, the first
model that is pushed is the best so far.
"""

import collections
import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from components.base.errors import CaptchaPipelineError
from components.base.files import write_whole
from components.evaluation.gate import BestSoFar, Comparison
from components.evaluation.metrics import wilson_interval

RECORD: Final = ".golden.json"  # in the serving folder; TensorFlow Serving ignores names that are not numbers
_DIGEST_BYTES: Final = 8
# The best model, and the best without it, because a rerun of the best model must find what its first run found.
_BEST_KEPT: Final = 2


class GoldenReading(BaseModel):
    """How a model reads a golden set. `content` identifies the pictures of the set, `misread` are the digests of the misread ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: str
    pictures: int
    misread: tuple[str, ...]


class Best(GoldenReading):
    """The reading of the best of `models` models that have been pushed."""

    version: int
    recipe: str
    models: int


class _Pushed(BaseModel):
    """A model that has been pushed. `misread` is None if the model can no longer become the best one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    recipe: str
    misread: tuple[str, ...] | None


class _GoldenSet(BaseModel):
    """The models that have been pushed with a reading of one golden set, in the order of the pushes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: int
    models: tuple[_Pushed, ...]


_RECORD: Final = TypeAdapter(dict[str, _GoldenSet])
_BESTS: Final = TypeAdapter(tuple[Best, ...])


def digest(picture: bytes, label: str) -> int:
    """Returns a signed 64-bit number that identifies a picture with its label."""
    content = hashlib.sha256(b"%d " % len(picture) + picture + label.encode()).digest()
    return int.from_bytes(content[:_DIGEST_BYTES], "big", signed=True)


def reading(digests: Iterable[int], right: Iterable[bool]) -> GoldenReading:
    """Returns how a model reads the golden set that consists of these pictures, in any order.

    Args:
      digests: from `digest`, one per picture.
      right: whether the model reads each picture without error.
    """
    pairs = sorted((number.to_bytes(_DIGEST_BYTES, "big", signed=True).hex(), whole) for number, whole in zip(digests, right, strict=True))
    content = hashlib.sha256("\n".join(name for name, _ in pairs).encode()).hexdigest()
    return GoldenReading(content=content, pictures=len(pairs), misread=tuple(name for name, whole in pairs if not whole))


def compare(mine: GoldenReading, best: Best, confidence: float) -> BestSoFar:
    """Compares a candidate model with the best model so far, picture by picture, on the same golden set."""
    lost, gained = (
        (collections.Counter(one.misread) - collections.Counter(other.misread)).total() for one, other in ((mine, best), (best, mine))
    )
    ours, theirs = (wilson_interval(it.pictures - len(it.misread), it.pictures, confidence) for it in (mine, best))
    return BestSoFar(Comparison(mine.pictures, ours, theirs, only_candidate=gained, only_production=lost), best.version, best.models)


def best_readings(serving_dir: str | Path, without: Collection[str]) -> tuple[Best, ...]:
    """Returns the best recorded reading of each golden set by a pushed model. Of equally good readings it is the earliest.

    Args:
      serving_dir: TensorFlow Serving's base path.
      without: recipes of models that do not count: the withdrawn models, and the model to compare.

    Raises:
      CaptchaPipelineError: the record cannot be read.
    """
    bests = []
    for content, golden in _read(serving_dir).items():
        models = [model for model in golden.models if model.recipe not in without]
        if ranked := _ranked(models):
            fields = ranked[0].model_dump() | {"content": content, "pictures": golden.pictures, "models": len(models)}
            bests.append(Best.model_validate(fields))
    return tuple(bests)


def note(serving_dir: Path, mine: GoldenReading, version: int, recipe: str, there: Collection[str], without: Collection[str]) -> None:
    """Records the reading of a model that has been pushed. Only the push that has locked the folder may call it.

    The misread pictures are kept for the models in the folder, because a rollback may put one back, and for the best models.

    Args:
      serving_dir: TensorFlow Serving's base path.
      mine: the reading of the pushed model.
      version: of the pushed model.
      recipe: of the pushed model.
      there: recipes of the models in the folder.
      without: recipes of the withdrawn models.

    Raises:
      CaptchaPipelineError: the record cannot be read or written.
    """
    record = _read(serving_dir)
    before = record[mine.content].models if mine.content in record else ()
    pushed = _Pushed(version=version, recipe=recipe, misread=mine.misread)
    # A model that is pushed again keeps its place.
    models = [pushed if model.recipe == recipe else model for model in before]
    models += [] if pushed in models else [pushed]
    kept = {*there, *(model.recipe for model in _ranked([it for it in models if it.recipe not in without])[:_BEST_KEPT])}
    thinned = tuple(model if model.recipe in kept else model.model_copy(update={"misread": None}) for model in models)
    changed = record | {mine.content: _GoldenSet(pictures=mine.pictures, models=thinned)}
    if changed != record:
        write_whole(serving_dir / RECORD, _RECORD.dump_json(changed, indent=1).decode())


def to_json(bests: tuple[Best, ...]) -> str:
    """Returns readings as JSON, for `from_json`. Equal readings give equal text."""
    return _BESTS.dump_json(bests).decode()


def from_json(text: str) -> tuple[Best, ...]:
    """Returns the readings that `to_json` wrote."""
    return _BESTS.validate_json(text)


def _ranked(models: Iterable[_Pushed]) -> list[_Pushed]:
    return sorted((model for model in models if model.misread is not None), key=lambda model: len(model.misread or ()))


def _read(serving_dir: str | Path) -> dict[str, _GoldenSet]:
    path = Path(serving_dir) / RECORD
    try:
        return _RECORD.validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValidationError):
        raise CaptchaPipelineError(
            f"{path} cannot be read. It records which pushed model has read the golden set best. Restore it from a backup, or remove it. "
            "Without the file, the next pushed model is the best so far."
        ) from None
