import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from components.calibration import calibrate, temperature
from components.captcha import CaptchaSpec
from components.model import PRESETS, build_model


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_temperature_that_the_labels_were_drawn_with_is_found(true: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(4000, 3, 5)).astype(np.float32)
    chances = softmax(logits / true, axis=-1)
    labels = (rng.random((4000, 3, 1)) > chances.cumsum(-1)).sum(-1).clip(max=4)
    assert temperature(logits, labels) == pytest.approx(true, rel=0.05)


def test_pictures_that_are_all_read_right_do_not_ask_for_certainty() -> None:
    logits = np.tile(np.eye(3, dtype=np.float32)[:, np.newaxis], (1, 2, 1))
    assert 0.1 < temperature(logits, np.tile(np.arange(3)[:, np.newaxis], (1, 2))) < 0.2


@pytest.mark.parametrize("preset", ["vgg-slim", "vgg-book"])
def test_a_calibrated_model_reads_as_before_with_other_confidence(preset: str) -> None:
    spec = CaptchaSpec(charset="abc", length=3, width=16, height=8, channels=1)
    model = build_model(spec, PRESETS[preset])
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(64, 8, 16, 1)).astype(np.float32), rng.integers(0, 3, (64, 3))
    before = model.predict(images, verbose=0)
    divisor = calibrate(model, tf.data.Dataset.from_tensor_slices((images, labels)).batch(48))
    assert divisor != pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(model.predict(images, verbose=0), before / divisor, rtol=1e-4, atol=1e-5)
