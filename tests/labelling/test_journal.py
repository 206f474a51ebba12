"""The record of a labelling on disk."""

import multiprocessing
import os
import signal
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest

from components.base.errors import CaptchaPipelineError
from pipeline.labelling.journal import Journal, Kind, Reading, TrainedModel

ONE, TWO = b"1" * 16, b"2" * 16


def test_the_newest_decision_counts_and_earlier_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.sqlite"
    journal = Journal(path)
    journal.draft(ONE, "0")
    journal.draft(TWO, "9")
    journal.draft(ONE, "00")
    assert list(journal.drafts().items()) == [(TWO, "9"), (ONE, "00")]
    journal.decide(ONE, Kind.LABEL, "0001", "a")
    corrected = journal.decide(ONE, Kind.LABEL, "0002", "a")
    skipped = journal.decide(TWO, Kind.SKIP, "", "b")
    journal.close()
    again = Journal(path)
    assert again.decisions() == {ONE: corrected, TWO: skipped}
    assert again.drafts() == {}
    again.close()
    with sqlite3.connect(path) as database:
        assert [text for (text,) in database.execute("SELECT text FROM decision ORDER BY id")] == ["0001", "0002", ""]


def test_a_reading_before_the_label_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.decide(ONE, Kind.LABEL, "0001", "a", [(7, "0007")])
    journal.read(7, [(ONE, "0008"), (TWO, "0002")])
    journal.read(8, [(ONE, "0001")])
    assert journal.readings() == {7: {ONE: Reading("0007", True), TWO: Reading("0002", False)}, 8: {ONE: Reading("0001", False)}}
    journal.close()


def test_a_model_is_the_one_that_was_begun_last(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    assert journal.finish_model(5, 1, 30) == TrainedModel(5, 1, 30)  # from elsewhere
    journal.begin_model(2, 60)
    assert journal.models() == [TrainedModel(5, 1, 30)]
    journal.begin_model(3, 70)  # after a kill
    assert journal.finish_model(9, 4, 99) == TrainedModel(9, 3, 70)
    assert journal.finish_model(9, 5, 100) == TrainedModel(9, 3, 70)
    assert journal.models() == [TrainedModel(5, 1, 30), TrainedModel(9, 3, 70)]
    journal.close()


def test_a_training_without_a_model_says_nothing_about_the_next_model(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.begin_model(2, 60)
    journal.abandon_model()
    assert journal.finish_model(5, 4, 99) == TrainedModel(5, 4, 99)
    journal.close()


def write_without_end(path: Path, told: int) -> None:
    """Writes decisions and drafts, and tells the number of each when it is on the disk."""
    journal = Journal(path)
    for number in range(10**9):
        key = number.to_bytes(16, "big")
        journal.draft(key, f"draft {number}")
        os.write(told, b"d%d\n" % number)
        if number % 2:
            journal.decide(key, Kind.LABEL, f"{number:04d}", "a")
            os.write(told, b"l%d\n" % number)


@pytest.mark.slow
@pytest.mark.parametrize("milliseconds", [5, 20, 50, 110])
def test_a_kill_loses_nothing_that_was_answered(tmp_path: Path, milliseconds: int) -> None:
    path = tmp_path / "journal.sqlite"
    end, beginning = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=write_without_end, args=(path, beginning))
    process.start()
    os.close(beginning)
    with open(end) as told:
        first = told.readline()
        time.sleep(milliseconds / 1000)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        lines = [first, *told]
    journal = Journal(path)
    decisions, drafts = journal.decisions(), journal.drafts()
    for line in lines:
        if not line.endswith("\n"):
            continue
        number = int(line[1:])
        key = number.to_bytes(16, "big")
        if line[0] == "l":
            assert decisions[key].text == f"{number:04d}"
            assert key not in drafts
        else:
            assert drafts.get(key) == f"draft {number}" or key in decisions
    journal.decide(ONE, Kind.LABEL, "0001", "a")  # it goes on
    journal.close()


def test_a_settled_decision_stays_settled_and_the_next_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    first, other = journal.decide(ONE, Kind.LABEL, "0001", "a"), journal.decide(TWO, Kind.LABEL, "0002", "a")
    journal.settle([first.id])
    journal.close()
    journal = Journal(path)
    assert journal.decisions() == {ONE: replace(first, settled=True), TWO: other}
    assert not journal.decide(ONE, Kind.LABEL, "0003", "a").settled
    assert not journal.decisions()[ONE].settled
    journal.close()


def test_a_damaged_or_foreign_file_is_reported_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(CaptchaPipelineError, match="is damaged"):
        Journal(path)
    assert path.read_bytes() == b"no database" * 100
    path.unlink()
    Journal(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(CaptchaPipelineError, match="Another release"):
        Journal(path)
