"""Which picture comes next, and what is known of each. Real pictures and a real journal."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from components.base.errors import Busy, CaptchaPipelineError
from components.data.captcha_spec import LabelError
from components.data.spans import list_spans
from pipeline.config.config import Config
from pipeline.labelling.catalogue import scan
from pipeline.labelling.decisions import Outdated
from pipeline.labelling.growth import Point
from pipeline.labelling.journal import Kind
from pipeline.labelling.labels import in_spans
from pipeline.labelling.opening import opened
from tests.support.label_session import label_some, name, write


def test_every_picture_comes_once_and_the_random_ones_take_turns(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with opened(config, folder) as found:
        first = label_some(found, labels, 20)
        assert sum(map(found.is_random, first)) == 4
        assert [found.is_random(number) for number in first[:6]] == [True, False, False, False, False, True]
        rest = label_some(found, labels, len(labels) - 20)
        assert sorted(first + rest) == list(range(len(labels)))
        assert found.next("a") is None
        assert found.decisions.counts() == {"labelled": len(labels), "skipped": 0, "unreadable": 0, "left": 0}


def test_it_goes_on_after_an_end_with_renamed_files_and_copies(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with opened(config, folder) as found:
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
    with opened(config, folder) as found:
        assert found.decisions.counts() == {"labelled": 20, "skipped": 0, "unreadable": 0, "left": len(labels) - 20}
        assert (found.catalogue.copies, found.catalogue.broken) == (2, 2)
        assert "broken.png" in found.catalogue.left_out.describe()
        assert {name(found, number) for number in found.decisions.unwritten()} == {f"renamed {file}" for file in later}
        write(config, found)
        rest = label_some(found, labels, len(labels) - 20)
        assert not {name(found, number) for number in rest} & {f"renamed {file}" for file in [*done, *later]}
    assert [sum(span.manifest.counts.values()) for span in list_spans(config.data.root)] == [10, 10]


def test_two_windows_show_different_pictures(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with opened(config, folder) as found:
        one, two = found.next("a"), found.next("b")
        assert one is not None
        assert two is not None
        assert one != two
        assert (found.next("a"), found.next("b")) == (one, two)  # a reload shows the same picture
        found.decide("a", one, 0, Kind.SKIP, "")
        seen = {two}
        for _ in range(len(labels) - 2):
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
    with opened(config, folder) as found:
        number = found.next("a")
        assert number is not None
        first = found.decide("a", number, 0, Kind.LABEL, "01")
        assert found.decide("a", number, 0, Kind.LABEL, "01") == first
        with pytest.raises(Outdated):
            found.decide("a", number, 0, Kind.LABEL, "02")


def test_a_refused_label_changes_nothing(config: Config, folder: Path) -> None:
    with opened(config, folder) as found:
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
    with opened(config, folder) as found:
        label_some(found, labels, 3)
        one, two = found.next("a"), found.next("b")
        assert one is not None
        assert two is not None
        for text in ("0", "01", "012"):
            found.type(one, text)
    with opened(config, folder) as found:
        assert found.next("c") == one
        assert found.draft(one) == "012"
        assert found.next("d") not in (one, None)
    with opened(config, folder) as found:
        found.touch("b", two)  # a window that was open all the time
        assert found.next("b") == two
        assert found.next("e") == one


def test_a_model_is_measured_on_random_pictures_that_it_was_not_made_with(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with opened(config, folder) as found:
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
            number for number in range(len(labels)) if found.is_random(number) or found.decisions.label(number) is None
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
    with opened(config, folder) as found:  # the same after a restart
        assert found.points() == [Point(7, 25, count - 1, count)]
        found.use_model(7, 5)
        assert found.since() == (len(later), len(later))


def test_with_a_model_doubtful_pictures_come_first(config: Config, folder: Path, labels: dict[str, str]) -> None:
    with opened(config, folder) as found:
        found.use_model(7, 0)
        trained = [number for number in range(len(labels)) if not found.is_random(number)]
        doubtful = set(trained[::5])
        readings = {number: (labels[name(found, number)], 0.2 if number in doubtful else 0.999) for number in range(len(labels))}
        found.note_readings(7, readings)
        found.follow_model()
        shown = [number for number in label_some(found, labels, len(doubtful)) if not found.is_random(number)]
        assert set(shown) <= doubtful


def test_one_process_at_a_time(config: Config, folder: Path) -> None:
    with opened(config, folder), pytest.raises(Busy, match="already running for this pipeline"), opened(config, folder):
        pass


def test_a_folder_without_pictures_is_an_error(config: Config, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaptchaPipelineError, match="no usable picture"):
        scan(tmp_path / "empty", config.captcha, config.data.picture_rules)
    with pytest.raises(CaptchaPipelineError, match="does not exist"):
        scan(tmp_path / "nowhere", config.captcha, config.data.picture_rules)
