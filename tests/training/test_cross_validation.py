from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.base.errors import CaptchaPipelineError
from components.base.features import LABEL_IDS, PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.evaluation.learning_curve import Fitted
from components.training import cross_validation
from components.training.cross_validation import cross_validate, learning_curve, out_of_fold, pixels_key
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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Transformed pictures: sixteen of each label, and three copies."""
    return transformed([*range(16), 0, 1, 2], tmp_path_factory.mktemp("transformed"))


def content(file: str) -> list[tuple[bytes, list[int]]]:
    """Returns the pixels and the label of each record."""
    found = []
    for record in tf.data.TFRecordDataset(file, "GZIP").as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        found.append((feature[PIXELS].bytes_list.value[0], list(feature[LABEL_IDS].int64_list.value)))
    return found


@pytest.mark.long
def test_each_picture_is_read_once_and_copies_stay_in_one_fold(files: list[str], tmp_path: Path) -> None:
    seen: list[int] = []
    counts = cross_validate(files, SPEC, PARAMETERS, 3, tmp_path, lambda so_far: seen.append(so_far.examples))
    assert len(seen) == 3
    assert seen == sorted(set(seen))
    assert counts.examples == 19 * len(LABELS)
    assert counts.sequences_right > 0.8 * counts.examples
    pixels = [{pixels for pixels, _ in content(str(fold))} for fold in tmp_path.iterdir()]
    assert sum(map(len, pixels)) == len(set.union(*pixels))


@pytest.mark.long
def test_a_fold_says_which_pictures_it_has_read(files: list[str], tmp_path: Path) -> None:
    folds = list(out_of_fold(files, SPEC, PARAMETERS, 2, tmp_path))
    written = {pixels_key(pixels): label for file in files for pixels, label in content(file)}
    keys = [key for fold in folds for key in fold.keys]
    assert len(keys) == 19 * len(LABELS)
    assert set(keys) == set(written)
    assert not set(folds[0].keys) & set(folds[1].keys)
    for fold in folds:
        assert fold.labels.tolist() == [written[key] for key in fold.keys]
        assert fold.logits.shape == (len(fold.keys), 2, 3)
        assert (fold.logits.argmax(axis=-1) == fold.labels).mean() > 0.8, "the readings belong to these pictures"
        assert np.allclose(fold.probabilities.sum(axis=-1), 1, atol=1e-5)
        # Copies of a picture are read alike.
        rows: dict[bytes, np.ndarray] = {}
        for key, row in zip(fold.keys, fold.logits, strict=True):
            assert np.allclose(rows.setdefault(key, row), row, atol=1e-4)


@pytest.mark.long
def test_a_learning_curve_fits_to_growing_parts_and_reads_the_others(files: list[str], tmp_path: Path) -> None:
    seen: list[Fitted] = []
    fits = learning_curve(files, SPEC, PARAMETERS.model_copy(update={"epochs": 1}), tmp_path, seen.append)
    assert seen == fits
    assert len(fits) == 3 * 4, "four fits of each size, because there are few pictures"
    count = 19 * len(LABELS)
    assert all(fit.fitted + fit.read == count for fit in fits)
    assert all(0 <= fit.misread <= fit.read for fit in fits)
    sizes = [fit.fitted for fit in fits]
    for draw_number in range(4):
        small, quarter, half = (sizes[4 * width + draw_number] for width in range(3))
        assert small < quarter < half
    assert sum(sizes[:4]) < count
    assert sizes[8] + sizes[10] == count, "the halves of opposite draws are disjoint"


@pytest.mark.long
def test_finer_parts_give_fits_to_fewer_pictures(files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_validation, "_READ", 50)
    fits = learning_curve(files, SPEC, PARAMETERS.model_copy(update={"epochs": 1}), tmp_path, lambda fit: None, parts=16)
    assert {fit.share for fit in fits} == {1 / 16, 1 / 8, 1 / 4}
    count = 19 * len(LABELS)
    for fit in fits:
        assert fit.fitted == pytest.approx(fit.share * count, abs=15)
        assert fit.read == fit.counts.examples
        assert 50 <= fit.read < 50 + 2 * count / 16, "no more parts than needed are read"
        assert fit.steps == -(-fit.fitted // 16), "batches of 16, for one epoch"
        assert fit.cpu_seconds > 0


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    few = transformed([0], tmp_path / "transformed")
    with pytest.raises(CaptchaPipelineError, match="9 pictures are too few for 20 folds"):
        next(out_of_fold(few, SPEC, PARAMETERS, 20, tmp_path))
    with pytest.raises(CaptchaPipelineError, match=r"9 pictures are too few to fit models to an eighth of them\. Label at least 80"):
        learning_curve(few, SPEC, PARAMETERS, tmp_path, lambda fit: None)
