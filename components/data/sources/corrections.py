"""Corrects the labels of pictures that are in spans, and removes pictures, without changing any span.

The corrections become a new span. It has a new record of each corrected picture, in the same split. The new record differs from the old one
by its label only, and by its source if a model had given the label. The manifest of the new span lists, in `supersedes`, the keys of all
corrected and removed pictures. A run that reads this span leaves out the older records of these pictures
(`components.data.window.Window.superseded`). Dropping the span brings them back.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from components.base.features import CORRECTIONS, DATA_INFO, LABEL, PSEUDO, SOURCE, SPLITS
from components.data.example_proto import Example
from components.data.legacy_layout import DataInfo, to_canonical
from components.data.sources.imported import read_entry
from components.data.sources.index import Place, Progress, SpanIndex
from components.data.sources.listing import PATH, Entry, table_rows
from components.data.sources.outcome import Imported, NothingNew
from components.data.sources.seen import of_encoded, of_record
from components.data.sources.sift import ImportPlan, Item, counted, finish, label_problem, write_shards
from components.data.span_writer import new_span
from components.data.spans import list_spans
from components.data.tfrecords import Record, read_records

KEY: Final = "key"  # the column with the keys of the pictures
_UNKNOWN: Final = "no span has the picture; `captcha-pipeline data import` imports new pictures"
_REMOVED: Final = "a correction has removed the picture, and its span is gone; drop the span of that correction, then import the picture"
_KEY: Final = re.compile(r"[0-9a-f]{32}")
_KINDS: Final = tuple(reversed(SPLITS))  # if a picture is in several splits, the correction goes into the first of these


@dataclass
class Corrected(Imported):
    """The result of corrections.

    `counts` has the number of records with a corrected label, by split. `known` is the number of pictures that already match the table.
    `contradictions` has the pictures to which the table gives two different labels; the first one is used.

    Attributes:
      removed: the number of pictures that are removed.
    """

    removed: int = 0


class NothingCorrected(CaptchaPipelineError):
    """No row of the table could be used. The message says why."""

    def __init__(self, result: Corrected):
        super().__init__(f"Nothing could be corrected.\n{result.describe()}".rstrip())


@dataclass(frozen=True)
class _Wish:
    """What a row of the table asks for.

    Attributes:
      label: the right label; "" to remove the picture.
      name: the key or the path of the picture, as in the row.
    """

    label: str
    name: str


def correct(table: str | Path, plan: ImportPlan, progress: Progress | None = None) -> Corrected:
    """Writes a span of corrections.

    Args:
      table: a .csv or .jsonl file with the columns `label` and `key`, or `label` and `path`. A key is that of a picture
        (components/data/splits.py), hexadecimal. A path, relative to the table's folder, names a file with the same visible pixels. An
        empty label removes the picture.
      plan: the target. Its layout must be canonical.
      progress: called while spans that are not in the index yet are read.

    Raises:
      NothingNew: all pictures already match the table.
      NothingCorrected: nothing could be corrected.
      CaptchaPipelineError: the table is invalid, a span is damaged, or the data folder cannot be written.
    """
    result = Corrected()
    wishes = _wishes(Path(table), plan, result)
    superseded: list[bytes] = []
    making = new_span(plan.root)
    with writing_in(plan.root), making as draft, SpanIndex(plan.root, plan.rules, plan.exclude) as index:
        index.refresh(list_spans(plan.root), progress)
        items = _corrected(wishes, plan, result, index, superseded)
        files = write_shards(counted(items, plan, result, index), plan, draft)
        if not superseded:
            raise NothingNew(result) if result.known and not result.reasons else NothingCorrected(result)
        finish(draft, files, plan, index, superseded)
    result.span = making.span
    return result


def _wishes(table: Path, plan: ImportPlan, result: Corrected) -> dict[bytes, _Wish]:
    """Returns what the rows of the table ask for, by key of the picture. Notes rows that cannot be used in `result`."""
    wishes: dict[bytes, _Wish] = {}
    for column, name, label in table_rows(table, (KEY, PATH)):
        key = _key_of(table, column, name, plan, result)
        if key is None:
            continue
        if label and (problem := label_problem(label, plan.spec)):
            result.leave_out(problem, name)
            continue
        wish = wishes.setdefault(key, _Wish(label, name))
        if wish.label != label:
            result.contradictions.append(f"{name} is labelled {label!r}; {wish.name}, in the same table, is labelled {wish.label!r}")
    return wishes


def _key_of(table: Path, column: str, name: str, plan: ImportPlan, result: Corrected) -> bytes | None:
    if column == KEY:
        if _KEY.fullmatch(name):
            return bytes.fromhex(name)
        result.leave_out("the key does not have 32 hexadecimal digits", ascii(name[:80]))
        return None
    data = read_entry(Entry(table.parent / name, name, ""), result)
    if data is None:
        return None
    seen = of_encoded(data, "", name, plan.rules)
    if seen.refusal:
        result.leave_out(f"a run refuses the picture, whatever its label: {seen.refusal}", name)
        return None
    return seen.key


def _corrected(
    wishes: Mapping[bytes, _Wish], plan: ImportPlan, result: Corrected, index: SpanIndex, superseded: list[bytes]
) -> Iterator[tuple[str, Item]]:
    """Yields the split and the new record of each relabelled picture. Adds the keys of all relabelled and removed ones to `superseded`."""
    chosen: dict[tuple[int, str, int], dict[int, tuple[bytes, str]]] = {}
    splits: dict[bytes, str] = {}
    for key, wish in wishes.items():
        places = index.same(key)
        current = index.only_current(key, places)
        if not places and (wish.label or not index.is_removed(key)):
            result.leave_out(_REMOVED if index.is_removed(key) else _UNKNOWN, wish.name)
        elif _is_fulfilled(wish, current, plan):
            result.known += 1
        elif not wish.label:
            result.removed += 1
            superseded.append(key)
        else:
            place = (current or places)[0]
            chosen.setdefault((place.number, place.split, place.shard), {})[place.record] = (key, wish.label)
            splits[key] = min((place.split for place in places), key=_KINDS.index)
    for (number, split, shard), wanted in sorted(chosen.items()):
        for record, (key, label) in _read(index, Place(number, split, shard, 0, "", ""), wanted):
            changed = _relabelled(record, label)
            superseded.append(key)
            yield splits[key], Item(changed, of_record(changed, None, plan.spec, plan.rules))


def _is_fulfilled(wish: _Wish, current: list[Place], plan: ImportPlan) -> bool:
    """Returns whether the current records of a picture already match what the table asks for."""
    if not wish.label or not current:
        return not wish.label and not current
    wanted = plan.spec.canonical(wish.label)
    return all(not label_problem(place.label, plan.spec) and plan.spec.canonical(place.label) == wanted for place in current)


def _read(index: SpanIndex, shard: Place, wanted: Mapping[int, tuple[bytes, str]]) -> Iterator[tuple[Example, tuple[bytes, str]]]:
    """Yields the wanted records of a shard, in the canonical layout, each with its value in `wanted`, whose keys are record numbers."""
    span = index.span_of(shard)
    info = DataInfo.load(span.path / DATA_INFO) if span.manifest.layout == "book" else None
    file = [file for file in span.manifest.files if file.path.startswith(f"{shard.split}/")][shard.shard]
    for item in read_records(span.located(file), file.sha256):
        if isinstance(item, Record) and item.index in wanted:
            example = Example.FromString(item.data)
            yield to_canonical(example, info, span.manifest.spec, span.manifest.source) if info else example, wanted[item.index]


def _relabelled(example: Example, label: str) -> bytes:
    """Returns the record of an example with another label. A label that a model had given is now that of a person."""
    feature = example.features.feature
    feature[LABEL].bytes_list.value[:] = [label.encode()]
    if feature[SOURCE].bytes_list.value[:] == [PSEUDO.encode()]:
        feature[SOURCE].bytes_list.value[:] = [CORRECTIONS.encode()]
    record: bytes = example.SerializeToString(deterministic=True)
    return record
