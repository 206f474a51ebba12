"""The ONNX graph of each preset gives the probabilities of the Keras model."""

from dataclasses import replace

import keras
import numpy as np
import onnxruntime
import pytest
from keras import ops

from components.data.captcha_spec import CaptchaSpec, LengthRange
from components.training.model import PRESETS, Preset, build_model
from pipeline.exporting.onnx_graph import onnx_graph

pytestmark = pytest.mark.slow

MEAN, STD = 181.25, 63.5
DESIGNS = {
    "vgg-slim": PRESETS["vgg-slim"],
    "vgg16-bn": replace(PRESETS["vgg16-bn"], dense=(64, 32)),
    "vgg-book": replace(PRESETS["vgg-book"], dense=(64, 32)),
    "direct heads on patches": Preset(groups=((8,), (16, 8)), patches=True),
    "counted heads without patches": Preset(groups=((8, 8), (12,)), heads="counted", context=16),
    "counted heads without batch norm": Preset(groups=((8, 8), (12,)), heads="counted", context=16, batch_norm=False),
}
SPECS = {
    "odd sides": CaptchaSpec(length=LengthRange(min=1, max=3), width=33, height=17, channels=3),
    "narrow": CaptchaSpec(charset="ab", length=8, width=40, height=9, channels=1),
    "one position": CaptchaSpec(length=1, width=20, height=12, channels=3),
}


def model_of(spec: CaptchaSpec, design: Preset, gammas: tuple[float, float]) -> keras.Model:
    """Returns a model in which every variable differs from Keras' initial value, with gammas of batch norms between two bounds."""
    model, random = build_model(spec, design), np.random.default_rng(7)

    def values(variable: keras.Variable) -> np.ndarray:
        if variable.path.endswith("gamma"):
            return random.uniform(*gammas, variable.shape)
        if variable.path.endswith("moving_variance"):
            return random.uniform(0.2, 3, variable.shape)
        fan_in = int(np.prod(variable.shape[:-1])) if len(variable.shape) > 1 else 9
        return random.normal(0, (2 / fan_in) ** 0.5, variable.shape)

    model.set_weights([values(variable) for variable in model.weights])
    return model


def standardise(model: keras.Model, logits: np.ndarray) -> None:
    """Changes the heads so that the logits vary around 0 by about 1. Otherwise the softmax would hide most differences."""
    spread = logits.std(axis=0).max()
    for layer in model.layers:
        if layer.name.startswith("head"):
            kernel, bias = layer.get_weights()
            centre = logits.mean((0, 1)) if layer.name == "head" else logits[:, int(layer.name.removeprefix("head_")) - 1].mean(0)
            layer.set_weights([kernel / spread, (bias - centre) / spread])


def test_every_preset_is_tested() -> None:
    assert PRESETS.keys() <= DESIGNS.keys()


@pytest.mark.parametrize("gammas", [(0.5, 2.0), (-2.0, 2.0), (-2.0, -0.5)], ids=["positive", "both signs", "negative"])
@pytest.mark.parametrize("size", SPECS)
@pytest.mark.parametrize("name", DESIGNS)
def test_the_graph_reads_like_the_keras_model(name: str, size: str, gammas: tuple[float, float]) -> None:
    spec = SPECS[size]
    model = model_of(spec, DESIGNS[name], gammas)
    pixels = np.random.default_rng(1).integers(0, 256, (5, spec.height, spec.width, spec.channels), np.uint8)
    inputs = (pixels.astype(np.float32) - MEAN) / STD
    standardise(model, ops.convert_to_numpy(model(inputs, training=False)))
    wanted = ops.convert_to_numpy(ops.softmax(model(inputs, training=False)))
    session = onnxruntime.InferenceSession(onnx_graph(model, MEAN, STD).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"pixels": pixels})
    assert found.dtype == np.float32
    assert np.ptp(wanted, axis=0).max() > 0.01  # the pictures matter
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    (one,) = session.run(["probabilities"], {"pixels": pixels[:1]})
    np.testing.assert_allclose(one, wanted[:1], atol=2e-5)
