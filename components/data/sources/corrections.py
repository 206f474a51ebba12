"""Corrects the labels of pictures that are in spans, and removes pictures, without a change to any span.

The corrections become a span of their own. It has a new record of each corrected picture, which differs from the old one by its label only,
in the split of the old one; and its manifest lists, in `supersedes`, the keys of all corrected and removed pictures. A run that reads the
span leaves out the older records of these pictures (`components.data.spans.Window.superseded`). Dropping the span brings them back.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from components.base.features import DATA_INFO, LABEL, SPLITS
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
_KEY: Final = re.compile(r"[0-9a-f]{32}")
_KINDS: Final = tuple(reversed(SPLITS))  # of the splits in which a picture is, the one that counts comes first


@dataclass
class Corrected(Imported):
    """The result of corrections.

    `counts` has the numbers of records with another label, `known` the number of pictures that need no correction, `contradictions` the
    pictures to which the table gives two labels; its first label counts.

    Attributes:
      removed: the number of pictures that are removed.
    """

    removed: int = 0


@dataclass(frozen=True)
class _Wish:
    """What a row of the table wants: a label, or "" to remove the picture. `name` is the picture as the row names it."""

    label: str
    name: str


def correct(table: str | Path, plan: ImportPlan, progress: Progress | None = None) -> Corrected:
    """Writes a span of corrections.

    Args:
      table: a .csv or .jsonl file with the columns `label` and `key` (of components/data/splits.py, hexadecimal), or `label` and `path`. A
        path, relative to the table's folder, names a file with the same visible pixels. An empty label removes the picture.
      plan: the target. Its layout is canonical.
      progress: called while spans that are not in the index yet are read.

    Raises:
      NothingNew: no picture needs a correction.
      CaptchaPipelineError: the table is invalid, or has no row that can be followed.
    """
    result = Corrected()
    wishes = _wishes(Path(table), plan, result)
    superseded: list[bytes] = []
    making = new_span(plan.root)
    with writing_in(plan.root), making as draft, SpanIndex(plan.root, plan.rules) as index:
        index.refresh(list_spans(plan.root), progress)
        items = _corrected(wishes, plan, result, index, superseded)
        files = write_shards(counted(items, plan, result, index), plan, draft)
        if not superseded and result.known and not result.reasons:
            raise NothingNew(result)
        if not superseded:
            raise CaptchaPipelineError(f"Nothing could be corrected.\n{result.describe()}".rstrip())
        finish(draft, files, plan, index, superseded)
    result.span = making.span
    return result


def _wishes(table: Path, plan: ImportPlan, result: Corrected) -> dict[bytes, _Wish]:
    """Returns what the rows want, by the keys of the pictures."""
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
    """Yields the split and the new record of each picture with another label. Adds the keys of all changed pictures to `superseded`."""
    chosen: dict[tuple[int, str, int], dict[int, tuple[bytes, str]]] = {}
    splits: dict[bytes, str] = {}
    for key, wish in wishes.items():
        places = index.same(key)
        current = [place for place in places if not index.is_superseded(key, place)]
        if not places:
            result.leave_out("no span has the picture; `captcha-pipeline data import` imports new pictures", wish.name)
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
    """Returns whether the records of a picture that count are already as wanted."""
    if not wish.label or not current:
        return not wish.label and not current
    wanted = plan.spec.canonical(wish.label)
    return all(not label_problem(place.label, plan.spec) and plan.spec.canonical(place.label) == wanted for place in current)


def _read(index: SpanIndex, shard: Place, wanted: Mapping[int, tuple[bytes, str]]) -> Iterator[tuple[Example, tuple[bytes, str]]]:
    """Yields the records of a shard at the wanted places in it, in the canonical layout, each with what `wanted` has for its place."""
    span = index.span_of(shard)
    info = DataInfo.load(span.path / DATA_INFO) if span.manifest.layout == "book" else None
    file = [file for file in span.manifest.files if file.path.startswith(f"{shard.split}/")][shard.shard]
    for item in read_records(span.located(file), file.sha256):
        if isinstance(item, Record) and item.index in wanted:
            example = Example.FromString(item.data)
            yield to_canonical(example, info, span.manifest.spec, span.manifest.source) if info else example, wanted[item.index]


def _relabelled(example: Example, label: str) -> bytes:
    """Returns the record of an example with another label."""
    example.features.feature[LABEL].bytes_list.value[:] = [label.encode()]
    record: bytes = example.SerializeToString(deterministic=True)
    return record
