"""The parts of the GPU benchmarks that need no GPU: pictures, passes, shifts, operations, counts."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import results
from benchmarks.gpu_curve import Fit, judge, table
from benchmarks.in_memory import draw, passes, shifted
from benchmarks.operations import reading_operations, training_operations
from components.base.features import SPLITS
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.painting import Captcha, CaptchaPainter, SynthPlan
from components.data.splits import split_key, split_of
from components.training.augmentations.shift import random_shift
from components.training.model import PRESETS, build_model
from pipeline.config.loading import load_config

pytestmark = pytest.mark.slow

ALNUM = CaptchaSpec(charset="alnum", case_sensitive=False, width=128, height=64, channels=1)


def test_shifts_match_the_shifts_of_the_trainer():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 9, 3), np.uint8)
    seed = tf.constant([3, 4], tf.int64)
    offsets = tf.random.stateless_uniform([2, 50, 1], seed, -2, 3, tf.int32)  # as random_shift draws them
    np.testing.assert_array_equal(shifted(tf.constant(pixels), offsets, 2), random_shift(tf.constant(pixels), 2, seed))


def test_each_pass_has_every_picture_once_in_a_new_order():
    order = passes(10, 25, seed=1)
    assert order.shape == (25,)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert list(order[:10]) != list(order[10:20])
    assert len(set(order[20:])) == 5
    np.testing.assert_array_equal(order, passes(10, 25, seed=1))
    assert (order != passes(10, 25, seed=2)).any()


def test_pictures_and_splits_match_a_span_drawn_in_colour():
    config = load_config("configs/alnum.yaml", ["data.splits={train: 2, eval: 1, test: 1}"])
    drawn = draw(config, 12, workers=1)
    synth, splits = config.synth, config.data.splits.model_dump()
    colour = config.captcha.model_copy(update={"channels": 3})
    plan = SynthPlan(colour, synth, splits)
    expected: dict[str, list[Captcha]] = {split: [] for split in SPLITS}
    for captcha in map(CaptchaPainter(plan).paint, range(12)):
        expected[split_of(split_key(captcha.image), splits)].append(captcha)
    for split, captchas in expected.items():
        assert drawn[split].pixels.shape == (len(captchas), 64, 128, 1)
        for captcha, pixels, labels in zip(captchas, drawn[split].pixels, drawn[split].labels, strict=True):
            np.testing.assert_array_equal(pixels[..., 0], np.asarray(captcha.image.convert("L")))
            assert config.captcha.decode(list(labels)) == captcha.label


@pytest.mark.parametrize("preset", PRESETS)
def test_operations_match_the_count_of_tensorflow(preset):
    model = build_model(ALNUM, PRESETS[preset])
    graph = tf.function(lambda images: model(images, training=False)).get_concrete_function(tf.TensorSpec([1, 64, 128, 1])).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    counted = tf.compat.v1.profiler.profile(graph, options=options).total_float_ops
    assert reading_operations(model) == pytest.approx(counted, rel=0.02)


def test_training_operations_leave_out_the_gradient_of_the_picture():
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Conv2D(2, 3, padding="same")(image))))
    convolution, dense = 2 * 9 * 2 * 16, 2 * 32 * 3
    assert reading_operations(model) == convolution + dense
    assert training_operations(model) == 2 * convolution + 3 * dense


def test_readings_are_counted_with_0_and_o_as_different_and_as_equal():
    labels = np.array([ALNUM.encode(text) for text in ("AB0O", "1234", "OOOO", "WXYZ")])
    read = np.array([ALNUM.encode(text) for text in ("ABOO", "1234", "OOO1", "WXYZ")])
    assert judge(ALNUM, labels, np.eye(36, dtype=np.float32)[read]) == {
        "pictures": 4,
        "read": 2,
        "read_with_0_for_o": 3,
        "position_accuracy": 14 / 16,
        "misread": 2,
        "misread_0_o": 1,
    }
    digits = CaptchaSpec()
    ids = np.array([[0, 1, 2, 3]])
    assert judge(digits, ids, np.eye(10, dtype=np.float32)[[[0, 1, 2, 4]]])["misread_0_o"] == 0


def test_a_fit_has_complete_dispatches():
    fit = Fit.parse("2000000/128/7e-3")
    assert fit == Fit(2_000_000, 128, 7e-3)
    assert fit.dispatches == 62
    assert Fit.parse("1/32/1e-2").dispatches == 1


def test_all_seeds_of_a_fit_are_in_one_line():
    test = {"pictures": 1000, "read_with_0_for_o": 999, "misread": 5, "misread_0_o": 4}
    fit = {"task": "alnum", "train": 900, "images": 8000, "batch_size": 32, "learning_rate": 7e-3, "gpu": "none"}
    evaluation = {"read": 97, "pictures": 100}
    rows = [{**fit, "fit_s": seconds, "eval": evaluation, "test": {**test, "read": read}} for seconds, read in ((2.0, 990), (4.0, 995))]
    columns, lines = table(rows)
    (line,) = lines
    cells = dict(zip(columns, line, strict=True))
    assert cells["on test, per seed"] == "99.00%, 99.50% of 1,000"
    assert cells["median (95 % interval)"].startswith("99.00% (")
    assert (cells["median fit time"], cells["pictures/s"]) == ("3.0 s", "2,667")


def test_versions_lists_the_installed_packages(monkeypatch):
    monkeypatch.setattr(results, "_PACKAGES", ("no-such-package", "keras"))
    assert results.versions() == f"keras {keras.__version__}"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert results.gpus() == "no GPU"
