import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from components.data.captcha_spec import CaptchaSpec
from components.training.calibration import CalibratedCrossEntropy, calibrate, temperature
from components.training.model import PRESETS, build_model


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_the_true_temperature_is_found(true: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(4000, 3, 5)).astype(np.float32)
    chances = softmax(logits / true, axis=-1)
    labels = (rng.random((4000, 3, 1)) > chances.cumsum(-1)).sum(-1).clip(max=4)
    assert temperature(logits, labels) == pytest.approx(true, rel=0.05)


def test_the_temperature_is_limited_if_all_pictures_are_read_correctly() -> None:
    logits = np.tile(np.eye(3, dtype=np.float32)[:, np.newaxis], (1, 2, 1))
    assert 0.1 < temperature(logits, np.tile(np.arange(3)[:, np.newaxis], (1, 2))) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["vgg-slim", "vgg-book"])
def test_calibration_only_divides_the_logits(preset: str) -> None:
    spec = CaptchaSpec(charset="abc", length=3, width=16, height=8, channels=1)
    model = build_model(spec, PRESETS[preset])
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(64, 8, 16, 1)).astype(np.float32), rng.integers(0, 3, (64, 3))
    before = model.predict(images, verbose=0)
    after = calibrate(model, tf.data.Dataset.from_tensor_slices((images, labels)).batch(48))
    divisor = temperature(before, labels)
    assert divisor != pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(after, before / divisor, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.predict(images, verbose=0), after, rtol=1e-4, atol=1e-5)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return -float(np.take_along_axis(log_softmax(logits, axis=-1), labels[..., np.newaxis], axis=-1).mean())


def metric_of(logits: np.ndarray, labels: np.ndarray, batch: int = 37) -> float:
    metric = CalibratedCrossEntropy()
    for start in range(0, len(labels), batch):
        metric.update_state(labels[start : start + batch].astype(np.float32), logits[start : start + batch])
    return float(metric.result())


@pytest.mark.parametrize("scale", [0.3, 0.77, 1.0, 2.6, 4.0])
@pytest.mark.parametrize("sureness", [2.0, 6.0, 12.0])
def test_the_metric_is_the_cross_entropy_after_calibration(scale: float, sureness: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, (500, 4))
    logits = (scale * (sureness * np.eye(10)[labels] + rng.normal(scale=2, size=(500, 4, 10)))).astype(np.float32)
    lowest = cross_entropy(logits / temperature(logits, labels), labels)
    assert metric_of(logits, labels) == pytest.approx(lowest, rel=0.01, abs=1e-7)


def test_the_metric_ignores_the_scale_of_the_logits() -> None:
    """A model fitted with label smoothing is less confident than accurate; if it reads more, the metric must prefer it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, (500, 4))
    noise = rng.normal(size=(500, 4, 10))
    smoothed, plain = (factor * (6 * np.eye(10)[labels] + scale * noise) for factor, scale in ((0.4, 1.0), (2.0, 2.0)))
    assert cross_entropy(smoothed, labels) > cross_entropy(plain, labels)
    assert metric_of(smoothed, labels) < metric_of(plain, labels)
