"""The index of the spans: a cache that stays correct if the index or the spans are changed, damaged or removed."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.base.errors import CaptchaPipelineError
from components.data.drawing.painting import CaptchaPainter
from components.data.drawing.synthetic import synthesise
from components.data.sources.imported import import_folder
from components.data.sources.index import Place, SpanIndex
from components.data.sources.outcome import Imported, NothingNew
from components.data.sources.seen import of_encoded, of_pixels
from components.data.span_writer import drop_span, lock_data
from components.data.spans import list_spans
from tests.support.drawing import synth_plan
from tests.support.imports import labelled, picture, plan
from tests.support.paths import ROOT

INDEX = ".index.sqlite"
SEEDS = range(12)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    for seed in SEEDS:
        drop(folder, seed)
    return folder


@pytest.fixture
def root(tmp_path: Path, inbox: Path) -> Path:
    """Returns a data folder with two spans; the first has three shards."""
    ingest(inbox, tmp_path / "data")
    for seed in (50, 51):
        drop(inbox, seed)
    ingest(inbox, tmp_path / "data")
    return tmp_path / "data"


def drop(folder: Path, seed: int) -> None:
    (folder / f"{seed:04d}_a.png").write_bytes(picture(seed))


def ingest(inbox: Path, root: Path) -> Imported:
    return import_folder(inbox, "{label}_*", plan(root, only_new=True, shard_size=4))


def what_is_known(root: Path, *seeds: int) -> list[list[tuple[Place, str]]]:
    """Returns the places of each picture in the index, each with its description."""
    rules = plan(root).rules
    with SpanIndex(root, rules) as index:
        index.refresh(list_spans(root))
        return [
            [(place, index.describe(place)) for place in index.same(of_encoded(picture(seed), "", "", rules).key)]
            for seed in seeds or (*SEEDS, 50, 51)
        ]


def test_an_import_adds_the_same_entries_as_a_new_index(root: Path) -> None:
    added = what_is_known(root)
    (root / INDEX).unlink()
    assert what_is_known(root) == added
    places = [place for found in added for place, _ in found]
    assert [place.label for place in places] == [f"{seed:04d}" for seed in (*SEEDS, 50, 51)]
    assert {place.number for place in places} == {1, 2}
    assert {place.shard for place in places if place.number == 1} == {0, 1, 2}


def test_an_indexed_span_is_not_read_again(root: Path, inbox: Path) -> None:
    for span in list_spans(root):
        for split in ("train", "eval", "test"):
            shutil.rmtree(span.path / split)
    with pytest.raises(NothingNew):
        ingest(inbox, root)
    drop(inbox, 60)
    assert list(labelled(ingest(inbox, root).span)) == ["0060"]


def test_a_missing_shard_is_named(root: Path, inbox: Path) -> None:
    (root / INDEX).unlink()
    shutil.rmtree(root / "span-000002" / "eval")
    with pytest.raises(CaptchaPipelineError, match=r"The shard .*span-000002/eval/.* is missing"):
        ingest(inbox, root)


def test_a_removed_and_restored_span_is_noticed(root: Path, inbox: Path) -> None:
    aside = drop_span(root, 2)
    assert what_is_known(root, 3, 50) == [*what_is_known(root, 3), []]
    aside.rename(root / aside.name)
    assert what_is_known(root, 50) != [[]]
    with pytest.raises(NothingNew):
        ingest(inbox, root)


def test_the_places_of_a_picture_are_in_the_order_of_the_spans_also_after_a_restore(root: Path, inbox: Path) -> None:
    import_folder(inbox, "{label}_*", plan(root))
    aside = drop_span(root, 1)
    assert [place.number for place, _ in what_is_known(root, 3)[0]] == [3]
    aside.rename(root / aside.name)
    assert [place.number for place, _ in what_is_known(root, 3)[0]] == [1, 3]


def test_a_replaced_span_is_noticed(root: Path, inbox: Path) -> None:
    shutil.rmtree(root / "span-000002")
    (root / "span-000001").rename(root / "span-000002")
    assert {place.number for found in what_is_known(root, *SEEDS) for place, _ in found} == {2}
    assert what_is_known(root, 50) == [[]]


@pytest.mark.slow
def test_synthetic_spans_in_both_layouts_are_indexed(tmp_path: Path) -> None:
    spec = plan(tmp_path).spec
    for layout in ("book", "canonical"):
        span = synthesise(synth_plan(spec, 9, 1, 4, {"train": 2, "eval": 1, "test": 1}, layout=layout), tmp_path / layout)
        with SpanIndex(tmp_path / layout, plan(tmp_path).rules) as index:
            index.refresh([span])
            for captcha in map(CaptchaPainter(synth_plan(spec, 9, 1, 4, {})).paint, range(9)):
                seen = of_pixels(captcha.image, captcha.label, "")
                (place,) = index.same(seen.key)
                assert place.label == captcha.label
                assert seen.look is not None
                assert index.most_alike(b"", seen.look) == place


@pytest.mark.parametrize("damage", ["empty", "text", "half", "flipped", "later version"])
def test_a_damaged_index_is_made_again(root: Path, inbox: Path, damage: str) -> None:
    expected = what_is_known(root)
    file = root / INDEX
    data = file.read_bytes()
    if damage == "later version":
        data = data[:60] + (99).to_bytes(4, "big") + data[64:]  # https://www.sqlite.org/fileformat.html: the user version
    broken = {
        "empty": b"",
        "text": b"no database" * 100,
        "half": data[: len(data) // 2],
        "flipped": data[:4096] + b"\xff" * (len(data) - 4096),
    }
    file.write_bytes(broken.get(damage, data))
    assert what_is_known(root) == expected
    with pytest.raises(NothingNew):
        ingest(inbox, root)


def test_changed_picture_rules_make_another_index(root: Path) -> None:
    with SpanIndex(root, plan(root).rules) as index:
        index.refresh(list_spans(root))
    small = plan(root).rules.__class__(max_pixels=100, background=(0, 0, 0), wrong_size="resize")
    with SpanIndex(root, small) as index:
        index.refresh(list_spans(root))
        assert index.same(of_encoded(picture(3), "", "", plan(root).rules).key) == []
        assert len(index.same(of_encoded(picture(3), "", "", small).key)) == 1  # refused, so its key is the hash of its bytes


SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests.support.imports import plan
from components.data import span_writer
from components.data.sources.imported import import_folder
from components.data.sources.outcome import NothingNew

root, inbox, kill_after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def progress(what, done, total):
    if what == "Importing" and done == kill_after:
        os.kill(os.getpid(), signal.SIGKILL)

def publish(self):
    if kill_after == -1:
        os.kill(os.getpid(), signal.SIGKILL)
    return published(self)

published = span_writer.new_span._publish
span_writer.new_span._publish = publish
try:
    import_folder(inbox, "{label}_*", plan(root, only_new=True, shard_size=4), progress)
    print("imported")
except NothingNew:
    print("nothing new")
"""


def start(root: Path, inbox: Path, kill_after: int = 0) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", SCRIPT, str(root), str(inbox), str(kill_after)]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kill_after", [1, 7, len(SEEDS), -1])
def test_a_killed_import_leaves_no_entries_without_a_span(tmp_path: Path, inbox: Path, kill_after: int) -> None:
    root = tmp_path / "data"
    killed = start(root, inbox, kill_after)
    assert killed.wait(60) == -signal.SIGKILL
    assert sorted(labelled(ingest(inbox, root).span)) == [f"{seed:04d}" for seed in SEEDS]
    assert [span.number for span in list_spans(root)] == [1]


@pytest.mark.slow
def test_two_concurrent_imports_import_each_picture_once(tmp_path: Path, inbox: Path) -> None:
    root = tmp_path / "data"
    with lock_data(root):
        both = [start(root, inbox) for _ in range(2)]
        for process in both:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("Waiting for process ")  # both have started, and wait for this process
    printed = sorted(process.communicate(timeout=120)[0].strip() for process in both)
    assert printed == ["imported", "nothing new"]
    assert [span.number for span in list_spans(root)] == [1]
