"""Which picture comes next, what is known of each, and the span that the labels become. Real pictures, a real journal, real spans."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from components.base.errors import Busy, CaptchaPipelineError
from components.base.features import IMAGE, LABEL, PARAMS, SOURCE
from components.data.captcha_spec import LabelError
from components.data.example_proto import Example
from components.data.sources.imported import import_table
from components.data.sources.sift import ImportPlan
from components.data.span_writer import drop_span
from components.data.spans import list_spans
from components.data.tfrecords import read_records
from pipeline.config.config import Config
from pipeline.labelling.catalogue import scan
from pipeline.labelling.decisions import Outdated
from pipeline.labelling.growth import Point
from pipeline.labelling.journal import Kind
from pipeline.labelling.labels import correct_spans, in_spans, write_span
from pipeline.labelling.opening import opened
from pipeline.labelling.session import Session
from tests.support import labelling
from tests.support.labelling import draw

COUNT = 60


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("drawn") / "shop"
    return folder, draw(folder, COUNT)


@pytest.fixture
def folder(drawn: tuple[Path, dict[str, str]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn[0], tmp_path / "shop"))


@pytest.fixture
def labels(drawn: tuple[Path, dict[str, str]]) -> dict[str, str]:
    return drawn[1]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return labelling.config(tmp_path)


@contextmanager
def session(config: Config, folder: Path) -> Iterator[Session]:
    with opened(config, folder) as found:
        yield found


def name(session: Session, number: int) -> str:
    return session.catalogue.entries[number].name


def label_some(session: Session, labels: dict[str, str], count: int, window: str = "a") -> list[int]:
    """Labels the next pictures as they are; returns them."""
    found = []
    for _ in range(count):
        number = session.next(window)
        assert number is not None
        session.decide(window, number, 0, Kind.LABEL, labels[name(session, number)])
        found.append(number)
    return found


def write(config: Config, session: Session) -> None:
    write_span(config, session.catalogue, session.decisions.unwritten())
    session.decisions.written(in_spans(config, session.catalogue))


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


def test_every_picture_comes_once_and_the_random_ones_take_turns(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with session(config, folder) as found:
        first = label_some(found, labels, 20)
        assert sum(map(found.is_random, first)) == 4
        assert [found.is_random(number) for number in first[:6]] == [True, False, False, False, False, True]
        rest = label_some(found, labels, COUNT - 20)
        assert sorted(first + rest) == list(range(COUNT))
        assert found.next("a") is None
        assert found.decisions.counts() == {"labelled": COUNT, "skipped": 0, "unreadable": 0, "left": 0}


def test_labels_become_a_span_with_the_splits_of_an_import(config: Config, folder: Path, labels: dict[str, str], tmp_path: Path) -> None:
    with session(config, folder) as found:
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
    assert sum(imported.counts.values()) == COUNT
    assert ours.items() <= theirs.items()


def test_it_goes_on_after_an_end_with_renamed_files_and_copies(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with session(config, folder) as found:
        done = {name(found, number) for number in label_some(found, labels, 10)}
        write(config, found)
        later = {name(found, number) for number in label_some(found, labels, 10)}
    for file in [*done, *later]:
        (folder / file).rename(folder / f"renamed {file}")
    shutil.copy(folder / f"renamed {min(done)}", folder / "z copy.bmp")
    Image.open(folder / f"renamed {min(later)}").save(folder / "z other encoding.bmp")
    (folder / "broken.png").write_bytes(b"broken")
    (folder / "notes.txt").write_text("notes")
    (folder / ".hidden.png").write_bytes(b"broken")
    with session(config, folder) as found:
        assert found.decisions.counts() == {"labelled": 20, "skipped": 0, "unreadable": 0, "left": COUNT - 20}
        assert (found.catalogue.copies, found.catalogue.broken) == (2, 2)
        assert "broken.png" in found.catalogue.left_out.describe()
        assert {name(found, number) for number in found.decisions.unwritten()} == {f"renamed {file}" for file in later}
        write(config, found)
        rest = label_some(found, labels, COUNT - 20)
        assert not {name(found, number) for number in rest} & {f"renamed {file}" for file in [*done, *later]}
    assert [sum(span.manifest.counts.values()) for span in list_spans(config.data.root)] == [10, 10]


def test_a_span_that_was_written_before_a_kill_is_not_written_again(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with session(config, folder) as found:
        label_some(found, labels, 10)
        write_span(config, found.catalogue, found.decisions.unwritten())  # killed before the session knows of it
    with session(config, folder) as found:
        assert found.decisions.unwritten() == {}
        assert found.decisions.counts()["labelled"] == 10


def test_two_windows_show_different_pictures(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with session(config, folder) as found:
        one, two = found.next("a"), found.next("b")
        assert one is not None
        assert two is not None
        assert one != two
        assert (found.next("a"), found.next("b")) == (one, two)  # a reload shows the same picture
        found.decide("a", one, 0, Kind.SKIP, "")
        seen = {two}
        for _ in range(COUNT - 2):
            number = found.next("a")
            assert number is not None
            assert number not in seen
            seen.add(number)
            found.decide("a", number, 0, Kind.LABEL, labels[name(found, number)])
        assert found.next("a") == one  # a skipped picture comes last
        found.leave("b")
        found.decide("a", one, found.decisions.newest(one).id, Kind.LABEL, "00")  # type: ignore[union-attr]
        assert found.next("a") == two
        with pytest.raises(Outdated):
            found.decide("b", one, 0, Kind.LABEL, "11")
        assert found.decisions.label(one) == "00"


def test_a_decision_that_is_sent_twice_counts_once(config: Config, folder: Path) -> None:
    with session(config, folder) as found:
        number = found.next("a")
        assert number is not None
        first = found.decide("a", number, 0, Kind.LABEL, "01")
        assert found.decide("a", number, 0, Kind.LABEL, "01") == first
        with pytest.raises(Outdated):
            found.decide("a", number, 0, Kind.LABEL, "02")


def test_a_refused_label_changes_nothing(config: Config, folder: Path) -> None:
    with session(config, folder) as found:
        number = found.next("a")
        assert number is not None
        found.type(number, "0")
        for text, reason in (("", "empty"), ("0", "has 1 characters, not 2"), ("0x", "'x' at position 2")):
            with pytest.raises(LabelError, match=reason):
                found.decide("a", number, 0, Kind.LABEL, text)
        assert found.next("a") == number
        assert found.draft(number) == "0"
        assert found.decide("a", number, 0, Kind.LABEL, " 01 ").text == "01"
        assert found.draft(number) is None


def test_a_draft_is_shown_first_after_a_restart(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with session(config, folder) as found:
        label_some(found, labels, 3)
        one, two = found.next("a"), found.next("b")
        assert one is not None
        assert two is not None
        for text in ("0", "01", "012"):
            found.type(one, text)
    with session(config, folder) as found:
        assert found.next("c") == one
        assert found.draft(one) == "012"
        assert found.next("d") not in (one, None)
    with session(config, folder) as found:
        found.touch("b", two)  # a window that was open all the time
        assert found.next("b") == two
        assert found.next("e") == one


def test_a_correction_before_the_span_changes_the_label_and_after_it_becomes_a_span(
    config: Config, folder: Path, labels: dict[str, str], tmp_path: Path
) -> None:
    with session(config, folder) as found:
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
    with session(config, folder) as found:
        assert found.decisions.corrections() == expected
    corrected = correct_spans(config, expected, tmp_path / "corrections.csv")
    assert (corrected.counts.total(), corrected.removed) == (1, 1)
    assert value(next(iter(records(config, 2)))[1], LABEL).decode() == wrong[two]
    with session(config, folder) as found:
        assert found.decisions.corrections() == {}
        assert found.decisions.counts() == {"labelled": 2, "skipped": 0, "unreadable": 1, "left": len(labels) - 3}


def test_later_corrections_and_drops_count_more_than_what_was_written(
    config: Config, folder: Path, labels: dict[str, str], tmp_path: Path
) -> None:
    with session(config, folder) as found:
        one, two, three, four = label_some(found, labels, 4)
        keys = found.catalogue.keys
        write(config, found)
    # A person audits the labels: one is wrong, one picture cannot be read.
    other = {number: "22" if labels[name(found, number)] != "22" else "11" for number in (one, three)}
    correct_spans(config, {keys[one]: other[one], keys[two]: ""}, tmp_path / "corrections.csv")
    with session(config, folder) as found:
        assert (found.decisions.corrections(), found.decisions.unwritten(), found.new_labels()) == ({}, {}, 3)
        assert (found.decisions.label(one), found.decisions.label(two)) == (other[one], None)
        assert found.decisions.counts() == {"labelled": 3, "skipped": 0, "unreadable": 1, "left": COUNT - 4}
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
    with session(config, folder) as found:
        assert found.decisions.corrections() == {}
        assert [found.decisions.label(number) for number in (one, three)] == [labels[name(found, number)] for number in (one, three)]
    drop_span(Path(config.data.root), 1)
    with session(config, folder) as found:
        assert len(found.decisions.unwritten()) == 2  # only those that no span has had yet
        assert found.decisions.counts() == {"labelled": 2, "skipped": 0, "unreadable": 0, "left": COUNT - 2}


def test_a_label_that_cannot_be_written_starts_no_training(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with session(config, folder) as found:
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
    with pytest.raises(CaptchaPipelineError, match="pseudo"), session(config, reserved):
        pass


def test_a_file_that_is_gone_or_changed_keeps_its_label_in_the_journal(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with session(config, folder) as found:
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
    with session(config, folder) as found:
        assert found.decisions.counts()["labelled"] == 1
        shown = {name(found, number) for number in label_some(found, labels, COUNT - 1)}
        assert shown == labels.keys() - {inside}
        assert found.next("a") is None
        number = next(number for number in range(COUNT) if name(found, number) == inside)
        found.decide("a", number, 0, Kind.SKIP, "")
        assert found.decisions.label(number) == labels[inside], "a skipped picture keeps the label of its span"


def test_a_model_is_measured_on_random_pictures_that_it_was_not_made_with(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with session(config, folder) as found:
        label_some(found, labels, 25)
        write(config, found)
        found.begin_model(1, 25)
        found.use_model(7, 1)
        splits = {number: place.split for number, place in in_spans(config, found.catalogue).places.items()}
        tested = [number for number, split in splits.items() if split == "test"]
        assert tested
        # It reads all as they are, except for the first test picture.
        readings = {number: (labels[name(found, number)], 0.9) for number in found.to_read()}
        assert set(found.to_read()) == {
            number for number in range(COUNT) if found.is_random(number) or found.decisions.label(number) is None
        }
        readings[tested[0]] = ("", 0.1)
        found.note_readings(7, readings)
        found.follow_model()
        assert found.points() == [Point(7, 25, len(tested) - 1, len(tested))]
        assert found.since() == (0, 0)
        later = [number for number in label_some(found, labels, 15) if found.is_random(number)]
        assert found.since() == (len(later), len(later))
        count = len(tested) + len(later)  # eval pictures that were labelled later count, too
        assert found.points() == [Point(7, 25, count - 1, count)]
        assert found.model is not None
        assert found.model.labels == 25
    with session(config, folder) as found:  # the same after a restart
        assert found.points() == [Point(7, 25, count - 1, count)]
        found.use_model(7, 5)
        assert found.since() == (len(later), len(later))


def test_with_a_model_doubtful_pictures_come_first(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with session(config, folder) as found:
        found.use_model(7, 0)
        trained = [number for number in range(COUNT) if not found.is_random(number)]
        doubtful = set(trained[::5])
        readings = {number: (labels[name(found, number)], 0.2 if number in doubtful else 0.999) for number in range(COUNT)}
        found.note_readings(7, readings)
        found.follow_model()
        shown = [number for number in label_some(found, labels, len(doubtful)) if not found.is_random(number)]
        assert set(shown) <= doubtful


def test_one_process_at_a_time(config: Config, folder: Path) -> None:
    with session(config, folder), pytest.raises(Busy, match="already running for this pipeline"), session(config, folder):
        pass


def test_a_folder_without_pictures_is_an_error(config: Config, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaptchaPipelineError, match="no usable picture"):
        scan(tmp_path / "empty", config.captcha, config.data.picture_rules)
    with pytest.raises(CaptchaPipelineError, match="does not exist"):
        scan(tmp_path / "nowhere", config.captcha, config.data.picture_rules)
