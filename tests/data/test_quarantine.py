"""Bad records go to quarantine with the right reason, and too many bad records stop the run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from PIL import Image

from components.base.errors import CaptchaPipelineError
from components.data.pictures import PictureRules
from tests.support.encoded import REFUSED, encode
from tests.support.example_gen_run import GOOD, RULES, Outcome, damage, make_span, record, run, value

pytestmark = pytest.mark.slow


def without_bytes_list(name: str) -> bytes:
    example = tf.train.Example.FromString(record(1))
    example.features.feature[name].int64_list.value.append(1234)
    return example.SerializeToString()


# Bad records of every kind, by reason.
BAD: dict[str, list[bytes]] = {
    "record_unparseable": [b"\xff" * 30, record(1)[:-9]],
    "feature_missing": [b"", record(1, image=None), record(1, label=None), record(1, source=None), record(1, params=None)],
    "feature_type": [without_bytes_list("label"), without_bytes_list("image"), record(1, source=b"\xff")],
    "label_empty": [record(1, label=b"")],
    "label_length": [record(1, label=b"ABC"), record(1, label=b"ABCDE"), record(1, label=b"A" * 5_000_000)],
    "label_charset": [record(1, label=b"AB1D"), record(1, label=b"abcd"), record(1, label=b"AB\xff"), record(1, label="ABCÉ".encode())],
    "image_size": [record(1, image=encode(Image.new("RGB", (23, 12))))],
    "image_empty": [],
    "image_undecodable": [],
    "image_too_large": [],
    "image_animated": [],
    "image_mode": [],
}
for _kind, (_reason, _data) in REFUSED.items():
    # The size is checked before the pixels are decoded: pictures that are broken or of a wrong mode must have the right size.
    BAD[_reason].append(record(1, image=_data))
RESIZE = PictureRules(max_pixels=10_000, background=(255, 255, 255), wrong_size="resize")


def check_quarantine(outcome: Outcome, counts: dict[str, int], file: str) -> None:
    found: dict[str, list[tf.train.Example]] = {}
    for example in outcome.bad:
        found.setdefault(value(example, "reason").decode(), []).append(example)
    assert {reason: len(examples) for reason, examples in found.items()} == counts
    assert {reason: entry["count"] for reason, entry in outcome.summary["reasons"].items()} == counts
    assert {value(example, "source_file").decode() for example in outcome.bad} == {file}
    assert all(0 < len(value(example, "detail")) <= 1200 for example in outcome.bad)


def test_every_kind_of_bad_record_goes_to_quarantine(tmp_path: Path) -> None:
    bad = [data for records in BAD.values() for data in records]
    mixed = [data for i, one in enumerate(bad) for data in (record(i), one)]
    make_span(tmp_path / "data", {**GOOD, "train": mixed})
    outcome = run(Outcome(tmp_path), tmp_path / "data", rules=RESIZE)
    # This run accepts pictures of a wrong size.
    counts = {reason: len(records) for reason, records in BAD.items() if reason != "image_size"}
    check_quarantine(outcome, counts, "span-000001/train/shard-00000-of-00001.tfrecord.gz")
    assert len(outcome.split("train")) == len(bad) + 1
    assert sorted(value(e, "index") for e in outcome.bad) == [2 * i + 1 for i, one in enumerate(bad) if one is not BAD["image_size"][0]]
    assert {bytes(value(e, "record")) for e in outcome.bad} == {one for one in bad if one is not BAD["image_size"][0]}


def test_a_wrong_size_goes_to_quarantine_if_the_rules_refuse_it(tmp_path: Path) -> None:
    make_span(tmp_path / "data", {**GOOD, "train": GOOD["train"] + BAD["image_size"]})
    outcome = run(Outcome(tmp_path), tmp_path / "data", rules=RULES)
    assert [value(e, "reason") for e in outcome.bad] == [b"image_size"]


def test_a_thousand_good_and_a_thousand_bad_records_of_every_kind(tmp_path: Path) -> None:
    kinds = {reason: records for reason, records in BAD.items() if reason != "image_size"}
    reasons = list(kinds)
    chosen = [
        (reason, kinds[reason][i // len(reasons) % len(kinds[reason])]) for i in range(1000) for reason in [reasons[i % len(reasons)]]
    ]
    # One test with a label of five megabytes is enough.
    bad = [(reason, data if len(data) < 1_000_000 else record(1, label=b"A")) for reason, data in chosen]
    damaged = range(0, 1000, 10)
    mixed = [data for i, (_, one) in enumerate(bad) for data in (record(i), one)]
    span = make_span(tmp_path / "data", {**GOOD, "train": mixed})

    def break_checksums(content: bytearray) -> None:
        position = 0
        for index, data in enumerate(mixed):
            if index % 2 and index // 2 in damaged:
                content[position + 12 + len(data)] ^= 1
            position += len(data) + 16

    damage(span, "train", break_checksums)
    outcome = run(Outcome(tmp_path), tmp_path / "data", rules=RESIZE, max_bad=0.5)
    expected = ["record_checksum" if i in damaged else reason for i, (reason, _) in enumerate(bad)]
    check_quarantine(
        outcome, {reason: expected.count(reason) for reason in set(expected)}, span.path.name + "/train/" + span.files("train")[0].name
    )
    assert {value(e, "index") // 2: value(e, "reason").decode() for e in outcome.bad} == dict(enumerate(expected))
    assert [value(e, "params") for e in outcome.split("train")] == [b'{"seed":%d}' % i for i in range(1000)]
    assert (outcome.summary["total"], outcome.summary["bad"]) == (2004, 1000)


def test_records_of_damaged_shards_go_to_quarantine(tmp_path: Path) -> None:
    size = len(record(1)) + 16  # on disk
    # The damage to a file of six records, the number of records that stay good, and the reason of the others.
    damages: list[tuple[Callable[[bytearray], Any], int, str]] = [
        (lambda content: content.__setitem__(20, content[20] ^ 1), 5, "record_checksum"),
        (lambda content: content.__setitem__(size, content[size] ^ 1), 1, "record_corrupt"),
        (lambda content: content.__delitem__(slice(3 * size + 40, None)), 3, "record_truncated"),
        (lambda content: content.__delitem__(slice(4 * size, None)), 4, "record_missing"),
    ]
    for change, _, _ in damages:
        damage(make_span(tmp_path / "data", {**GOOD, "train": [record(1)] * 6}), "train", change)
    outcome = run(Outcome(tmp_path), tmp_path / "data")
    assert len(outcome.split("train")) == outcome.summary["good"]["train"] == sum(kept for _, kept, _ in damages)
    counts = {reason: entry["count"] for reason, entry in outcome.summary["reasons"].items()}
    assert counts == {reason: 6 - kept for _, kept, reason in damages}
    assert outcome.summary["total"] == 4 * 10
    assert [value(e, "reason").decode() for e in outcome.bad] == ["record_checksum", "record_corrupt", "record_truncated"]


def test_missing_records_of_a_shard_count_as_bad(tmp_path: Path) -> None:
    span = make_span(tmp_path / "data", GOOD)
    damage(span, "train", bytearray.clear)
    with pytest.raises(CaptchaPipelineError, match=r"6 of 10 records of span-000001 \(60.0%\)(.|\n)*record_missing"):
        run(Outcome(tmp_path), tmp_path / "data", max_bad=0.1)


def test_too_many_bad_records_stop_the_run(tmp_path: Path) -> None:
    bad = [record(1, label=b"AB?D")] * 4 + [record(1, label=b"AB")] * 3 + [record(1, image=b"text")] * 2 + [b"\xff"]
    make_span(tmp_path / "data", {**GOOD, "test": GOOD["test"] + bad})
    outcome = Outcome(tmp_path)
    with pytest.raises(CaptchaPipelineError) as caught:
        run(outcome, tmp_path / "data", max_bad=0.4)
    message = str(caught.value)
    assert "10 of 20 records of span-000001 (50.0%) are bad; data.max_bad_fraction allows 40.0%" in message
    lines = message.splitlines()[1:4]
    assert [line.split()[0] for line in lines] == ["label_charset", "label_length", "image_undecodable"]
    assert "(4), such as span-000001/test/shard-00000-of-00001.tfrecord.gz, record 2: label 'AB?D' has '?'" in lines[0]
    assert "record_unparseable" not in message
    # TFX deletes the outputs of a failed step; this copy is kept for the user.
    assert str(outcome.rejects_dir) in message
    assert json.loads((outcome.rejects_dir / "summary.json").read_text())["bad"] == 10
    assert sorted(path.name for path in outcome.rejects_dir.iterdir()) == sorted(
        path.name for path in Path(outcome.quarantine.uri).iterdir()
    )
    run(Outcome(tmp_path / "again"), tmp_path / "data", max_bad=0.5)


@pytest.mark.long
def test_the_limit_applies_to_every_span(tmp_path: Path) -> None:
    for _ in range(3):
        make_span(tmp_path / "data", GOOD)
    make_span(tmp_path / "data", {**GOOD, "train": GOOD["train"] + [b"\xff"] * 5})
    with pytest.raises(CaptchaPipelineError, match=r"^5 of 15 records of span-000004 \(33\.3%\) are bad; .* allows 20\.0%"):
        run(Outcome(tmp_path), tmp_path / "data", max_bad=0.2)
    outcome = run(Outcome(tmp_path / "again"), tmp_path / "data", max_bad=0.4)
    assert {name: tally["bad"] for name, tally in outcome.summary["spans"].items()} == {
        "span-000001": 0,
        "span-000002": 0,
        "span-000003": 0,
        "span-000004": 5,
    }


def test_further_spans_over_the_limit_are_counted(tmp_path: Path) -> None:
    for _ in range(5):
        make_span(tmp_path / "data", {**GOOD, "train": [b"\xff"]})
    with pytest.raises(CaptchaPipelineError) as caught:
        run(Outcome(tmp_path), tmp_path / "data", max_bad=0.1)
    assert str(caught.value).count("are bad") == 3
    assert "2 more spans have the same problem." in str(caught.value)


@pytest.mark.long
def test_the_limit_applies_to_the_golden_set(tmp_path: Path) -> None:
    make_span(tmp_path / "data", {"test": GOOD["test"] + [b"\xff"] * 2, "train": [b"\xff"] * 90})
    for _ in range(2):
        make_span(tmp_path / "data", GOOD)
    with pytest.raises(CaptchaPipelineError, match=r"^2 of 4 records of span-000001 "):
        run(Outcome(tmp_path), tmp_path / "data", window=2, golden=1, max_bad=0.4)
    run(Outcome(tmp_path / "again"), tmp_path / "data", window=2, golden=1, max_bad=0.5)


@pytest.mark.parametrize("records", [{}, {"train": [b"\xff"] * 3}])
def test_a_newest_span_without_a_good_record_stops_the_run(tmp_path: Path, records: dict[str, list[bytes]]) -> None:
    make_span(tmp_path / "data", GOOD)
    make_span(tmp_path / "data", records)
    with pytest.raises(CaptchaPipelineError, match=r"no good record in span-000002, the newest span\. .*data\.exclude") as caught:
        run(Outcome(tmp_path), tmp_path / "data")
    assert ("The bad records, each with its reason, are in" in str(caught.value)) == bool(records), "there are none in the first case"
    run(Outcome(tmp_path / "again"), tmp_path / "data", exclude=[2])


def test_a_newest_span_without_a_shard_stops_the_run(tmp_path: Path) -> None:
    make_span(tmp_path / "data", GOOD)
    newest = make_span(tmp_path / "data", {})
    (newest.path / "manifest.json").write_text(newest.manifest.model_copy(update={"files": ()}).model_dump_json())
    with pytest.raises(CaptchaPipelineError, match="no good record in span-000002, the newest span"):
        run(Outcome(tmp_path), tmp_path / "data")


@pytest.mark.parametrize("window", [0, 1])
def test_a_golden_set_without_a_good_record_stops_the_run(tmp_path: Path, window: int) -> None:
    make_span(tmp_path / "data", GOOD | {"test": []})
    make_span(tmp_path / "data", GOOD)
    with pytest.raises(CaptchaPipelineError, match=r"no good record in the test split of span-000001\. Set data\.golden to another span"):
        run(Outcome(tmp_path), tmp_path / "data", window=window, golden=1)
    run(Outcome(tmp_path / "again"), tmp_path / "data", window=window)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def replace(path: Path) -> None:
    """Replaces a shard by a good file whose records differ from the manifest."""
    other = make_span(path.parents[3] / "other", {"train": [record(seed) for seed in range(500, 506)]})
    path.write_bytes(other.files("train")[0].read_bytes())


@pytest.mark.parametrize("change", [cut, replace, lambda path: path.write_bytes(b"")])
def test_a_changed_shard_is_refused(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    span = make_span(tmp_path / "data", GOOD)
    make_span(tmp_path / "data", GOOD)
    change(span.files("train")[0])
    with pytest.raises(CaptchaPipelineError) as caught:
        run(Outcome(tmp_path), tmp_path / "data")
    message = str(caught.value)
    assert message.startswith(f"{span.files('train')[0]} has changed: its SHA-256 begins with ")
    assert "put the file back as it was" in message
    assert "bad records" not in message
    assert "span-000002" not in message
