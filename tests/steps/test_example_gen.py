"""CaptchaExampleGen emits the records of the spans, each in its split, and the same in every run."""

import collections
import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.base.errors import CaptchaPipelineError
from components.base.features import DATA_INFO, DRAWN, SPLITS
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.synthetic import synthesise
from components.data.legacy_layout import DataInfo, legacy_example
from components.data.record_check import CheckShard
from components.data.span_writer import drop_span
from components.data.spans import list_spans
from components.data.window import window
from components.example_gen import CaptchaExampleGen
from tests.support.drawing import synth_plan
from tests.support.example_gen_run import GOOD, RULES, SPEC, Outcome, encoded_picture, key_of, make_span, record, run, value

pytestmark = pytest.mark.slow


def test_the_emitted_examples(tmp_path: Path) -> None:
    make_span(tmp_path / "data", GOOD)
    outcome = run(Outcome(tmp_path), tmp_path / "data")
    assert [len(outcome.split(split)) for split in SPLITS] == [6, 2, 2]
    example = outcome.split("train")[0]
    assert example.features.feature["characters"].bytes_list.value == [b"A", b"B", b"C", b"D"]
    pixels = np.asarray(Image.open(io.BytesIO(encoded_picture(0)))).astype(float)
    expected = {"image": encoded_picture(0), "label": b"ABCD", "source": b"test", "params": b'{"seed":0}', "width": 24, "height": 12}
    assert {name: value(example, name) for name in expected} == expected
    assert value(example, "brightness") == pytest.approx(pixels.mean())
    assert value(example, "contrast") == pytest.approx(pixels.std())
    assert value(example, "sharpness") == pytest.approx(np.abs(np.diff(pixels, axis=1)).mean(), rel=1e-5)
    assert value(example, "difficulty") in (b"low contrast", b"medium contrast", b"high contrast")
    assert outcome.bad == []
    counts = {"total": 10, "bad": 0, "good": {"train": 6, "eval": 2, "test": 2}, "reasons": {}, "overlap": {}}
    assert outcome.summary == counts | {"spans": {"span-000001": counts}, "changed": []}
    assert json.loads(outcome.examples.split_names) == list(SPLITS)
    assert outcome.examples.span == 1
    assert outcome.examples.get_string_custom_property("spans") == "[1]"
    assert outcome.examples.get_string_custom_property("window") == window(tmp_path / "data", None).digest


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    for _ in range(3):
        make_span(tmp_path / "data", GOOD | {"eval": [*GOOD["eval"], b"\xff"]})
    first, second = (run(Outcome(tmp_path / name), tmp_path / "data") for name in ("a", "b"))
    for split in SPLITS:
        assert [e.SerializeToString() for e in first.split(split)] == [e.SerializeToString() for e in second.split(split)]
    assert first.summary == second.summary


def test_only_the_window_is_read(tmp_path: Path) -> None:
    for _ in range(3):
        make_span(tmp_path / "data", GOOD)
    outcome = run(Outcome(tmp_path), tmp_path / "data", window=2)
    assert len(outcome.split("train")) == 12
    assert outcome.examples.span == 3
    assert outcome.examples.get_string_custom_property("spans") == "[2, 3]"
    checksums = [hashlib.sha256((span.path / "manifest.json").read_bytes()).hexdigest() for span in list_spans(tmp_path / "data")[1:]]
    assert json.loads(outcome.examples.get_string_custom_property("span_checksums")) == checksums


def test_the_golden_span_gives_only_its_test_split(tmp_path: Path) -> None:
    for _ in range(3):
        make_span(tmp_path / "data", GOOD)
    outcome = run(Outcome(tmp_path), tmp_path / "data", window=1, golden=2)
    spans = {split: collections.Counter(value(example, "span").decode() for example in outcome.split(split)) for split in SPLITS}
    assert {split: set(found) for split, found in spans.items()} == {
        "train": {"span-000003"},
        "eval": {"span-000003"},
        "test": {"span-000002", "span-000003"},
    }
    assert spans["test"]["span-000002"] == spans["test"]["span-000003"] == len(GOOD["test"])
    assert list(outcome.profiles) == ["span-000003"]
    assert outcome.examples.span == 3
    again = run(Outcome(tmp_path / "again"), tmp_path / "data", golden=2)
    assert len(again.split("test")) == 3 * len(GOOD["test"]), "in the window it is not read twice"


def test_drawn_pictures_only_train_beside_those_that_people_have_labelled(tmp_path: Path) -> None:
    drawn = {
        split: [record(first + i, source=DRAWN.encode()) for i in range(3)] for split, first in zip(SPLITS, (100, 200, 300), strict=True)
    }
    make_span(tmp_path / "data", drawn, source=DRAWN)
    alone = run(Outcome(tmp_path / "alone"), tmp_path / "data")
    assert [seeds(alone, split) for split in SPLITS] == [[100, 101, 102], [200, 201, 202], [300, 301, 302]]
    make_span(tmp_path / "data", {"train": [record(1)], "eval": [record(2), record(100)], "test": [record(3)]})
    outcome = run(Outcome(tmp_path), tmp_path / "data")
    assert seeds(outcome, "train") == [1, 101, 102, 200, 201, 202, 300, 301, 302], "and a picture of eval is not trained on"
    assert (seeds(outcome, "eval"), seeds(outcome, "test")) == ([2, 100], [3])
    assert list(outcome.profiles) == ["span-000002"], "the drawn pictures are no measure of drift"
    golden = run(Outcome(tmp_path / "golden"), tmp_path / "data", golden=1)
    assert seeds(golden, "test") == [3, 300, 301, 302]


def test_excluded_spans_are_not_read(tmp_path: Path) -> None:
    make_span(tmp_path / "data", GOOD)
    make_span(tmp_path / "data", GOOD | {"train": [b"\xff"] * 9})
    outcome = run(Outcome(tmp_path), tmp_path / "data", exclude=[2], max_bad=0.0)
    assert {value(example, "span") for example in outcome.split("train")} == {b"span-000001"}


def seed(example: tf.train.Example) -> int:
    number: int = json.loads(value(example, "params"))["seed"]
    return number


def seeds(outcome: Outcome, split: str) -> list[int]:
    return sorted(map(seed, outcome.split(split)))


def test_pictures_of_test_and_eval_are_not_trained_on(tmp_path: Path) -> None:
    def span(**splits: range) -> None:
        make_span(tmp_path / "data", {split: [record(seed) for seed in numbers] for split, numbers in splits.items()})

    span(train=range(30), eval=range(40, 44), test=range(100, 103))
    span(train=range(100, 106), eval=range(101, 110), test=range(5, 8))
    span(train=range(38, 50), test=range(200, 202))
    outcome = run(Outcome(tmp_path), tmp_path / "data", max_bad=0.0)
    assert seeds(outcome, "test") == [5, 6, 7, 100, 101, 102, 200, 201]
    assert seeds(outcome, "eval") == [*range(40, 44), *range(103, 110)]
    assert seeds(outcome, "train") == [*range(5), *range(8, 30), 38, 39, *range(44, 50)]
    summary = outcome.summary
    assert {reason: entry["count"] for reason, entry in summary["overlap"].items()} == {"also_in_test": 8, "also_in_eval": 7}
    assert (summary["bad"], summary["total"]) == (0, 30 + 4 + 3 + 6 + 9 + 3 + 12 + 2)
    assert summary["total"] == sum(summary["good"].values()) + 15
    assert summary["spans"]["span-000003"]["overlap"]["also_in_eval"]["examples"][0] == {
        "file": "span-000003/train/shard-00000-of-00001.tfrecord.gz",
        "index": 2,
        "detail": "the eval split has the same picture",
    }
    assert sum(outcome.profiles["span-000001"]["size"].values()) == 27 + 4 + 3, "what is left out is not counted as drift"


@pytest.mark.long
def test_a_golden_set_outside_the_window_is_not_trained_on(tmp_path: Path) -> None:
    make_span(tmp_path / "data", {"test": [record(seed) for seed in range(3)], "eval": [record(4)]})
    make_span(tmp_path / "data", GOOD)
    outcome = run(Outcome(tmp_path), tmp_path / "data", window=1, golden=1)
    assert seeds(outcome, "train") == [3, 4, 5], "its eval split is not read"
    assert outcome.summary["overlap"]["also_in_test"]["count"] == 3
    assert seeds(run(Outcome(tmp_path / "again"), tmp_path / "data", window=1), "train") == list(range(6))


def test_corrections_supersede_older_records_in_every_split(tmp_path: Path) -> None:
    root = tmp_path / "data"
    wrong_charset = [record(7, label=b"????")]
    make_span(root, {split: [*GOOD[split], *(wrong_charset if split == "train" else [])] for split in SPLITS})
    make_span(root, {"train": [record(1, label=b"FFFF")], "test": [record(61_001, label=b"EEEE")]}, supersedes=[key_of(1), key_of(61_001)])
    # The newest correction of a picture counts; a key without a record removes the picture.
    again = {"train": [record(1, label=b"AAAA"), record(7, label=b"BBBB")]}
    make_span(root, again, supersedes=sorted([key_of(1), key_of(60_001), key_of(7)]))
    outcome = run(Outcome(tmp_path / "out"), root, max_bad=0.0)
    labels = {split: {seed(example): value(example, "label") for example in outcome.split(split)} for split in SPLITS}
    assert labels["train"] == {0: b"ABCD", 1: b"AAAA", 2: b"ABCD", 3: b"ABCD", 4: b"ABCD", 5: b"ABCD", 7: b"BBBB"}
    assert labels["eval"] == {60_000: b"ABCD"}
    assert labels["test"] == {61_000: b"ABCD", 61_001: b"EEEE"}
    assert outcome.summary["overlap"]["superseded"]["count"] == 5
    assert outcome.summary["spans"]["span-000002"]["overlap"]["superseded"]["examples"] == [
        {"file": "span-000002/train/shard-00000-of-00001.tfrecord.gz", "index": 0, "detail": "a later span corrects or removes the picture"}
    ]
    assert (outcome.summary["bad"], outcome.summary["total"]) == (0, 10 + 1 + 2 + 2)
    assert sum(outcome.profiles["span-000001"]["size"].values()) == 7
    assert (outcome.examples.span, list(outcome.profiles)[-1]) == (1, "span-000001"), "corrections are not new pictures"


@pytest.mark.long
def test_without_its_span_a_correction_has_no_effect(tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_span(root, GOOD)
    make_span(root, {}, supersedes=[key_of(1), key_of(61_001)])
    assert seeds(run(Outcome(tmp_path / "with"), root), "train") == [0, 2, 3, 4, 5]
    drop_span(root, 2)
    assert seeds(run(Outcome(tmp_path / "without"), root), "train") == [0, 1, 2, 3, 4, 5]


@pytest.mark.long
def test_a_wrong_label_in_the_golden_set_stays_corrected_outside_the_window(tmp_path: Path) -> None:
    root = tmp_path / "data"
    make_span(root, GOOD)
    make_span(root, {"test": [record(61_001, label=b"EEEE")]}, supersedes=[key_of(61_001)])
    make_span(root, {split: [record(number)] for number, split in enumerate(SPLITS, start=99)})
    outcome = run(Outcome(tmp_path / "out"), root, window=1, golden=1)
    assert seeds(outcome, "test") == [101, 61_000]
    assert outcome.summary["overlap"]["superseded"]["count"] == 1


def test_the_same_picture_is_found_with_another_encoding_or_label(tmp_path: Path) -> None:
    def encoded(seed: int, kind: str) -> bytes:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(encoded_picture(seed))).save(buffer, kind)
        return buffer.getvalue()

    test = [record(seed, image=encoded(seed, "BMP"), label=b"FFFF") for seed in range(2)]
    bad = [record(2, label=b"????")]
    make_span(tmp_path / "data", GOOD | {"test": test + bad})
    outcome = run(Outcome(tmp_path), tmp_path / "data")
    assert seeds(outcome, "train") == [2, 3, 4, 5], "a record that is not right judges nothing"


def test_a_span_that_repeats_the_test_split_is_an_error(tmp_path: Path) -> None:
    make_span(tmp_path / "data", GOOD)
    make_span(tmp_path / "data", {"train": GOOD["test"]})
    with pytest.raises(CaptchaPipelineError) as caught:
        run(Outcome(tmp_path), tmp_path / "data")
    assert "There is no good record in span-000002, the newest span" in str(caught.value)
    assert "also_in_test (2), such as span-000002/train/shard-00000-of-00001.tfrecord.gz, record 0" in str(caught.value)
    assert "bad records" not in str(caught.value)


def test_changed_shares_leave_no_test_picture_in_train(tmp_path: Path) -> None:
    """The same pictures are split by three configurations, one after the other."""
    spec = CaptchaSpec(length=4, width=24, height=12)
    for splits in ({"train": 10, "eval": 1, "test": 1}, {"train": 98, "eval": 1, "test": 1}, {"train": 1, "eval": 1, "test": 1}):
        synthesise(synth_plan(spec, 300, 1, 100, splits), tmp_path / "data")
    outcome = run(Outcome(tmp_path), tmp_path / "data", spec=spec)
    labels = {split: {value(example, "image") for example in outcome.split(split)} for split in SPLITS}
    assert not labels["test"] & labels["train"]
    assert not labels["test"] & labels["eval"]
    assert not labels["eval"] & labels["train"]
    assert len(labels["test"] | labels["eval"] | labels["train"]) == 300
    first, fewer, more = (span.manifest.counts for span in list_spans(tmp_path / "data"))
    assert fewer["test"] < first["test"] < more["test"] == len(labels["test"])


@pytest.mark.long
def test_older_spans_give_fewer_training_records(tmp_path: Path) -> None:
    many = {split: [record(seed) for seed in range(offset, offset + 400)] for split, offset in zip(SPLITS, (0, 400, 800), strict=True)}
    for _ in range(3):
        make_span(tmp_path / "data", many)
    outcomes = [run(Outcome(tmp_path / name), tmp_path / "data", half_life=1.0) for name in ("a", "b")]
    train = [collections.Counter(value(example, "span").decode() for example in outcome.split("train")) for outcome in outcomes]
    assert train[0] == train[1], "which ones does not change from run to run"
    assert train[0]["span-000003"] == 400
    assert 150 < train[0]["span-000002"] < 250
    assert 60 < train[0]["span-000001"] < 140
    assert all(len(outcomes[0].split(split)) == 1200 for split in ("eval", "test"))
    assert outcomes[0].summary["bad"] == 0, "what is left out is not missing"


def test_profiles_count_the_measures_of_each_span(tmp_path: Path) -> None:
    make_span(tmp_path / "data", GOOD)
    make_span(tmp_path / "data", GOOD | {"train": [*GOOD["train"], b"\xff"]})
    found = run(Outcome(tmp_path), tmp_path / "data").profiles
    assert found["span-000001"] == found["span-000002"], "a bad record does not count"
    count = sum(map(len, GOOD.values()))
    assert {measure: sum(counts.values()) for measure, counts in found["span-000001"].items()} == {
        "brightness": count,
        "contrast": count,
        "sharpness": count,
        "size": count,
        "source": count,
        "characters": 4 * count,
        "positions": 4 * count,
    }
    assert found["span-000001"]["size"] == {"24x12": count}
    assert found["span-000001"]["positions"] == {f"{i} {c}": count for i, c in enumerate("ABCD", start=1)}


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    make_span(tmp_path / "data", {**GOOD, "eval": []})
    with pytest.raises(CaptchaPipelineError, match="no good record in the split eval"):
        run(Outcome(tmp_path), tmp_path / "data")


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    span = make_span(tmp_path / "data", GOOD)
    span.files("eval")[0].unlink()
    with pytest.raises(CaptchaPipelineError, match=r"eval/shard-00000-of-00001\.tfrecord\.gz is missing"):
        run(Outcome(tmp_path), tmp_path / "data")


def test_a_span_removed_during_reading_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    span = make_span(tmp_path / "data", GOOD)

    def begin(self: CheckShard) -> None:
        shutil.rmtree(span.path, ignore_errors=True)

    monkeypatch.setattr(CheckShard, "start_bundle", begin, raising=False)
    with pytest.raises(CaptchaPipelineError, match=r"The shard .*span-000001.* is missing"):
        run(Outcome(tmp_path), tmp_path / "data")


def test_a_span_added_after_the_start_is_left_to_the_next_run(tmp_path: Path) -> None:
    make_span(tmp_path / "data", GOOD)
    began = window(tmp_path / "data", None).as_of
    make_span(tmp_path / "data", GOOD)
    outcome = run(Outcome(tmp_path), tmp_path / "data", as_of=began)
    assert json.loads(outcome.examples.get_string_custom_property("spans")) == [1]


def test_a_data_folder_without_spans_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CaptchaPipelineError, match="no spans"):
        run(Outcome(tmp_path), tmp_path / "data")


def test_the_legacy_layout_is_read(tmp_path: Path) -> None:
    spec = CaptchaSpec(charset="あいう", length={"min": 2, "max": 3}, width=10, height=8, channels=1)
    rng = np.random.default_rng(1)
    pictures = {split: rng.integers(0, 256, (8, 10, 1), np.uint8) for split in SPLITS}
    good = {split: [legacy_example(pictures[split], label, spec).SerializeToString() for label in ("あい", "うあい")] for split in SPLITS}
    pixels = pictures["eval"]
    short = legacy_example(pixels, "あい", spec)
    short.features.feature["image_raw"].bytes_list.value[0] = b"123"
    wrong = legacy_example(pixels, "あい", spec)
    wrong.features.feature["label_raw"].bytes_list.value[0] = np.array([0, 9, 0], "<i8").tobytes()
    bad = [short.SerializeToString(), wrong.SerializeToString(), record(1)]
    records = good | {"train": good["train"] + bad}
    make_span(tmp_path / "data", records, spec=spec, layout="book", prepare=lambda draft: DataInfo.for_spec(spec).save(draft / DATA_INFO))
    outcome = run(Outcome(tmp_path), tmp_path / "data", spec=spec)
    assert [value(example, "label").decode() for example in outcome.split("train")] == ["あい", "うあい"]
    assert [c.decode() for c in outcome.split("train")[1].features.feature["characters"].bytes_list.value] == ["う", "あ", "い"]
    assert (np.asarray(Image.open(io.BytesIO(value(outcome.split("eval")[0], "image")))) == pixels[..., 0]).all()
    assert value(outcome.split("eval")[0], "source") == b"test"
    assert [value(example, "reason") for example in outcome.bad] == [b"feature_shape", b"label_charset", b"feature_missing"]


def test_labels_become_canonical(tmp_path: Path) -> None:
    spec = CaptchaSpec(charset="ABCDEFÉ", case_sensitive=False, width=24, height=12)
    make_span(tmp_path / "data", {split: [record(seed, label="aBe\u0301F".encode())] for seed, split in enumerate(SPLITS)}, spec=spec)
    (example,) = run(Outcome(tmp_path), tmp_path / "data", spec=spec).split("train")
    assert value(example, "label").decode() == "ABÉF"
    assert [c.decode() for c in example.features.feature["characters"].bytes_list.value] == list("ABÉF")


def test_component_properties_are_plain_values() -> None:
    component = CaptchaExampleGen("data", 0, [3, 2], 1, 0.0, SPEC, RULES, 0.01, "quarantine", as_of="1", source_digest="2")
    assert component.exec_properties["window"] == 0
    assert component.exec_properties["exclude"] == "[2, 3]"
    assert json.loads(component.exec_properties["rules"])["background"] == [255, 255, 255]
    assert set(component.outputs) == {"examples", "quarantine", "profiles"}
