import math

import keras
import numpy as np
import pytest

from components.data.captcha_spec import CaptchaSpec
from components.training.model import PRESETS, build_model, captcha_loss
from experiments import book_network

pytestmark = pytest.mark.slow


def test_book_network_and_the_preset_differ_only_in_their_initial_weights() -> None:
    spec = CaptchaSpec()
    book, preset = book_network.book_network(spec), build_model(spec, PRESETS["vgg-book"])
    preset.set_weights(book.get_weights())
    images = np.random.default_rng(0).normal(size=(2, spec.height, spec.width, spec.channels)).astype(np.float32)
    np.testing.assert_allclose(book(images), preset(images), atol=1e-6)


def test_a_sigmoid_before_the_softmax_keeps_the_loss_above_zero() -> None:
    spec = CaptchaSpec()
    labels = np.array([[1, 2, 3, 4]])
    sure = 60 * np.eye(spec.num_classes, dtype=np.float32)[labels] - 30
    logits = keras.Input(sure.shape[1:])
    network = keras.Model(logits, logits * 1.0)
    loss = captcha_loss()
    assert float(loss(labels, network(sure))) == pytest.approx(0, abs=1e-6)
    with_sigmoid = book_network.with_sigmoid(lambda _: network, spec)
    with_sigmoid.compile(loss=loss)
    assert with_sigmoid.evaluate(sure, labels, verbose=0) == pytest.approx(math.log(1 + 9 / math.e), abs=1e-4)
