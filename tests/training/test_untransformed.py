from pathlib import Path

import pytest
import tensorflow as tf

from components.base.features import LABEL_IDS, PIXEL_MEAN, PIXEL_STD, PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.training.cross_validation import fit_to_file
from components.training.hyperparameters import Hyperparameters
from components.training.untransformed import decoded, transform_like, write_examples
from tests.support.encoded import encode
from tests.support.transform_run import draw, emitted, transform

pytestmark = pytest.mark.slow

WHITE = (255, 255, 255)


def features(file: Path) -> dict[bytes, tuple[list[int], float, float]]:
    """Returns the other features of each record by its pixels."""
    found = {}
    for record in tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        mean, std = (feature[name].float_list.value[0] for name in (PIXEL_MEAN, PIXEL_STD))
        found[feature[PIXELS].bytes_list.value[0]] = list(feature[LABEL_IDS].int64_list.value), mean, std
    return found


def test_examples_become_what_transform_makes_of_them(tmp_path: Path) -> None:
    """In another size than that of the spec, and with labels of several lengths."""
    spec = CaptchaSpec(charset="012", length={"min": 1, "max": 3}, width=16, height=24, channels=1)
    larger = spec.model_copy(update={"width": 20, "height": 26})
    rows = [emitted(encode(draw(larger, label, seed)), label, spec) for seed, label in enumerate(("0", "12", "201", "112", "2"))]
    transform(spec, {"train": rows}, tmp_path)
    (by_transform,) = tmp_path.glob("train-*")
    raw = str(tmp_path / "raw")
    with tf.io.TFRecordWriter(raw) as writer:
        for row in rows:
            writer.write(row)
    transform_like(str(by_transform), [raw], spec, WHITE, tmp_path / "here.gz")
    assert features(tmp_path / "here.gz") == features(by_transform)
    assert len(features(by_transform)) == len(rows)
    assert [pixels for _, pixels in decoded([raw], spec, WHITE)] == list(features(tmp_path / "here.gz"))


SPEC = CaptchaSpec(charset="012", length={"min": 1, "max": 2}, width=16, height=32, channels=1)
LABELS = ["0", "1", "2", *(f"{a}{b}" for a in "012" for b in "012")]


def pictures(seeds: range) -> list[tuple[bytes, str]]:
    return [(encode(draw(SPEC, label, seed)), label) for seed in seeds for label in LABELS]


def test_pictures_of_no_run_become_what_transform_makes_of_them(tmp_path: Path) -> None:
    shown = pictures(range(2))
    statistics = write_examples(shown, SPEC, tmp_path / "here.gz")
    transform(SPEC, {"train": [emitted(picture, label, SPEC) for picture, label in shown]}, tmp_path / "transformed")
    (by_transform,) = (tmp_path / "transformed").glob("train-*")
    here, there = features(tmp_path / "here.gz"), features(by_transform)
    assert here.keys() == there.keys()
    for pixels, (labels, *found) in here.items():
        assert labels == there[pixels][0]
        assert found == pytest.approx(there[pixels][1:], rel=1e-4)
        assert found == pytest.approx(statistics)


def test_other_pictures_state_the_statistics_of_the_training(tmp_path: Path) -> None:
    assert write_examples(pictures(range(1)), SPEC, tmp_path / "others.gz", (1.5, 2.5)) == (1.5, 2.5)
    assert {row[1:] for row in features(tmp_path / "others.gz").values()} == {(1.5, 2.5)}


@pytest.mark.long
def test_a_fit_to_a_file_reads_another(tmp_path: Path) -> None:
    train, others = tmp_path / "train.gz", tmp_path / "others.gz"
    write_examples(pictures(range(100, 104)), SPEC, others, write_examples(pictures(range(12)), SPEC, train))
    parameters = Hyperparameters(epochs=6, batch_size=16, learning_rate=0.01, precision="float32", strategy="cpu")
    readings = fit_to_file(train, others, SPEC, parameters)
    assert readings.labels.tolist() == [labels for labels, *_ in features(others).values()]
    counts = readings.counts(SPEC)
    assert counts.examples == 4 * len(LABELS)
    assert counts.sequences_right > counts.examples / 2
