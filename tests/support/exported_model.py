"""A small model as the Trainer exports it, for the tests of programs that load it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from components.data.captcha_spec import CaptchaSpec, LengthRange
from components.serving.signatures import export_model
from components.training.model import PRESETS, Preset, build_model
from tests.support.encoded import encode
from tests.support.transform_run import draw, emitted, transform

# Characters of two and of three bytes, and labels of two lengths.
SPEC = CaptchaSpec(charset="абв漢字", length=LengthRange(min=2, max=3), width=24, height=12, channels=3)
LABELS = ["аб", "漢字в", "в漢", "бба", "字а", "аа"]
MAX_PIXELS = 1000
PICTURES = [encode(draw(SPEC, label, seed)) for seed, label in enumerate(LABELS)]
EXAMPLES = [emitted(picture, label, SPEC) for picture, label in zip(PICTURES, LABELS, strict=True)]
# Good values for each signature, and bad values for signatures that read pictures.
REQUESTS = {
    "serving_default": [PICTURES[0], b"no picture", PICTURES[1], b"", PICTURES[2][:60], *PICTURES[3:]],
    "explain": [PICTURES[0], b"no picture", *PICTURES[1:]],
    "serving_examples": [EXAMPLES[0], b"", *EXAMPLES[1:]],
    "transform_features": EXAMPLES,
}


def transform_graph(folder: Path) -> tft.TFTransformOutput:
    """Returns Transform's graph for PICTURES, which is stored in the folder."""
    return transform(SPEC, {"train": EXAMPLES}, folder)


def random_model(design: Preset = PRESETS["vgg-slim"], seed: int = 0) -> keras.Model:
    """Returns a model in which every variable, including the averages, differs from Keras' initial value."""
    model, random = build_model(SPEC, design), np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        fan_in = int(np.prod(variable.shape[:-1])) if len(variable.shape) > 1 else 100
        noise = random.normal(0, fan_in**-0.5, variable.shape)  # keeps the logits small, so that two models give different answers
        weights.append(1 + np.abs(noise) if variable.path.endswith(("gamma", "moving_variance")) else noise)
    model.set_weights(weights)
    return model


def export(directory: Path, model: keras.Model, graph: tft.TFTransformOutput, fingerprint: str = "f") -> Path:
    """Exports a model; returns the folder."""
    export_model(model, graph, SPEC, MAX_PIXELS, {"fingerprint": fingerprint, "preset": "vgg-slim"}, str(directory))
    return directory


def answers_in_python(directory: Path, requests: Mapping[str, Sequence[bytes]]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the same as `components.serving.server_trial.answers`, with the loader of Python."""
    loaded = tf.saved_model.load(str(directory))
    found = {}
    for signature, values in requests.items():
        (given,) = loaded.signatures[signature].structured_input_signature[1]
        answer = loaded.signatures[signature](**{given: tf.constant(values, tf.string)})
        found[signature] = {name: value.numpy() for name, value in answer.items()}
    return found


def assert_equal(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Asserts that two answers are equal: floating-point numbers up to rounding, all other values exactly."""
    if theirs.dtype == np.float32:
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    else:
        np.testing.assert_array_equal(ours, theirs)


def write_test_split(folder: Path, examples: Sequence[bytes] = EXAMPLES) -> Path:
    """Writes examples as the test split of an artifact in `folder`, as CaptchaExampleGen does; returns `folder`."""
    (folder / "Split-test").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "Split-test" / "data_tfrecord-00000-of-00001.gz"), "GZIP") as writer:
        for example in examples:
            writer.write(example)
    return folder
