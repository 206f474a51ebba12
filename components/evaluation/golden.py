"""The golden set, picture by picture: which ones a model misreads, and which pushed model has read it best so far. No TensorFlow.

The Evaluator leaves a GoldenReading with its blessing. A push notes it in the serving folder, and LatestPushedModel hands the best on to
the Evaluator of the next model: so a row of models each a little worse than the one before is stopped. Each content of the golden set has
its own record: where another span is named, or its pictures have changed, the first model that is pushed is the best so far.
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

RECORD: Final = ".golden.json"  # in the serving folder; TensorFlow Serving overlooks names that are not numbers
_DIGEST_BYTES: Final = 8
# The best one, and the one that is best without it: a rerun of the best one must find what its first run found.
_BEST_KEPT: Final = 2


class GoldenReading(BaseModel):
    """How a model reads a golden set: `content` names what the set holds, `misread` are the digests of the pictures not read whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: str
    pictures: int
    misread: tuple[str, ...]


class Best(GoldenReading):
    """The reading of the model that was the best of `models` that have been pushed."""

    version: int
    recipe: str
    models: int


class _Pushed(BaseModel):
    """A model that has been pushed. `misread` is None where it can no longer become the best one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    recipe: str
    misread: tuple[str, ...] | None


class _GoldenSet(BaseModel):
    """The models that have been pushed with a reading of one golden set, in their order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: int
    models: tuple[_Pushed, ...]


_RECORD: Final = TypeAdapter(dict[str, _GoldenSet])
_BESTS: Final = TypeAdapter(tuple[Best, ...])


def digest(picture: bytes, label: str) -> int:
    """Returns 64 bits, signed, that name a picture with its label."""
    content = hashlib.sha256(b"%d " % len(picture) + picture + label.encode()).digest()
    return int.from_bytes(content[:_DIGEST_BYTES], "big", signed=True)


def reading(digests: Iterable[int], right: Iterable[bool]) -> GoldenReading:
    """Returns how a model reads the golden set that is made of these pictures, in any order.

    Args:
      digests: of `digest`, one a picture.
      right: whether it reads each of them whole.
    """
    pairs = sorted((number.to_bytes(_DIGEST_BYTES, "big", signed=True).hex(), whole) for number, whole in zip(digests, right, strict=True))
    content = hashlib.sha256("\n".join(name for name, _ in pairs).encode()).hexdigest()
    return GoldenReading(content=content, pictures=len(pairs), misread=tuple(name for name, whole in pairs if not whole))


def compare(mine: GoldenReading, best: Best, confidence: float) -> BestSoFar:
    """Compares a new model with the best one so far, picture by picture, on the same golden set."""
    lost, gained = (
        (collections.Counter(one.misread) - collections.Counter(other.misread)).total() for one, other in ((mine, best), (best, mine))
    )
    ours, theirs = (wilson_interval(it.pictures - len(it.misread), it.pictures, confidence) for it in (mine, best))
    return BestSoFar(Comparison(mine.pictures, ours, theirs, only_candidate=gained, only_production=lost), best.version, best.models)


def best_readings(serving_dir: str | Path, without: Collection[str]) -> tuple[Best, ...]:
    """Returns the best reading of each golden set that pushed models have been noted for; of equally good ones the earliest.

    Args:
      serving_dir: TensorFlow Serving's base path.
      without: recipes of models that do not count: those withdrawn, and the one that is to be compared.

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
    """Puts the reading of a model that has been pushed on record. Only the push that holds the folder's lock may call it.

    Pictures are kept of the models that are in the folder, as a rollback may put one back, and of the best ones.

    Args:
      there: recipes of the models in the folder.
      without: of those withdrawn.

    Raises:
      CaptchaPipelineError: the record cannot be read or written.
    """
    record = _read(serving_dir)
    before = record[mine.content].models if mine.content in record else ()
    pushed = _Pushed(version=version, recipe=recipe, misread=mine.misread)
    # A model that is pushed once more keeps its place.
    models = [pushed if model.recipe == recipe else model for model in before]
    models += [] if pushed in models else [pushed]
    kept = {*there, *(model.recipe for model in _ranked([it for it in models if it.recipe not in without])[:_BEST_KEPT])}
    thinned = tuple(model if model.recipe in kept else model.model_copy(update={"misread": None}) for model in models)
    changed = record | {mine.content: _GoldenSet(pictures=mine.pictures, models=thinned)}
    if changed != record:
        write_whole(serving_dir / RECORD, _RECORD.dump_json(changed, indent=1).decode())


def to_json(bests: tuple[Best, ...]) -> str:
    """The inverse of `from_json`; the same readings give the same text."""
    return _BESTS.dump_json(bests).decode()


def from_json(text: str) -> tuple[Best, ...]:
    """Returns what `to_json` was given."""
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
            f"{path} cannot be read: it holds which pushed model has read the golden set best. Put it back from a copy, or remove it: then "
            "the next pushed model is the first that later ones are compared with."
        ) from None
