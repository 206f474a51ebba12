from pathlib import Path

import pytest
import tensorflow as tf

from components.base.features import LABEL_IDS, PIXEL_MEAN, PIXEL_STD, PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.training.untransformed import decoded, transform_like
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
