"""Decides which pictures of an import go into the span, and into which split: each picture once, with one label, in one split.

Two files have the same picture if their visible pixels are equal, whatever their encoding. A perceptual hash (components/data/likeness.py)
finds pictures that were encoded again or resized. Each picture is compared with the pictures of all spans and with the earlier pictures of
its import, through an index (components/data/sources/index.py). A correction (components/data/sources/corrections.py) is final: a later
import brings back neither a label that a correction has replaced, nor a picture that a correction has removed.

Synthetic spans skip this step, for three reasons: measurements show that no two drawn pictures are near each other (docs/benchmarks.md),
their shards are made in parallel, and the same seed must give the same bytes.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from components.base.features import DATA_INFO, PSEUDO, SPLITS
from components.data.captcha_spec import CaptchaSpec, LabelError
from components.data.legacy_layout import DataInfo
from components.data.pictures import PictureRules
from components.data.sources.index import Place, Progress, SpanIndex
from components.data.sources.outcome import Found, Imported, NothingNew
from components.data.sources.seen import Seen
from components.data.span_writer import ShardWriter, new_span, rename_shards, write_manifest
from components.data.spans import Layout, ShardFile, Span, list_spans, next_number
from components.data.splits import bytes_key, split_of

_TRAIN: Final = SPLITS[0]


@dataclass(frozen=True)
class ImportPlan:
    """The target and the settings of an import.

    Attributes:
      root: the folder of the spans.
      spec: says which labels are valid, and the size of the pictures.
      splits: the relative size of each split.
      source: the name of the data set, used by the Evaluator to slice results.
      rules: how pictures are decoded. In the legacy layout, which has one picture size, pictures of other sizes are left out.
      layout: of the records.
      shard_size: records per shard, over its three splits.
      exclude: numbers of spans that runs do not use. Their pictures count as new, unless `only_new` is true and the label is the same.
      only_new: whether pictures that are already in a span with the same label are left out.
      dry_run: whether everything is read but nothing is written.
    """

    root: Path
    spec: CaptchaSpec
    splits: dict[str, int]
    source: str
    rules: PictureRules
    layout: Layout = "canonical"
    shard_size: int = 4_000
    exclude: tuple[int, ...] = ()
    only_new: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Item:
    """A record to import.

    Attributes:
      record: the serialised record.
      seen: its picture; None for a bad record in the legacy layout, which is copied because CaptchaExampleGen checks it.
    """

    record: bytes
    seen: Seen | None


def save(items: Iterable[Item], plan: ImportPlan, result: Imported, info: DataInfo | None, progress: Progress | None) -> Imported:
    """Writes a span with the items that are not left out. In a dry run, only counts them.

    Args:
      items: they are read one by one while the span is written.
      plan: the target of the import.
      result: filled in, and returned.
      info: describes records in the legacy layout; None for `DataInfo.for_spec`.
      progress: called while spans that are not in the index yet are read.

    Raises:
      NothingNew: all items that could be imported are already in a span.
      CaptchaPipelineError: nothing could be imported, a span is damaged, or the data folder cannot be written.
    """
    if plan.dry_run:
        with SpanIndex(plan.root, plan.rules, plan.exclude, save=False) as index:
            index.refresh(list_spans(plan.root), progress)
            for _ in counted(_sift(items, plan, result, index), plan, result, index):
                pass
        _check_any(result)
        return result
    making = new_span(plan.root)
    # The existing spans are read under the lock, so that no other process can make a span meanwhile.
    with writing_in(plan.root), making as draft, SpanIndex(plan.root, plan.rules, plan.exclude) as index:
        index.refresh(list_spans(plan.root), progress)
        files = write_shards(counted(_sift(items, plan, result, index), plan, result, index), plan, draft)
        _check_any(result)
        if plan.layout == "book":
            (info or DataInfo.for_spec(plan.spec)).save(draft / DATA_INFO)
        finish(draft, files, plan, index, result.superseded)
    result.span = making.span
    return result


def finish(draft: Path, files: list[ShardFile], plan: ImportPlan, index: SpanIndex, superseded: Iterable[bytes]) -> None:
    """Writes the manifest of a span whose shards are in the folder `draft`, and saves its pictures in the index.

    Args:
      draft: the folder of the span.
      files: the manifest's entries for the shards.
      plan: the target.
      index: has all pictures of the span.
      superseded: keys of pictures whose records in earlier spans no longer count.
    """
    params = {"splits": plan.splits, "shard_size": plan.shard_size, "background": plan.rules.background}
    manifest = write_manifest(
        draft,
        layout=plan.layout,
        spec=plan.spec,
        seed=None,
        source=plan.source,
        params=params,
        files=files,
        supersedes=[key.hex() for key in sorted(set(superseded))],
    )
    number = next_number(plan.root)
    index.keep(number, Span(number, draft, manifest).checksum)


def _check_any(result: Imported) -> None:
    if not result.counts and result.known:
        raise NothingNew(result)
    if not result.counts:
        raise CaptchaPipelineError(f"Nothing could be imported.\n{result.describe()}".rstrip())


def _sift(items: Iterable[Item], plan: ImportPlan, result: Imported, index: SpanIndex) -> Iterator[tuple[str, Item]]:
    """Yields each item to import after its split, and notes all other items in `result`."""
    number = next_number(plan.root)
    for item in items:
        split = _split(item.seen, plan, result, index, number) if item.seen else split_of(bytes_key(item.record), plan.splits)
        if split is not None:
            yield split, item


def counted(items: Iterable[tuple[str, Item]], plan: ImportPlan, result: Imported, index: SpanIndex) -> Iterator[tuple[str, bytes]]:
    """Yields the split and the record of each item. Before it yields an item, counts it in `result` and adds it to the index."""
    number = next_number(plan.root)
    in_shard: Counter[str] = Counter()
    for split, item in items:
        shard, first = divmod(result.counts.total(), plan.shard_size)
        if not first:
            in_shard.clear()
        if item.seen:
            index.add(number, split, shard, in_shard[split], item.seen)
        in_shard[split] += 1
        result.counts[split] += 1
        yield split, item.record


def _split(seen: Seen, plan: ImportPlan, result: Imported, index: SpanIndex, number: int) -> str | None:
    """Returns the split of a picture, or None if it is left out."""
    label = _canonical(seen.label, plan.spec)

    def has_its_label(place: Place) -> bool:
        return place.label == seen.label or (label is not None and _canonical(place.label, plan.spec) == label)

    known = index.same(seen.key)
    current = index.only_current(seen.key, known)
    if index.is_removed(seen.key):
        result.leave_out("a correction has removed the picture", seen.name)
        return None
    same = [place for place in current if not index.is_pseudo(place)]
    if len(same) < len(current):
        result.superseded.append(seen.key)
    if plan.source == PSEUDO:
        return _split_of_pseudo_label(seen, same, result, index)
    with_its_label = [place for place in same if has_its_label(place)]
    if not with_its_label and any(has_its_label(place) for place in known if not index.is_pseudo(place)):
        result.leave_out("a correction has given the picture another label", seen.name)
        return None
    if any(place.number == number for place in with_its_label):
        result.leave_out("the picture is already in this import with the same label", seen.name)
        return None
    if plan.only_new and any(has_its_label(place) for place in (*same, *index.unused(seen.key))):
        result.known += 1
        return None
    wrong_size = plan.rules.wrong_size == "refuse" and seen.size != (plan.spec.width, plan.spec.height)
    refusal = seen.refusal or ("image_size" if wrong_size else "")
    # A picture or label that a run will quarantine contradicts nothing.
    labelled = [] if refusal or not label else [place for place in same if _canonical(place.label, plan.spec) not in (None, label)]
    if labelled:
        result.contradictions.append(
            f"{seen.name} is labelled {seen.label!r}; {index.describe(labelled[0])} is labelled {labelled[0].label!r}"
        )
        return None
    result.known += bool(with_its_label)
    if label is None:
        result.refused_labels.append(f"{seen.name}: {label_problem(seen.label, plan.spec)}")
    if refusal:
        result.refused_pictures.setdefault(refusal, Found()).add(seen.name)
    if seen.size:
        result.sizes[seen.size] += 1
    if same:
        return same[0].split
    alike = index.most_alike(seen.key, seen.look) if seen.look else None
    if alike is None:
        return split_of(seen.key, plan.splits)
    result.alike += 1
    if label and not index.is_pseudo(alike) and _canonical(alike.label, plan.spec) not in (None, label):
        result.doubtful.add(f"{seen.name} ({seen.label!r}) like {index.describe(alike)} ({alike.label!r})")
    return alike.split


def _split_of_pseudo_label(seen: Seen, same: list[Place], result: Imported, index: SpanIndex) -> str | None:
    """Returns the train split, because labels that no person has given must not measure a model; None if the picture is left out."""
    if same:
        result.leave_out("a span has the picture already", seen.name)
        return None
    alike = index.most_alike(seen.key, seen.look) if seen.look else None
    if alike and alike.split != _TRAIN:
        result.leave_out(f"it looks like a picture of the {alike.split} split", seen.name)
        return None
    return _TRAIN


def label_problem(label: str, spec: CaptchaSpec) -> str:
    """Returns why a run quarantines a picture with this label; "" if it does not."""
    try:
        spec.canonical(label)
    except LabelError as error:
        return str(error)
    return ""


def _canonical(label: str, spec: CaptchaSpec) -> str | None:
    try:
        return spec.canonical(label)
    except LabelError:
        return None


def write_shards(records: Iterator[tuple[str, bytes]], plan: ImportPlan, draft: Path) -> list[ShardFile]:
    """Writes records into the shards of a span.

    Args:
      records: pairs of a split and a serialised record.
      plan: gives the layout and the size of the shards.
      draft: the folder of the span.

    Returns:
      The manifest's entries for the files.
    """
    files: list[ShardFile] = []
    shards = 0
    # The number of shards, which is part of their names, is known only at the end.
    while (first := next(records, None)) is not None:
        with ShardWriter(draft, f"shard-{shards:05d}", plan.layout) as writer:
            for split, record in itertools.islice(itertools.chain([first], records), plan.shard_size):
                writer.write(split, record)
        files += writer.files
        shards += 1
    return rename_shards(draft, files, shards)
