"""Text at any position, with any spacing: only the characters before it tell which character is the third."""

import keras
import numpy as np
import pytest

from components.data.captcha_spec import CaptchaSpec, LengthRange
from components.training.model import PRESETS, build_model, captcha_loss, captcha_metrics, with_column_loss
from components.training.optimizer import Muon

pytestmark = pytest.mark.long

SPEC = CaptchaSpec(charset="012", length=LengthRange(min=1, max=4), width=64, height=16, channels=1)


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns pictures with one bar of five columns a character, at least three columns apart, and higher for later characters."""
    random = np.random.default_rng(seed)
    images, labels = random.normal(0, 0.3, (count, 16, 64, 1)).astype(np.float32), []
    for image in images:
        text = "".join(random.choice(list("012"), random.integers(1, 5)))
        gaps = random.multinomial(64 - 8 * len(text), np.full(len(text) + 1, 1 / (len(text) + 1)))
        for number, character in enumerate(text):
            left = int(gaps[: number + 1].sum()) + 8 * number
            image[16 - 5 * (int(character) + 1) :, left : left + 5] += 2
        labels.append(SPEC.encode(text))
    return images, np.array(labels)


def test_counted_heads_read_text_at_any_position() -> None:
    keras.utils.set_random_seed(1)
    model = with_column_loss(build_model(SPEC, PRESETS["vgg-slim"]))
    model.compile(Muon(5e-3), loss=captcha_loss(0.1), metrics=captcha_metrics(SPEC))
    model.fit(*pictures(2_000, 1), batch_size=32, epochs=5, verbose=0)
    figures = model.evaluate(*pictures(300, 2), verbose=0, return_dict=True)
    assert figures["sequence_accuracy"] > 0.9
