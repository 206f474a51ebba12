"""The benchmark of real pictures: its sets, their division into train and test, and its counts."""

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import real
from benchmarks.crnn_fit import build, texts
from benchmarks.peers import NotInstalled
from benchmarks.real_sets import FOLDS, Division, Labelled, divided, divisions, first, spec_of
from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec

LABELS = [f"{number:03d}" for number in range(60)]


def draw(path: Path, seed: int) -> None:
    """Saves a picture of 20 x 10 pixels; each seed gives a different picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 20), np.uint8)).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of three sets: labelled by file names, labelled by a table, and with its own test part."""
    root = tmp_path_factory.mktemp("real")
    for seed, label in enumerate(LABELS):
        draw(root / "named" / f"{label}.png", seed)
        draw(root / "own" / ("test" if seed < 10 else "train") / f"{label}.png", seed)
        draw(root / "tabled" / f"{seed}.png", seed)
    (root / "named" / "LICENSE").write_text("free")
    (root / "named" / "README.md").write_text("pictures")
    (root / "empty").mkdir()
    with (root / "tabled" / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *([f"{seed}.png", label] for seed, label in enumerate(LABELS))])
    return root


def test_sets_are_folders_with_a_table_or_with_labels_in_file_names(folder: Path) -> None:
    found = {division.name: division for division in divisions(folder)}
    assert list(found) == ["named", "own", "own, its own test part", "tabled"]
    for name in ("named", "own", "tabled"):
        pictures = [*found[name].parts[0].train, *found[name].parts[0].test]
        assert sorted(picture.label for picture in pictures) == LABELS
    (part,) = found["own, its own test part"].parts
    assert sorted(picture.label for picture in part.test) == LABELS[:10]
    assert sorted(picture.label for picture in part.train) == LABELS[10:]


def test_folds_follow_the_digest_are_disjoint_and_cover_every_picture(folder: Path) -> None:
    division = divisions(folder)[0]
    assert len(division.parts) == FOLDS
    for fold, part in enumerate(division.parts):
        assert {int(hashlib.sha256(picture.path.read_bytes()).hexdigest(), 16) % 5 for picture in part.test} == {fold}
        assert not {picture.path for picture in part.train} & {picture.path for picture in part.test}
        assert len(part.train) + len(part.test) == len(LABELS)
    assert sorted(picture.label for part in division.parts for picture in part.test) == LABELS


def test_a_large_set_is_tested_with_the_pictures_whose_digest_is_0_modulo_5() -> None:
    pictures = [Labelled(Path(str(number)), str(number), "1", number) for number in range(2_001)]
    ((part,),) = (division.parts for division in divided("large", pictures))
    assert {picture.digest % 5 for picture in part.test} == {0}
    assert {picture.digest % 5 for picture in part.train} == {1, 2, 3, 4}
    assert len(divided("small", pictures[:2_000])[0].parts) == FOLDS


def test_a_copy_of_a_test_file_is_not_used_for_training() -> None:
    pictures = [Labelled(Path(name), name, "1", digest) for name, digest in (("test/a.png", 7), ("train/b.png", 7), ("train/c.png", 8))]
    (part,) = divided("set", pictures)[1].parts
    assert [picture.name for picture in part.test] == ["test/a.png"]
    assert [picture.name for picture in part.train] == ["train/c.png"]


def test_a_smaller_training_set_has_the_smallest_digests(folder: Path) -> None:
    part = divisions(folder)[0].parts[0]
    few = first(part, 5)
    assert few.test == part.test
    assert sorted(picture.digest for picture in part.train)[:5] == [picture.digest for picture in few.train]
    assert first(part, 10_000) == part


def test_the_spec_is_suggested_by_the_training_pictures(folder: Path) -> None:
    spec = spec_of(divisions(folder)[0].parts[0].train)
    assert (spec.characters, spec.length, spec.width, spec.height, spec.channels) == ("0123456789", 3, 20, 10, 1)


def test_a_folder_without_sets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptchaPipelineError, match="no folder with labelled pictures"):
        divisions(tmp_path)
    with pytest.raises(CaptchaPipelineError, match="does not exist"):
        divisions(tmp_path / "none")


def test_labels_are_compared_without_case_if_the_charset_has_one_case() -> None:
    test = [Labelled(Path("a"), "a", label, 0) for label in ("ab", "cd")]
    assert real.right(test, ["AB", "c"], CaptchaSpec(charset="abcd", case_sensitive=False)) == 1
    assert real.right(test, ["AB", "cd"], CaptchaSpec(charset="abcd")) == 1


def row(**changes: Any) -> dict[str, Any]:
    about = {"set": "v2", "labels": None, "fold": 0, "folds": 5, "train": 800, "test": 100, "reader": "ours", "read": 90}
    return about | {"fit_s": 10.0, "whole_s": 30.0} | changes


def test_a_line_combines_the_newest_row_of_each_fold() -> None:
    rows = [row(read=1), row(fold=1, read=95, fit_s=20.0), row(), row(reader="crnn, as long as ours", labels=200, train=200)]
    rows.append({key: value for key, value in row(reader="tesseract", train=0).items() if key not in ("fit_s", "whole_s")})
    columns, lines = real.table(rows)
    cells = [dict(zip(columns, line, strict=True)) for line in lines]
    assert [cell["reader"] for cell in cells] == ["crnn, as long as ours", "ours", "tesseract"]
    assert cells[1]["training pictures"] == "800"
    assert cells[1]["test pictures"] == "200 in 2 of 5 folds"
    assert cells[1]["full-sequence accuracy (95 % interval)"].startswith("92.50% (")
    assert (cells[1]["median fit time"], cells[1]["median run time"]) == ("15 s", "30 s")
    assert (cells[2]["training pictures"], cells[2]["median fit time"]) == ("none", "")


def test_a_missing_reader_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    division: Division = divisions(folder)[0]
    with pytest.raises(NotInstalled):
        list(real.measure("tesseract", division, 0, division.parts[0], None, 1))
    assert list(real.measure("tesseract", division, 0, division.parts[0], 5, 1)) == []


def test_the_crnn_has_enough_columns_and_merges_repeats_and_blanks() -> None:
    assert build(200, 50, 1, 5, 19).output_shape == (None, 50, 20)
    assert build(24, 16, 3, 6, 10).output_shape == (None, 12, 11)
    logits = np.full((1, 6, 3), -9, np.float32)
    logits[0, range(6), [1, 1, 0, 1, 2, 2]] = 9
    assert texts(logits, "ab") == ["aab"]
