"""Repeated imports of an inbox: new pictures become a span, and no picture is imported twice."""

import shutil
from pathlib import Path

import pytest

from components.base.errors import CaptchaPipelineError
from components.data.sources.imported import import_folder
from components.data.sources.outcome import NothingNew
from components.data.spans import list_spans
from tests.support.command import call
from tests.support.imports import labelled, picture, plan
from tests.support.paths import TINY


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    for number in range(4):
        drop(folder, f"{number:04d}_a.png", number)
    return folder


def drop(folder: Path, name: str, seed: int) -> None:
    (folder / name).write_bytes(picture(seed))


def ingest(inbox: Path, root: Path) -> list[str]:
    """Imports the inbox; returns the sorted labels of the new span."""
    return sorted(labelled(import_folder(inbox, "{label}_*", plan(root, only_new=True)).span))


def test_each_picture_is_imported_once_even_if_renamed_or_moved(tmp_path: Path, inbox: Path) -> None:
    root = tmp_path / "data"
    assert ingest(inbox, root) == ["0000", "0001", "0002", "0003"]
    with pytest.raises(NothingNew):
        ingest(inbox, root)
    (inbox / "0000_a.png").rename(inbox / "0000_renamed.png")
    (inbox / "later").mkdir()
    shutil.move(inbox / "0001_a.png", inbox / "later")
    with pytest.raises(NothingNew):
        ingest(inbox, root)
    drop(inbox, "0009_b.png", 9)
    assert ingest(inbox, root) == ["0009"]
    assert [span.number for span in list_spans(root)] == [1, 2]


def test_another_picture_with_the_same_label_is_new(tmp_path: Path, inbox: Path) -> None:
    root = tmp_path / "data"
    ingest(inbox, root)
    drop(inbox, "0000_other-picture.png", 50)
    assert ingest(inbox, root) == ["0000"]


def test_the_pictures_of_a_removed_span_are_imported_again(tmp_path: Path, inbox: Path) -> None:
    root = tmp_path / "data"
    ingest(inbox, root)
    (span,) = list_spans(root)
    shutil.rmtree(span.path)
    assert ingest(inbox, root) == ["0000", "0001", "0002", "0003"]


def test_an_empty_inbox_and_a_wrong_pattern_are_errors(tmp_path: Path, inbox: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaptchaPipelineError, match="The folder is empty"):
        ingest(tmp_path / "empty", tmp_path / "data")
    with pytest.raises(CaptchaPipelineError, match="could be imported with --pattern"):
        import_folder(inbox, "{label}-*", plan(tmp_path / "data", only_new=True))


def test_the_ingest_command(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    drop(inbox, "01_a.png", 1)
    arguments = ["data", "ingest", str(inbox), "--pattern", "{label}_*", "--config", str(TINY), "--set", f"data.root={tmp_path / 'data'}"]
    assert "span-000001 now has 1 picture (" in call(*arguments)
    assert f"Nothing new in {inbox}" in call(*arguments)
    drop(inbox, "02_a.png", 2)
    printed = call(*arguments)
    assert "span-000002 now has 1 picture (" in printed
    assert "1 already in a span with the same label: left out." in printed


@pytest.mark.parametrize("name", ["synthetic", "pseudo", "corrections"])
def test_an_import_cannot_pass_for_what_the_pipeline_makes_itself(tmp_path: Path, inbox: Path, name: str) -> None:
    options = ["--config", str(TINY), "--set", f"data.root={tmp_path / 'data'}"]
    with pytest.raises(CaptchaPipelineError, match="reserved"):
        call("data", "import", str(inbox), "--pattern", "{label}_*", "--source", name, *options)
    inbox.rename(tmp_path / name)
    with pytest.raises(CaptchaPipelineError, match="reserved"):
        call("data", "ingest", str(tmp_path / name), "--pattern", "{label}_*", *options)
    assert not (tmp_path / "data").exists()
