import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from components.data.captcha_spec import CaptchaSpec, LengthRange
from components.evaluation.metrics import read
from components.training.counting import Count, Glimpses
from components.training.model import PRESETS, build_model, captcha_loss, captcha_metrics, with_column_loss
from components.training.optimizer import Muon
from components.training.schedule import WarmupCosine
from tests.support.readings import heads

pytestmark = pytest.mark.slow

SMALL = CaptchaSpec(charset="abc", length=3, width=8, height=8, channels=1)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_the_smallest_picture(preset: str) -> None:
    model = build_model(SMALL, PRESETS[preset])
    logits = model(np.zeros((2, 8, 8, 1), np.float32))
    assert logits.shape == (2, 3, 3)
    assert logits.dtype == tf.float32


@pytest.mark.parametrize("preset", PRESETS)
def test_each_position_has_a_head_with_a_class_for_blank(preset: str) -> None:
    spec = CaptchaSpec(charset="абв", length=LengthRange(min=2, max=5), width=37, height=19)
    assert build_model(spec, PRESETS[preset]).output_shape == (None, 5, 4)


def test_each_direct_head_is_a_layer() -> None:
    model = build_model(CaptchaSpec(length=5), PRESETS["vgg16-bn"])
    assert [layer.name for layer in model.layers if layer.name.startswith("head_")] == [f"head_{i}" for i in range(1, 6)]


def test_vgg_book_has_the_published_layers() -> None:
    model = build_model(CaptchaSpec(), PRESETS["vgg-book"])
    filters = {layer.name: layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}
    assert filters == {
        **{"conv1_1": 64, "conv1_2": 64, "conv2_1": 128, "conv2_2": 128, "conv3_1": 128, "conv3_2": 128, "conv3_3": 128},
        **{"conv4_1": 256, "conv4_2": 128, "conv4_3": 128, "conv5_1": 512, "conv5_2": 512, "conv5_3": 512},
    }
    assert model.get_layer("pool5").output.shape == (None, 1, 4, 512)  # "valid" pooling would give a height of 0
    assert [model.get_layer(name).units for name in ("fc6", "fc7", "head_1")] == [4096, 4096, 10]
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)


def test_direct_heads_line_up_with_labels() -> None:
    """Head i decides position i of its own picture: stacked on axis 1, not concatenated on axis 0."""
    model = build_model(SMALL, PRESETS["vgg-book"])
    for position in range(3):
        head = model.get_layer(f"head_{position + 1}")
        head.set_weights([np.zeros_like(head.get_weights()[0]), np.eye(3, dtype=np.float32)[position]])
    logits = model.predict(np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32), verbose=0)
    np.testing.assert_array_equal(logits.argmax(-1), [[0, 1, 2]] * 4)


def test_a_glimpse_is_the_mean_of_the_columns_weighted_by_the_scores() -> None:
    rng = np.random.default_rng(0)
    columns, counts = rng.normal(size=(4, 5, 6)).astype(np.float32), rng.uniform(0, 2, size=(4, 5)).astype(np.float32)
    layer = Glimpses(2, "glimpses", keras.DTypePolicy("float32"))
    assert layer([columns, counts]).shape == (4, 2, 6)
    keys, queries, place = (rng.normal(size=weight.shape).astype(np.float32) for weight in layer.get_weights()[:3])
    layer.set_weights([keys, queries, place, np.float32(2.5)])
    off = counts[:, :, np.newaxis] - [0.5, 1.5]
    scores = np.exp(np.tanh(columns @ keys) @ queries + place - 2.5 * off**2)
    weights = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(layer([columns, counts]), np.einsum("nwp,nwc->npc", weights, columns), rtol=1e-4, atol=1e-5)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_columns_are_counted_as_ctc_reads_them(columns: list[int]) -> None:
    """`columns` has the class of each column: one of three characters, or 3 for the blank."""
    counts = Count()(np.float32(100) * np.eye(4, dtype=np.float32)[[columns]])
    begun = [now != 3 and (i == 0 or now != columns[i - 1]) for i, now in enumerate(columns)]
    np.testing.assert_allclose(counts[0], np.cumsum(begun) - np.array(begun) / 2, atol=1e-5)


def test_the_column_loss_sums_over_every_alignment_of_the_label() -> None:
    rng = np.random.default_rng(0)
    spec = CaptchaSpec(charset="ab", length=LengthRange(min=1, max=2), width=8, height=8, channels=1)
    model = with_column_loss(build_model(spec, PRESETS["vgg-slim"]))
    model.compile(loss=captcha_loss())
    labels = np.array([spec.encode(text) for text in ("a", "ab", "bb")])
    heads, columns = rng.normal(size=(3, 2, 3)).astype(np.float32), rng.normal(size=(3, 4, 3)).astype(np.float32)
    log_probabilities = columns - np.log(np.exp(columns).sum(-1, keepdims=True))
    losses = []
    for label, scores in zip(labels, log_probabilities, strict=True):
        text = [character for character in label if character != 2]
        ways = [way for way in itertools.product(range(3), repeat=4) if [c for c, _ in itertools.groupby(way) if c != 2] == text]
        losses.append(-np.log(sum(np.exp(scores[range(4), way].sum()) for way in ways)) / len(text))
    found = float(model.compute_loss(y=labels, y_pred=[heads, columns]))
    assert found == pytest.approx(float(captcha_loss()(labels, heads)) + np.mean(losses), rel=1e-4)


@pytest.mark.parametrize(("step", "weight"), [(0, 1.0), (50, 0.5), (100, 0.0)])
def test_the_column_loss_can_fade_during_the_fit(step: int, weight: float) -> None:
    labels, images = np.array([[0, 1, 2]]), np.random.default_rng(1).normal(size=(1, 8, 8, 1)).astype(np.float32)
    schedule = WarmupCosine(0.01, 0.1, 100)
    losses = []
    for chosen in (lambda _: 0.0, None, schedule.remaining):
        keras.utils.set_random_seed(1)
        model = with_column_loss(build_model(SMALL, PRESETS["vgg-slim"]), chosen)
        model.compile(Muon(schedule), loss=captcha_loss())
        model.optimizer.iterations.assign(step)
        losses.append(float(model.compute_loss(y=labels, y_pred=model(images))))
    without, whole, faded = losses
    assert whole > without
    assert faded == pytest.approx(without + weight * (whole - without), rel=1e-5)


def test_the_model_with_column_loss_shares_the_weights() -> None:
    model = build_model(SMALL, PRESETS["vgg-slim"])
    fitted = with_column_loss(model)
    assert [id(weight) for weight in fitted.weights] == [id(weight) for weight in model.weights]


@pytest.mark.parametrize(("preset", "width"), [("vgg-book", 100), ("vgg-slim", 8)])
def test_a_model_with_too_few_columns_has_no_column_loss(preset: str, width: int) -> None:
    model = build_model(CaptchaSpec(charset="ab", length=5, width=width, height=8, channels=1), PRESETS[preset])
    assert with_column_loss(model) is model


@pytest.mark.parametrize(("width", "length", "columns"), [(100, 4, 13), (128, 4, 16), (160, 8, 40), (40, 2, 10), (12, 6, 12)])
def test_counted_heads_have_three_columns_a_position_if_the_picture_is_wide_enough(width: int, length: int, columns: int) -> None:
    model = build_model(CaptchaSpec(length=length, width=width), PRESETS["vgg-slim"])
    assert model.get_layer("columns").output.shape[1] == columns


def test_bfloat16_gives_float32_logits_and_shares_weights_with_float32() -> None:
    mixed, full = build_model(SMALL, PRESETS["vgg-slim"], "mixed_bfloat16"), build_model(SMALL, PRESETS["vgg-slim"])
    full.set_weights(mixed.get_weights())
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype(np.float32)
    logits = mixed(images)
    assert logits.dtype == tf.float32
    assert mixed.get_layer("conv1_1").compute_dtype == "bfloat16"
    np.testing.assert_allclose(logits, full(images), atol=0.1)
    assert keras.config.dtype_policy().name == "float32"


def test_loss_and_metrics_match_numpy() -> None:
    labels = np.array([[0, 1, 2], [2, 2, 2], [1, 0, 1]])
    logits = np.random.default_rng(0).normal(size=(3, 3, 3)).astype(np.float32)
    logits[0] += 9 * np.eye(3)[labels[0]]
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_softmax, labels[..., np.newaxis], -1).mean()
    assert float(captcha_loss()(labels, logits)) == pytest.approx(expected, rel=1e-5)
    smoothed = 0.9 * expected - 0.1 * log_softmax.mean()
    assert float(captcha_loss(0.1)(labels, logits)) == pytest.approx(smoothed, rel=1e-5)
    right = logits.argmax(-1) == labels
    values = {}
    for metric in captcha_metrics(SMALL):
        metric.update_state(labels.astype(np.float32), logits)  # Keras hands labels over as float32
        values[metric.name] = float(metric.result())
    assert values == {"sequence_accuracy": pytest.approx(right.all(-1).mean()), "position_accuracy": pytest.approx(right.mean())}


def test_metrics_read_like_the_served_model_and_ignore_padding() -> None:
    spec = CaptchaSpec(charset="ab", length=LengthRange(min=1, max=3))
    labels = np.array([spec.encode(text) for text in ("a", "ab", "bab")])
    # The most probable class of each head: "a", blank, "b" for the second label; "ba" and a blank for the third.
    probabilities = np.array(
        [
            [[0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0.1, 0.1, 0.8]],
            [[0.9, 0.05, 0.05], [0.05, 0.45, 0.5], [0.1, 0.5, 0.4]],
            [[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]],
        ]
    )
    values = {}
    for metric in captcha_metrics(spec):
        metric.update_state(labels.astype(np.float32), np.log(probabilities).astype(np.float32))
        values[metric.name] = float(metric.result())
    # The readings are "a", "abb" and "ba".
    assert values == {"sequence_accuracy": pytest.approx(1 / 3), "position_accuracy": pytest.approx(5 / 6)}


@given(heads())
def test_tensors_and_arrays_give_the_same_readings(case: tuple[np.ndarray, int]) -> None:
    probabilities, min_length = case
    ids, chosen = (tensor.numpy() for tensor in read(tf.constant(probabilities), min_length, keras.ops))
    expected_ids, expected_chosen = read(probabilities, min_length)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(chosen, expected_chosen)
