"""The span that the labels become, and what spans say about labels. Real pictures, a real journal, real spans."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from components.base.errors import CaptchaPipelineError
from components.base.features import IMAGE, LABEL, PARAMS, SOURCE
from components.data.example_proto import Example
from components.data.sources.imported import import_table
from components.data.sources.sift import ImportPlan
from components.data.span_writer import drop_span
from components.data.spans import list_spans
from components.data.tfrecords import read_records
from pipeline.config.config import Config
from pipeline.labelling.journal import Kind
from pipeline.labelling.labels import correct_spans, in_spans, write_span
from pipeline.labelling.opening import opened
from tests.support.label_session import label_some, name, write


def records(config: Config, number: int) -> Iterator[tuple[str, Example]]:
    """Yields the split and the example of each record of a span."""
    span = next(span for span in list_spans(config.data.root) if span.number == number)
    for split in ("train", "eval", "test"):
        for path in span.files(split):
            for record in read_records(path):
                yield split, Example.FromString(record.data)


def value(example: Example, feature: str) -> bytes:
    content: bytes = example.features.feature[feature].bytes_list.value[0]
    return content


def test_labels_become_a_span_with_the_splits_of_an_import(config: Config, folder: Path, labels: dict[str, str], tmp_path: Path) -> None:
    with opened(config, folder) as found:
        label_some(found, labels, 40)
        random = {name(found, number) for number in found.decisions.unwritten() if found.is_random(number)}
        write(config, found)
        assert found.decisions.unwritten() == {}
    (span,) = list_spans(config.data.root)
    assert span.manifest.source == "shop"
    splits = Counter[str]()
    for split, example in records(config, 1):
        file = json.loads(value(example, PARAMS))["file"]
        assert value(example, LABEL).decode() == labels[file]
        assert value(example, SOURCE) == b"shop"
        assert value(example, IMAGE) == (folder / file).read_bytes()
        assert (split == "train") == (file not in random)
        splits[split] += 1
    assert splits == span.manifest.counts
    assert sum(splits.values()) == 40

    # An import of the same pictures puts each into the same split.
    table = folder / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{file},{label}\n" for file, label in labels.items()))
    plan = ImportPlan(tmp_path / "other", config.captcha, config.data.splits.model_dump(), "shop", config.data.picture_rules)
    imported = import_table(table, plan)
    other = config.model_copy(update={"data": config.data.model_copy(update={"root": str(plan.root)})})
    ours, theirs = ({value(it, IMAGE): split for split, it in records(where, 1)} for where in (config, other))
    assert sum(imported.counts.values()) == len(labels)
    assert ours.items() <= theirs.items()


def test_a_span_that_was_written_before_a_kill_is_not_written_again(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with opened(config, folder) as found:
        label_some(found, labels, 10)
        write_span(config, found.catalogue, found.decisions.unwritten())  # killed before the session knows of it
    with opened(config, folder) as found:
        assert found.decisions.unwritten() == {}
        assert found.decisions.counts()["labelled"] == 10


def test_a_correction_before_the_span_changes_the_label_and_after_it_becomes_a_span(
    config: Config, folder: Path, labels: dict[str, str], tmp_path: Path
) -> None:
    with opened(config, folder) as found:
        one, two, three = label_some(found, labels, 3)
        wrong = {number: "22" if labels[name(found, number)] != "22" else "11" for number in (one, two)}
        found.decide("a", one, found.decisions.newest(one).id, Kind.LABEL, wrong[one])  # type: ignore[union-attr]
        write(config, found)
        assert found.decisions.corrections() == {}
        found.decide("a", two, found.decisions.newest(two).id, Kind.LABEL, wrong[two])  # type: ignore[union-attr]
        found.decide("a", three, found.decisions.newest(three).id, Kind.UNREADABLE, "")  # type: ignore[union-attr]
        keys = found.catalogue.keys
        expected = {keys[two]: wrong[two], keys[three]: ""}
        assert found.decisions.corrections() == expected
        assert found.decisions.counts()["labelled"] == 3
        assert found.decisions.unwritten() == {}
    assert {value(example, LABEL).decode() for _, example in records(config, 1)} >= {wrong[one]}
    with opened(config, folder) as found:
        assert found.decisions.corrections() == expected
    corrected = correct_spans(config, expected, tmp_path / "corrections.csv")
    assert (corrected.counts.total(), corrected.removed) == (1, 1)
    assert value(next(iter(records(config, 2)))[1], LABEL).decode() == wrong[two]
    with opened(config, folder) as found:
        assert found.decisions.corrections() == {}
        assert found.decisions.counts() == {"labelled": 2, "skipped": 0, "unreadable": 1, "left": len(labels) - 3}


def test_later_corrections_and_drops_count_more_than_what_was_written(
    config: Config, folder: Path, labels: dict[str, str], tmp_path: Path
) -> None:
    with opened(config, folder) as found:
        one, two, three, four = label_some(found, labels, 4)
        keys = found.catalogue.keys
        write(config, found)
    # A person audits the labels: one is wrong, one picture cannot be read.
    other = {number: "22" if labels[name(found, number)] != "22" else "11" for number in (one, three)}
    correct_spans(config, {keys[one]: other[one], keys[two]: ""}, tmp_path / "corrections.csv")
    with opened(config, folder) as found:
        assert (found.decisions.corrections(), found.decisions.unwritten(), found.new_labels()) == ({}, {}, 3)
        assert (found.decisions.label(one), found.decisions.label(two)) == (other[one], None)
        assert found.decisions.counts() == {"labelled": 3, "skipped": 0, "unreadable": 1, "left": len(labels) - 4}
        assert {one, two, three, four}.isdisjoint(label_some(found, labels, 2))
        # A new decision counts more than the correction, also for the removed picture.
        found.decide("a", two, found.decisions.newest(two).id, Kind.LABEL, "01")  # type: ignore[union-attr]
        found.decide("a", three, found.decisions.newest(three).id, Kind.LABEL, other[three])  # type: ignore[union-attr]
        assert two not in found.decisions.unwritten()
        assert found.decisions.corrections() == {keys[two]: "01", keys[three]: other[three]}
        correct_spans(config, found.decisions.corrections(), tmp_path / "corrections.csv")
        found.decisions.written(in_spans(config, found.catalogue))
        assert (found.decisions.corrections(), found.decisions.label(two), found.decisions.label(three)) == ({}, "01", other[three])
    for number in (3, 2):
        drop_span(Path(config.data.root), number)
    with opened(config, folder) as found:
        assert found.decisions.corrections() == {}
        assert [found.decisions.label(number) for number in (one, three)] == [labels[name(found, number)] for number in (one, three)]
    drop_span(Path(config.data.root), 1)
    with opened(config, folder) as found:
        assert len(found.decisions.unwritten()) == 2  # only those that no span has had yet
        assert found.decisions.counts() == {"labelled": 2, "skipped": 0, "unreadable": 0, "left": len(labels) - 2}


def test_a_label_that_cannot_be_written_starts_no_training(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with opened(config, folder) as found:
        one, *_ = label_some(found, labels, 6)
        gone = folder / name(found, one)
        gone.rename(folder.parent / gone.name)
        tried = found.decisions.unwritten()
        write_span(config, found.catalogue, tried)
        assert found.new_labels() == 6
        found.decisions.written(in_spans(config, found.catalogue), tried)
        found.use_model(7, 1)
        assert (found.new_labels(), found.by_split().total(), found.decisions.unwritten().keys()) == (0, 0, {one})
        found.decide("a", one, found.decisions.newest(one).id, Kind.LABEL, "00")  # type: ignore[union-attr]
        assert found.new_labels() == 1


def test_a_folder_whose_name_no_source_can_have_is_refused_before_the_labelling(config: Config, folder: Path) -> None:
    reserved = folder.rename(folder.with_name("pseudo"))
    with pytest.raises(CaptchaPipelineError, match="pseudo"), opened(config, reserved):
        pass


def test_a_file_that_is_gone_or_changed_keeps_its_label_in_the_journal(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with opened(config, folder) as found:
        one, two, *rest = label_some(found, labels, 6)
        gone, changed = name(found, one), name(found, two)
        (folder / gone).rename(folder.parent / gone)
        Image.new("L", (40, 24)).save(folder / changed)
        imported = write_span(config, found.catalogue, found.decisions.unwritten())
        assert sum(imported.counts.values()) == 4
        assert {gone, changed} == {where for it in imported.reasons.values() for where in it.examples}
        found.decisions.written(in_spans(config, found.catalogue))
        assert found.decisions.unwritten().keys() == {one, two}
        assert write_span(config, found.catalogue, found.decisions.unwritten()).counts == {}  # says why, again
        (folder.parent / gone).rename(folder / gone)
        write(config, found)
        assert found.decisions.unwritten().keys() == {two}
        assert rest


def test_pictures_with_a_valid_label_in_a_span_are_not_shown(config: Config, folder: Path, labels: dict[str, str]) -> None:
    inside, refused, *_ = sorted(labels)
    table = folder / "labels.csv"
    table.write_text(f"path,label\n{inside},{labels[inside]}\n{refused},9999\n")
    plan = ImportPlan(Path(config.data.root), config.captcha, config.data.splits.model_dump(), "x", config.data.picture_rules)
    import_table(table, plan)
    table.unlink()
    with opened(config, folder) as found:
        assert found.decisions.counts()["labelled"] == 1
        shown = {name(found, number) for number in label_some(found, labels, len(labels) - 1)}
        assert shown == labels.keys() - {inside}
        assert found.next("a") is None
        number = next(number for number in range(len(labels)) if name(found, number) == inside)
        found.decide("a", number, 0, Kind.SKIP, "")
        assert found.decisions.label(number) == labels[inside], "a skipped picture keeps the label of its span"
