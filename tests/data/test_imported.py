import gzip
import io
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.synthetic import synthesise
from components.data.example_proto import Example, bytes_example
from components.data.legacy_layout import DataInfo, legacy_example, to_canonical
from components.data.sources import imported
from components.data.sources.imported import import_folder, import_legacy, import_table
from components.data.span_writer import ShardWriter
from components.data.spans import list_spans
from components.data.splits import SPLIT_RULE
from components.data.tfrecords import read_records
from pipeline.cli.data import data_app
from tests.support.drawing import synth_plan
from tests.support.imports import SPEC, WEIGHTS, labelled, picture, plan, records
from tests.support.model_folder import contents


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number in range(8):
        (folder / f"{number:04d}_a.png").write_bytes(picture(number))
    (folder / "more" / "0008_b_c.png").write_bytes(picture(8))
    (folder / "readme.txt").write_text("hello")
    (folder / ".hidden_x").write_text("")
    return folder


def test_a_folder_is_imported_with_unchanged_pictures(tmp_path, folder):
    seen = []
    result = import_folder(folder, "{label}_*", plan(tmp_path / "data", shard_size=4), lambda *done: seen.append(done))
    found = labelled(result.span)
    assert found["0008"] == (picture(8), {"file": "more/0008_b_c.png"})
    assert sorted(found) == [f"{number:04d}" for number in range(9)]
    assert result.left_out == {"the name does not match {label}_*": 1}
    assert "readme.txt" in result.describe()
    assert seen[-1] == ("Importing", 9, 9)
    assert {path.name for path in result.span.path.rglob("*.gz")} == {f"shard-0000{i}-of-00003.tfrecord.gz" for i in range(3)}
    assert len([*result.span.records("train")]) == result.span.manifest.counts["train"] > 0


def test_a_second_import_gives_the_same_bytes_and_splits(tmp_path, folder):
    first = import_folder(folder, "{label}_*", plan(tmp_path / "data")).span
    again = import_folder(folder, "{label}_*", plan(tmp_path / "data")).span
    assert contents(first.path) == contents(again.path)
    for path in folder.glob("000[0-4]*"):
        with Image.open(path) as image:
            image.save(path, "BMP")
    later = import_folder(folder, "{label}_*", plan(tmp_path / "data")).span
    assert later.manifest.counts == first.manifest.counts


def shades(mode, seed):
    """Returns a picture whose text is in data that earlier releases ignored: the alpha channel, or values above 255."""
    marks = np.random.default_rng(seed).random((10, 20)) < 0.5
    if mode == "I;16":
        return Image.fromarray(np.where(marks, 10_000, 60_000).astype(np.uint16))
    black = Image.new(mode, (20, 10))
    black.putalpha(Image.fromarray(np.where(marks, 255, 0).astype(np.uint8)))
    return black


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_different_pictures_are_spread_over_the_splits(tmp_path, mode):
    for number in range(100):
        path = tmp_path / "in" / f"{number:04d}.png"
        path.parent.mkdir(exist_ok=True)
        shades(mode, number).save(path)
    span = import_folder(tmp_path / "in", "{label}.*", plan(tmp_path / "data", splits={"train": 2, "eval": 1, "test": 1})).span
    assert all(count >= 10 for count in span.manifest.counts.values()), span.manifest.counts


def test_every_kind_of_import_records_its_split_rule(tmp_path, folder, book):
    (folder / "labels.csv").write_text("path,label\n0001_a.png,0001\n")
    target = plan(tmp_path / "data")
    made = [import_folder(folder, "{label}_*", target), import_table(folder / "labels.csv", target), import_legacy(book[0], target)]
    for result in made:
        assert (result.span.manifest.split_rule, result.span.manifest.params["splits"]) == (SPLIT_RULE, WEIGHTS)


def test_transparent_legacy_pictures_are_split_by_their_visible_pixels(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "book"
    folder.mkdir()
    raw = [np.dstack([np.zeros((10, 20, 3), np.uint8), rng.integers(0, 256, (10, 20), np.uint8)]) for _ in range(40)]
    label = np.array([0, 0, 0, 0], "<i8").tobytes()
    with ShardWriter(folder, "all", "canonical") as writer:
        for pixels in raw:
            writer.write("train", bytes_example({"image_raw": pixels.tobytes(), "label_raw": label}).SerializeToString())
    (folder / "data_info.csv").write_text(
        'name,type,shape,isbyte,length_type,default\nimage_raw,uint8,"[10,20,4]",True,fixed,\nlabel_raw,int64,4,True,fixed,\n'
    )
    converted = import_legacy(folder, plan(tmp_path / "data", splits={"train": 2, "eval": 1, "test": 1})).span
    (tmp_path / "pictures").mkdir()
    for number, pixels in enumerate(raw):
        Image.fromarray(pixels, "RGBA").save(tmp_path / "pictures" / f"{number:04d}.png")
    same = import_folder(tmp_path / "pictures", "{label}.*", plan(tmp_path / "other", splits={"train": 2, "eval": 1, "test": 1})).span
    assert converted.manifest.counts == same.manifest.counts
    assert all(converted.manifest.counts.values())


@pytest.mark.parametrize(
    ("pattern", "name", "label"),
    [
        ("{label}.*", "0042.png", "0042"),
        ("{label}_*", "0042_a_b.png", "0042"),
        ("img-*-{label}.jpg", "img-7-0042.jpg", "0042"),
        ("{label}/*.png", "0042/deep.png", "0042"),
        ("*/{label}(1).png", "a/0042(1).png", "0042"),
    ],
)
def test_patterns_find_the_label(tmp_path, pattern, name, label):
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(picture(1))
    assert list(labelled(import_folder(tmp_path / "in", pattern, plan(tmp_path)).span)) == [label]


def test_a_pattern_without_a_match_shows_a_file_name(tmp_path, folder):
    with pytest.raises(CaptchaPipelineError, match=r"'x\{label\}'(?s:.*)10 left out(?s:.*)0000_a\.png"):
        import_folder(folder, "x{label}", plan(tmp_path / "data"))
    with pytest.raises(CaptchaPipelineError, match=r"must contain \{label\} once"):
        import_folder(folder, "*.png", plan(tmp_path / "data"))
    with pytest.raises(CaptchaPipelineError, match=r"The folder .* does not exist"):
        import_folder(folder / "nowhere", "{label}", plan(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_a_pattern_with_only_wrong_labels_shows_one_label(tmp_path, folder):
    with pytest.raises(
        CaptchaPipelineError, match=r"No label matches .* The first of 9 is 0000_a\.png: label '0000_a' has '_'(?s:.*)match the file names"
    ):
        import_folder(folder, "{label}.png", plan(tmp_path / "data"))


def test_wrong_labels_and_pictures_are_imported_and_reported(tmp_path, folder):
    (folder / "12345_a.png").write_bytes(picture(9))
    (folder / "0009_a.png").write_bytes(b"not a picture")
    result = import_folder(folder, "{label}_*", plan(tmp_path / "data"))
    assert labelled(result.span)["0009"][0] == b"not a picture"
    assert len(result.refused_labels) == 1
    assert "12345_a.png" in result.refused_labels[0]


def test_links_pipes_and_huge_files_are_left_out(tmp_path, folder, monkeypatch):
    (tmp_path / "outside_x.png").write_bytes(picture(0))
    (folder / "1111_link.png").symlink_to(tmp_path / "outside_x.png")
    (folder / "inside.jpg").write_bytes(picture(20))
    (folder / "2222_link.png").symlink_to(folder / "inside.jpg")
    (folder / "5555_loop.png").symlink_to(folder / "5555_loop.png")
    os.mkfifo(folder / "3333_pipe.png")
    (folder / "4444_big.png").write_bytes(b"x" * 5001)
    monkeypatch.setattr(imported, "MAX_FILE_BYTES", 5000)
    result = import_folder(folder, "{label}_*.png", plan(tmp_path / "data"))
    assert {"1111", "3333", "4444", "5555"}.isdisjoint(labelled(result.span))
    assert "2222" in labelled(result.span)
    assert sum(result.left_out.values()) == 6


def test_a_folder_that_cannot_be_read_is_left_out(tmp_path, folder, monkeypatch):
    (folder / "closed").mkdir()
    scandir = os.scandir

    def refusing(path):  # the tests may run as root, whom no folder refuses
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert import_folder(folder, "{label}_*.png", plan(tmp_path / "data")).reasons["the folder cannot be read"].examples == ["closed"]


def test_decomposed_unicode_names_are_accepted(tmp_path):
    spec = CaptchaSpec(charset="éü", length=2)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / unicodedata.normalize("NFD", "éü.png")).write_bytes(picture(1))
    result = import_folder(tmp_path / "in", "{label}.*", plan(tmp_path, spec=spec))
    assert result.refused_labels == []


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_is_imported(tmp_path, folder, kind):
    table = folder / f"labels.{kind}"
    rows = [("0001_a.png", "0042"), ("more/0008_b_c.png", "0007"), (str(folder / "0000_a.png"), "0000"), ("gone.png", "0001")]
    if kind == "csv":
        table.write_text("\ufefflabel,note,path\n" + "".join(f"{label},x,{path}\n" for path, label in rows))
    else:
        table.write_text("\n".join(json.dumps({"path": path, "label": label}) for path, label in rows) + "\n\n")
    result = import_table(table, plan(tmp_path / "data"))
    found = labelled(result.span)
    assert {label: found[label][0] for label in found} == {"0042": picture(1), "0007": picture(8), "0000": picture(0)}
    assert result.left_out == {"it does not exist or is not a file": 1}
    assert "gone.png" in result.describe()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "path,text\n", "lacks the column label"),
        ("a.csv", "", "lacks the column path and label"),
        ("a.csv", "path,label\n", "lists no pictures"),
        ("a.csv", "path,label\n0001_a.png\n", "line 2: the row is too short"),
        ("a.jsonl", '{"path": "a.png", "label": "1"}\n{"path": "a.png", "label": 42}\n', "line 2: write an object"),
        ("a.jsonl", "{", "line 1: write an object"),
        ("a.jsonl", "[" * 100_000, "line 1: write an object"),
        ("a.jsonl", '{"path": "0001_a.png", "label": "\\ud800"}\n', "No label matches"),
        ("a.csv", "path,label\ngone.png,0001\n", "Nothing could be imported(?s:.*)gone.png"),
    ],
)
def test_a_wrong_table_is_explained(tmp_path, folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(CaptchaPipelineError, match=message):
        import_table(folder / name, plan(tmp_path / "data"))
    assert list_spans(tmp_path / "data") == []


def test_a_label_that_utf8_cannot_encode_is_left_out(tmp_path, folder):
    (folder / "a.jsonl").write_text('{"path": "0001_a.png", "label": "0001"}\n{"path": "0000_a.png", "label": "\\ud800"}\n')
    result = import_table(folder / "a.jsonl", plan(tmp_path / "data"))
    assert result.left_out == {"its name or label is not Unicode text": 1}


def test_only_pictures_of_the_right_size_are_written_in_the_legacy_layout(tmp_path, folder):
    (folder / "0009_large.png").write_bytes(picture(9, (21, 10)))
    (folder / "0010_broken.png").write_bytes(b"x")
    (folder / "00x1_label.png").write_bytes(picture(10))
    result = import_folder(folder, "{label}_*", plan(tmp_path / "data", layout="book"))
    assert result.left_out == {"the name does not match {label}_*": 1, "image_size": 1, "image_undecodable": 1, "label_charset": 1}
    info = DataInfo.load(result.span.path / "data_info.csv")
    found = {}
    for data in records(result.span):
        values = to_canonical(Example.FromString(data), info, SPEC).features.feature
        with Image.open(io.BytesIO(values["image"].bytes_list.value[0])) as image:
            found[values["label"].bytes_list.value[0].decode()] = image.tobytes()
    assert sorted(found) == [f"{number:04d}" for number in range(9)]
    with Image.open(io.BytesIO(picture(3))) as image:
        assert found["0003"] == image.tobytes()


@pytest.fixture
def book(tmp_path):
    """Returns a set in the legacy layout: 6 good records, one wrong class ID, one record that is no tf.Example, one wrong checksum."""
    folder = tmp_path / "book"
    folder.mkdir()
    rng = np.random.default_rng(0)
    good = [legacy_example(rng.integers(0, 256, (10, 20, 3), np.uint8), f"000{i}", SPEC).SerializeToString() for i in range(6)]
    wrong = bytes_example({"image_raw": b"\1" * 600, "label_raw": np.array([0, 0, 0, 99]).tobytes()}).SerializeToString()
    with ShardWriter(folder, "train", "canonical") as writer:
        for record in [*good, wrong, b"\xff no example"]:
            writer.write("train", record)
    with ShardWriter(folder, "test", "canonical") as writer:
        writer.write("test", b"x" * 50)
    plain = bytearray(gzip.decompress((folder / "test" / "test.tfrecord.gz").read_bytes()))
    plain[20] ^= 1
    (folder / "test" / "test.tfrecord").write_bytes(plain)
    (folder / "test" / "test.tfrecord.gz").unlink()
    DataInfo.for_spec(SPEC).save(folder / "data_info.csv")
    return folder, good, [wrong, b"\xff no example"]


def test_legacy_records_are_converted(tmp_path, book):
    folder, good, _ = book
    result = import_legacy(folder, plan(tmp_path / "data"))
    assert sorted(labelled(result.span)) == [f"000{i}" for i in range(6)]
    assert result.left_out == {"label_charset": 1, "record_unparseable": 1, "record_checksum": 1}
    assert "record 6" in result.describe()
    assert len(good) == sum(result.span.manifest.counts.values())


def test_good_and_wrong_legacy_records_are_copied_and_keep_their_split(tmp_path, book):
    folder, good, wrong = book
    copied = import_legacy(folder, plan(tmp_path / "data", layout="book"))
    assert sorted(records(copied.span)) == sorted(good + wrong)
    assert copied.left_out == {"record_checksum": 1}
    info = DataInfo.load(copied.span.path / "data_info.csv")
    converted = import_legacy(folder, plan(tmp_path / "data")).span
    for split in WEIGHTS:
        raw = [Example.FromString(r.data) for path in copied.span.files(split) for r in read_records(path) if r.data in good]
        expected = {to_canonical(example, info, SPEC, "shop").SerializeToString(deterministic=True) for example in raw}
        assert {r.data for path in converted.files(split) for r in read_records(path)} == expected


def test_one_legacy_file_and_a_legacy_set_without_files(tmp_path, book):
    folder, _, _ = book
    (folder / "train" / "data_info.csv").write_bytes((folder / "data_info.csv").read_bytes())
    assert len(labelled(import_legacy(folder / "train" / "train.tfrecord.gz", plan(tmp_path / "data")).span)) == 6
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "data_info.csv").write_bytes((folder / "data_info.csv").read_bytes())
    with pytest.raises(CaptchaPipelineError, match="no TFRecord files"):
        import_legacy(tmp_path / "empty", plan(tmp_path / "data"))


def test_a_synthetic_legacy_span_is_imported_with_its_splits(tmp_path):
    made = synthesise(synth_plan(SPEC, 40, 1, 20, WEIGHTS, layout="book"), tmp_path / "made")
    result = import_legacy(made.path, plan(tmp_path / "data"))
    assert result.span.manifest.counts == made.manifest.counts
    assert not result.left_out


def invoke(tmp_path, *arguments):
    settings = ["captcha.width=20", "captcha.height=10", f"data.root={tmp_path / 'data'}"]
    return CliRunner().invoke(data_app, ["import", *arguments, *(part for setting in settings for part in ("--set", setting))])


def test_the_command_recognises_each_kind_of_set(tmp_path, folder, book):
    (folder / "labels.csv").write_text("path,label\n0001_a.png,0001\n")
    for path, count in ((folder, 9), (folder / "labels.csv", 1), (book[0], 6), (book[0] / "data_info.csv", 6)):
        result = invoke(tmp_path, str(path), "--pattern", "{label}_*")
        assert result.exit_code == 0, result.output
        assert f" now has {count} picture{'s' * (count > 1)} (" in result.output
    assert [span.manifest.source for span in list_spans(tmp_path / "data")] == ["pictures", "labels", "book", "data_info"]


def test_the_command_refuses_a_missing_folder_and_a_text_file(tmp_path, folder):
    result = invoke(tmp_path, str(tmp_path / "nowhere"))
    assert isinstance(result.exception, CaptchaPipelineError)
    result = invoke(tmp_path, str(folder / "readme.txt"))
    assert isinstance(result.exception, CaptchaPipelineError)
