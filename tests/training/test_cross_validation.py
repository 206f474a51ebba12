from pathlib import Path

import pytest
import tensorflow as tf

from components.base.errors import CaptchaPipelineError
from components.base.features import PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.training.cross_validation import cross_validate
from components.training.hyperparameters import Hyperparameters
from tests.support.encoded import encode
from tests.support.transform_run import draw, emitted, transform

pytestmark = pytest.mark.slow

SPEC = CaptchaSpec(charset="012", length=2, width=16, height=32, channels=1)
LABELS = [f"{a}{b}" for a in "012" for b in "012"]
PARAMETERS = Hyperparameters(epochs=4, batch_size=16, learning_rate=0.01, precision="float32")


def transformed(seeds: list[int], folder: Path) -> list[str]:
    rows = [emitted(encode(draw(SPEC, label, seed)), label, SPEC) for seed in seeds for label in LABELS]
    transform(SPEC, {"train": rows}, folder)
    return [str(path) for path in folder.glob("train-*")]


@pytest.mark.long
def test_each_picture_is_read_once_and_copies_stay_in_one_fold(tmp_path: Path) -> None:
    files = transformed([*range(16), 0, 1, 2], tmp_path / "transformed")
    folds = tmp_path / "folds"
    folds.mkdir()
    seen: list[int] = []
    counts = cross_validate(files, SPEC, PARAMETERS, 3, folds, lambda so_far: seen.append(so_far.examples))
    assert len(seen) == 3
    assert seen == sorted(set(seen))
    assert counts.examples == 19 * len(LABELS)
    assert counts.sequences_right > 0.8 * counts.examples
    pixels = [{_pixels(record) for record in tf.data.TFRecordDataset(str(fold), "GZIP").as_numpy_iterator()} for fold in folds.iterdir()]
    assert sum(map(len, pixels)) == len(set.union(*pixels))


def _pixels(record: bytes) -> bytes:
    (pixels,) = tf.train.Example.FromString(record).features.feature[PIXELS].bytes_list.value
    return pixels


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    files = transformed([0], tmp_path / "transformed")
    with pytest.raises(CaptchaPipelineError, match="9 pictures are too few for 20 folds"):
        cross_validate(files, SPEC, PARAMETERS, 20, tmp_path, lambda so_far: None)
