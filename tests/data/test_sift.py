"""The pictures of an import that go into the span: each picture once, with one label, and its copies in one split."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.base.errors import CaptchaPipelineError
from components.base.features import PSEUDO
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.painting import CaptchaPainter
from components.data.example_proto import Example
from components.data.legacy_layout import DataInfo, legacy_example
from components.data.sources.corrections import correct
from components.data.sources.imported import import_folder, import_legacy, import_table
from components.data.span_writer import ShardWriter
from components.data.spans import Span, list_spans
from components.data.splits import split_key
from components.data.window import window
from tests.support.command import call
from tests.support.drawing import synth_plan
from tests.support.imports import labelled, picture, plan, records
from tests.support.model_folder import contents
from tests.support.paths import ROOT

CONFIG = str(ROOT / "configs" / "tiny.yaml")
EQUAL = {"train": 1, "eval": 1, "test": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


def save(folder: Path, name: str, seed: int) -> None:
    """Saves the picture of a seed in the lossless format that the name gives."""
    Image.open(io.BytesIO(picture(seed))).save(folder / name)


def test_a_picture_with_two_labels_in_one_import_is_reported_with_both(tmp_path: Path, folder: Path) -> None:
    save(folder, "0001_a.png", 1)
    save(folder, "0002_b.bmp", 1)
    save(folder, "0003_c.png", 3)
    result = import_folder(folder, "{label}_*", plan(tmp_path / "data"))
    assert sorted(labelled(result.span)) == ["0001", "0003"]
    assert result.contradictions == ["0002_b.bmp is labelled '0002'; 0001_a.png is labelled '0001'"]
    assert "1 left out: the picture already exists with another label" in result.describe()


@pytest.mark.parametrize("layout", ["canonical", "book"])
def test_a_picture_with_two_labels_in_two_spans_is_reported_with_both(tmp_path: Path, folder: Path, layout: str) -> None:
    target = plan(tmp_path / "data", layout=layout)
    save(folder, "0001_a.png", 1)
    first = import_folder(folder, "{label}_*", target).span
    (shard,) = (file.path for file in first.manifest.files if file.records)
    (tmp_path / "data" / ".index.sqlite").unlink()  # the report must come from the span, not from the index
    save(folder, "0003_c.png", 3)
    (folder / "0001_a.png").rename(folder / "0002_b.png")
    result = import_folder(folder, "{label}_*", target)
    where = f"span-000001/{shard}, record 0" + (" (0001_a.png)" if layout == "canonical" else "")
    assert result.contradictions == [f"0002_b.png is labelled '0002'; {where} is labelled '0001'"]
    assert result.span.manifest.counts.keys() == first.manifest.counts.keys()
    assert sum(result.span.manifest.counts.values()) == 1


def test_legacy_records_with_two_labels_are_reported(tmp_path: Path, folder: Path) -> None:
    spec = plan(tmp_path).spec
    pixels = np.random.default_rng(1).integers(0, 256, (10, 20, 3), np.uint8)
    with ShardWriter(folder, "all", "canonical") as writer:
        for label in ("0001", "0002", "0001"):
            writer.write("train", legacy_example(pixels, label, spec).SerializeToString())
    DataInfo.for_spec(spec).save(folder / "data_info.csv")
    for layout in ("canonical", "book"):
        result = import_legacy(folder, plan(tmp_path / layout, layout=layout))
        name = "train/all.tfrecord.gz"
        assert result.contradictions == [f"{name}, record 1 is labelled '0002'; {name}, record 0 is labelled '0001'"]
        assert result.left_out == {"the picture is already in this import with the same label": 1}
        assert len(list(records(result.span))) == 1


def test_the_same_picture_with_the_same_label_is_imported_once(tmp_path: Path, folder: Path) -> None:
    spec = CaptchaSpec(charset="lower", case_sensitive=False, length=2, width=20, height=10)
    for name in ("ab_1.png", "ab_2.bmp", "AB_3.png"):
        save(folder, name, 1)
    result = import_folder(folder, "{label}_*", plan(tmp_path / "data", spec=spec))
    assert list(labelled(result.span)) == ["AB"]  # the first by name
    assert result.left_out == {"the picture is already in this import with the same label": 2}
    assert result.contradictions == []


def test_bad_records_are_not_reported_as_contradictions(tmp_path: Path, folder: Path) -> None:
    save(folder, "00-1_wrong label.png", 1)
    save(folder, "0001_a.png", 1)
    (folder / "0002_broken.png").write_bytes(b"broken")
    (folder / "0003_broken.png").write_bytes(b"broken")
    result = import_folder(folder, "{label}_*", plan(tmp_path / "data"))
    assert sorted(labelled(result.span)) == ["00-1", "0001", "0002", "0003"]
    assert result.contradictions == []
    assert {reason: found.count for reason, found in result.refused_pictures.items()} == {"image_undecodable": 2}


def captchas(count: int) -> list[tuple[Image.Image, str]]:
    painter = CaptchaPainter(synth_plan(CaptchaSpec(), count, 7, count, EQUAL))
    return [(captcha.image, captcha.label) for captcha in map(painter.paint, range(count))]


def copies(image: Image.Image) -> dict[str, Image.Image]:
    smaller, larger = (image.resize((round(image.width * scale), round(image.height * scale))) for scale in (0.8, 1.2))
    return {"q75.jpg": image, "q95.jpg": image, "smaller.png": smaller, "larger.bmp": larger}


def save_captchas(folder: Path, *, originals: bool, copied: bool) -> None:
    for number, (image, label) in enumerate(captchas(12)):
        if originals:
            image.save(folder / f"{label}_{number}_0.png")
        for kind, copy in copies(image).items() if copied else ():
            copy.save(folder / f"{label}_{number}_{kind}", quality=75 if "75" in kind else 95)


def splits_by_label(span: Span) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for split in EQUAL:
        for data in records(Span(span.number, span.path, span.manifest.model_copy(update={"files": files_of(span, split)}))):
            found.setdefault(Example.FromString(data).features.feature["label"].bytes_list.value[0].decode(), set()).add(split)
    return found


def files_of(span: Span, split: str) -> tuple[object, ...]:
    return tuple(file for file in span.manifest.files if file.path.startswith(f"{split}/"))


def test_reencoded_and_resized_copies_are_in_the_split_of_the_original(tmp_path: Path, folder: Path) -> None:
    save_captchas(folder, originals=True, copied=True)
    result = import_folder(folder, "{label}_*", plan(tmp_path / "data", spec=CaptchaSpec(), splits=EQUAL))
    found = splits_by_label(result.span)
    assert sum(result.counts.values()) == 12 * 5
    assert result.alike == 12 * 4
    assert all(len(splits) == 1 for splits in found.values()), found
    assert set().union(*found.values()) == set(EQUAL)
    assert result.doubtful.count == 0


def test_copies_in_a_later_span_are_in_the_split_of_the_original(tmp_path: Path, folder: Path) -> None:
    target = plan(tmp_path / "data", spec=CaptchaSpec(), splits=EQUAL)
    save_captchas(folder, originals=True, copied=False)
    first = splits_by_label(import_folder(folder, "{label}_*", target).span)
    (tmp_path / "later").mkdir()
    save_captchas(tmp_path / "later", originals=False, copied=True)
    (tmp_path / "data" / ".index.sqlite").unlink()  # copies must be found in the spans, not in the index
    assert splits_by_label(import_folder(tmp_path / "later", "{label}_*", target).span) == first


def test_a_copy_with_another_label_is_imported_and_reported(tmp_path: Path, folder: Path) -> None:
    (image, _), *_ = captchas(1)
    image.save(folder / "0001_a.png")
    image.save(folder / "0002_b.jpg", quality=80)
    result = import_folder(folder, "{label}_*", plan(tmp_path / "data", spec=CaptchaSpec()))
    assert result.contradictions == []
    assert str(result.doubtful) == "0002_b.jpg ('0002') like 0001_a.png ('0001')"


def test_a_picture_stays_in_its_split_when_the_shares_change(tmp_path: Path, folder: Path) -> None:
    for seed in range(40):
        save(folder, f"{seed:04d}_a.png", seed)
    first = import_folder(folder, "{label}_*", plan(tmp_path / "data", splits=EQUAL)).span
    again = import_folder(folder, "{label}_*", plan(tmp_path / "data", splits={"train": 1, "eval": 1, "test": 98})).span
    assert splits_by_label(again) == splits_by_label(first)


def test_a_dry_run_reports_the_import_and_writes_nothing(tmp_path: Path, folder: Path) -> None:
    settings = ["--config", CONFIG, "--set", f"data.root={tmp_path / 'data'}", "--pattern", "{label}_*"]
    save(folder, "01_a.png", 1)
    call("data", "import", str(folder), *settings)
    (tmp_path / "data" / ".index.sqlite").unlink()
    for name, seed in (("02_b.png", 1), ("03_c.png", 3), ("03_d.bmp", 3), ("0x_wrong.png", 5)):
        save(folder, name, seed)
    (folder / "04_broken.png").write_bytes(b"broken")
    (folder / "readme.txt").write_text("")
    before = contents(tmp_path)
    told = call("data", "import", str(folder), *settings, "--dry-run", exit_code=3)
    assert contents(tmp_path) == before
    assert "Would be imported: 4 pictures" in told
    assert "02_b.png is labelled '02'; span-000001/" in told
    done = call("data", "import", str(folder), *settings, exit_code=3)
    # Only the lines about the span differ.
    assert told.splitlines()[2:] == done.splitlines()[2:]
    for part in ("1 already in a span", "20x10 3", "image_undecodable: 04_broken.png", "0x_wrong.png", "readme.txt", "03_d.bmp"):
        assert part in told


def test_a_dry_run_needs_no_data_folder(tmp_path: Path, folder: Path) -> None:
    save(folder, "0001_a.png", 1)
    result = import_folder(folder, "{label}_*", plan(tmp_path / "data", dry_run=True))
    assert sum(result.counts.values()) == 1
    assert not (tmp_path / "data").exists()


def test_an_ingest_exits_with_3_while_a_picture_has_two_labels(tmp_path: Path, folder: Path) -> None:
    arguments = ["data", "ingest", str(folder), "--pattern", "{label}_*", "--config", CONFIG, "--set", f"data.root={tmp_path / 'data'}"]
    save(folder, "01_a.png", 1)
    save(folder, "02_b.png", 1)
    assert "span-000001 now has 1 picture (" in call(*arguments, exit_code=3)
    told = call(*arguments, exit_code=3)
    assert "Nothing new" in told
    assert "02_b.png is labelled '02'; span-000001/" in told
    (folder / "02_b.png").unlink()
    assert "Nothing new" in call(*arguments)


def test_a_dropped_span_is_moved_aside_and_its_number_is_not_reused(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "data"
    settings = ["--config", CONFIG, "--set", f"data.root={root}"]
    for seed in (1, 2):
        save(folder, f"0{seed}_a.png", seed)
        call("data", "ingest", str(folder), "--pattern", "{label}_*", *settings)
    before = contents(root / "span-000002")
    (root / "span-000002" / "manifest.json").write_text("{")  # a damaged span can be dropped, too
    told = call("data", "drop", "2", *settings, "--set", "data.exclude=[2]")
    assert f"mv {root}/.dropped/span-000002 {root}" in told
    assert "data.exclude" in told
    assert contents(root / ".dropped" / "span-000002") == before | {"manifest.json": b"{"}
    assert [span.number for span in list_spans(root)] == [1]
    assert "span-000003 now has 1 picture (" in call("data", "ingest", str(folder), "--pattern", "{label}_*", *settings)
    with pytest.raises(CaptchaPipelineError, match=r"Span 2 does not exist in .*; its spans: 1, 3"):
        call("data", "drop", "2", *settings)


def test_the_golden_span_is_not_dropped(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "data"
    save(folder, "01_a.png", 1)
    settings = ["--config", CONFIG, "--set", f"data.root={root}"]
    call("data", "import", str(folder), "--pattern", "{label}_*", *settings)
    with pytest.raises(CaptchaPipelineError, match=r"golden span \(data\.golden\)"):
        call("data", "drop", "1", *settings, "--set", "data.golden=1")
    with pytest.raises(CaptchaPipelineError, match=r"The data folder .* does not exist"):
        call("data", "drop", "1", "--config", CONFIG, "--set", f"data.root={tmp_path / 'nowhere'}")
    assert len(list_spans(root)) == 1


def test_folder_names_may_contain_glob_characters(tmp_path: Path) -> None:
    inbox, root = tmp_path / "in [b]*?", tmp_path / "da[t]a*?"
    inbox.mkdir()
    settings = ["--config", CONFIG, "--set", f"data.root={root}"]
    save(inbox, "01_a.png", 1)
    assert "span-000001 now has 1 picture (" in call("data", "ingest", str(inbox), "--pattern", "{label}_*", *settings)
    assert "Nothing new" in call("data", "ingest", str(inbox), "--pattern", "{label}_*", *settings)
    (inbox / "labels.csv").write_text("path,label\n01_a.png,01\n")
    assert "span-000002 now has 1 picture (" in call("data", "import", str(inbox / "labels.csv"), *settings)
    assert "span-000001 has 1 picture (" in call("data", "show", *settings, "--out", str(tmp_path / "sheet [1].png"))


@pytest.mark.parametrize("way", ["parent", "absolute", "link"])
def test_a_path_outside_the_folder_of_a_table_needs_an_option(tmp_path: Path, folder: Path, way: str) -> None:
    save(folder, "a.png", 1)
    save(tmp_path, "secret.png", 2)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    path = {"parent": "../secret.png", "absolute": tmp_path / "secret.png", "link": "link.png"}[way]
    (folder / "labels.csv").write_text(f"path,label\na.png,0001\n{path},0002\n")
    result = import_table(folder / "labels.csv", plan(tmp_path / "data"))
    assert list(labelled(result.span)) == ["0001"]
    (reason,) = result.left_out
    assert "leads out of the table's folder (--outside" in reason
    settings = ["--config", CONFIG, "--set", "captcha.length=4", "--set", f"data.root={tmp_path / 'other'}"]
    assert "now has 2 pictures" in call("data", "import", str(folder / "labels.csv"), "--outside", *settings)


def test_a_label_of_a_person_replaces_that_of_a_model(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "data"
    save(folder, "0001_a.png", 1)
    save(folder, "0003_c.png", 3)
    by_model = import_folder(folder, "{label}_*", plan(root, source=PSEUDO)).span
    assert by_model.manifest.counts == {"train": 2, "eval": 0, "test": 0}
    (folder / "0001_a.png").rename(folder / "0002_a.png")
    (folder / "0003_c.png").unlink()
    result = import_folder(folder, "{label}_*", plan(root, splits={"train": 0, "eval": 0, "test": 1}))
    assert (result.contradictions, result.left_out) == ([], {})
    assert result.span.manifest.counts["test"] == 1  # its own split, not that of the other label
    assert window(root, None).superseded(by_model) == {key_of(picture(1))}
    again = import_folder(folder, "{label}_*", plan(root, only_new=False))
    assert not again.span.manifest.supersedes


def test_a_model_labels_only_pictures_that_no_person_has_labelled_and_that_judge_no_model(tmp_path: Path, folder: Path) -> None:
    target = plan(tmp_path / "data", spec=CaptchaSpec(), splits={"train": 0, "eval": 0, "test": 1})
    by_model = plan(tmp_path / "data", spec=CaptchaSpec(), source=PSEUDO)
    (labelled_by_hand, label), (unlabelled, _) = captchas(2)
    labelled_by_hand.save(folder / f"{label}_a.png")
    import_folder(folder, "{label}_*", target)
    (folder / f"{label}_a.png").rename(folder / "0009_a.png")
    labelled_by_hand.save(folder / "0001_copy.jpg", quality=95)
    unlabelled.save(folder / "0003_c.png")
    result = import_folder(folder, "{label}_*", by_model)
    assert labelled(result.span).keys() == {"0003"}
    assert result.left_out == {"a span has the picture already": 1, "it looks like a picture of the test split": 1}
    # A second model labels the same pictures again: its labels count.
    (folder / "0003_c.png").rename(folder / "0004_c.png")
    second = import_folder(folder, "{label}_*", by_model)
    assert labelled(second.span).keys() == {"0004"}
    assert window(tmp_path / "data", None).superseded(result.span) == {split_key(unlabelled)}


def test_a_copy_of_a_picture_that_a_model_has_labelled_judges_no_model(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "data"
    for (image, label), name in zip(captchas(6), "abcdef", strict=True):
        image.save(folder / f"{label}_{name}.png")
    import_folder(folder, "{label}_*", plan(root, spec=CaptchaSpec(), source=PSEUDO))
    for path in sorted(folder.iterdir()):
        Image.open(path).save(path.with_name(f"0000_{path.stem[-1]}.jpg"), quality=92)
        path.unlink()
    result = import_folder(folder, "{label}_*", plan(root, spec=CaptchaSpec(), splits={"train": 0, "eval": 0, "test": 1}))
    assert result.span.manifest.counts == {"train": 6, "eval": 0, "test": 0}
    assert result.doubtful.count == 0  # a model's label says nothing against that of a person


def test_a_copy_is_compared_with_the_label_after_the_correction(tmp_path: Path, folder: Path) -> None:
    target = plan(tmp_path / "data", spec=CaptchaSpec())
    (image, _), *_ = captchas(1)
    image.save(folder / "0001_a.png")
    import_folder(folder, "{label}_*", target)
    (tmp_path / "corrections.csv").write_text(f"key,label\n{split_key(image).hex()},0002\n")
    correct(tmp_path / "corrections.csv", plan(tmp_path / "data", spec=CaptchaSpec(), source="corrections"))
    (folder / "0001_a.png").unlink()
    for label, quality in (("0002", 90), ("0001", 80)):
        image.save(folder / f"{label}_b.jpg", quality=quality)
    doubtful = import_folder(folder, "{label}_*", target).doubtful
    assert str(doubtful).startswith("0001_b.jpg ('0001') like span-000002/")


def key_of(encoded: bytes) -> bytes:
    return split_key(Image.open(io.BytesIO(encoded)))
