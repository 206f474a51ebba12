from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.base.features import LABEL_IDS, PIXEL_MEAN, PIXEL_STD, PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.training.cross_validation import fit_to_file
from components.training.direct_examples import write_examples
from components.training.hyperparameters import Hyperparameters
from tests.support.encoded import encode
from tests.support.transform_run import draw, emitted, transform

pytestmark = pytest.mark.slow

SPEC = CaptchaSpec(charset="012", length={"min": 1, "max": 2}, width=16, height=32, channels=1)  # type: ignore[arg-type]
LABELS = ["0", "1", "2", *(f"{a}{b}" for a in "012" for b in "012")]


def pictures(seeds: range) -> list[tuple[bytes, str]]:
    return [(encode(draw(SPEC, label, seed)), label) for seed in seeds for label in LABELS]


def features(paths: list[Path]) -> dict[bytes, tuple[list[int], float, float]]:
    """Returns labels and statistics by pixels."""
    found = {}
    for record in tf.data.TFRecordDataset([str(path) for path in paths], "GZIP").as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        statistics = (feature[name].float_list.value[0] for name in (PIXEL_MEAN, PIXEL_STD))
        found[feature[PIXELS].bytes_list.value[0]] = (list(feature[LABEL_IDS].int64_list.value), *statistics)
    return found


def test_the_examples_are_those_of_transform(tmp_path: Path) -> None:
    shown = pictures(range(2))
    statistics = write_examples(shown, SPEC, tmp_path / "direct.gz")
    transform(SPEC, {"train": [emitted(picture, label, SPEC) for picture, label in shown]}, tmp_path / "transformed")
    direct, whole = features([tmp_path / "direct.gz"]), features(list((tmp_path / "transformed").glob("train-*")))
    assert direct.keys() == whole.keys()
    for pixels, (labels, mean, std) in direct.items():
        assert labels == whole[pixels][0]
        assert (mean, std) == pytest.approx(whole[pixels][1:], rel=1e-4)
        assert (mean, std) == pytest.approx(statistics)


def test_other_pictures_get_the_statistics_of_the_training(tmp_path: Path) -> None:
    assert write_examples(pictures(range(1)), SPEC, tmp_path / "others.gz", (1.5, 2.5)) == (1.5, 2.5)
    assert {row[1:] for row in features([tmp_path / "others.gz"]).values()} == {(1.5, 2.5)}


@pytest.mark.long
def test_a_fit_to_a_file_reads_another(tmp_path: Path) -> None:
    train, others = tmp_path / "train.gz", tmp_path / "others.gz"
    write_examples(pictures(range(100, 104)), SPEC, others, write_examples(pictures(range(12)), SPEC, train))
    parameters = Hyperparameters(epochs=6, batch_size=16, learning_rate=0.01, precision="float32", strategy="cpu")
    fit = fit_to_file(train, others, SPEC, parameters)
    assert (fit.fitted, fit.read, fit.steps, fit.share) == (12 * len(LABELS), 4 * len(LABELS), 54, 1.0)
    assert fit.misread < fit.read / 2
    assert np.isfinite(fit.cpu_seconds)
