"""The format "litert": a file for LiteRT, which was TensorFlow Lite, with weights in float32 or in 8 bits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from captcha_read.pictures import Pixels
from components.base.features import PIXELS, PROBABILITIES
from pipeline.exporting.subject import Probabilities, Subject

CALIBRATION_PICTURES: Final = 512


def write(subject: Subject, path: Path) -> None:
    """Writes the model in float32, with TensorFlow's converter."""
    path.write_bytes(_converter(subject).convert())


def write_int8(subject: Subject, path: Path) -> None:
    """Writes the model with weights and activations of 8 bits, whose ranges are calibrated on pictures of the training split.

    Operations that LiteRT does not have in 8 bits stay in float32.
    """
    import tensorflow as tf

    pictures = subject.sample(CALIBRATION_PICTURES)

    def samples() -> Iterator[list[Pixels]]:
        for picture in pictures:
            yield [picture[None]]

    converter = _converter(subject)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    path.write_bytes(converter.convert())


def opened(path: Path) -> Probabilities:
    """Opens the file with LiteRT's interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    read = Interpreter(str(path)).get_signature_runner()

    def probabilities(pixels: Pixels) -> npt.NDArray[np.float32]:
        return np.asarray(read(**{PIXELS: pixels})[PROBABILITIES])

    return probabilities


def _converter(subject: Subject) -> Any:
    import tensorflow as tf

    module = tf.Module()
    # The converter finds only what the module holds, and it does not look into a Keras model.
    module.weights = [variable.value for variable in subject.model.variables]
    size = [None, subject.spec.height, subject.spec.width, subject.spec.channels]

    @tf.function(input_signature=[tf.TensorSpec(size, tf.uint8, name=PIXELS)], autograph=False)
    def read(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        image = (tf.cast(pixels, tf.float32) - subject.mean) / subject.std
        return {PROBABILITIES: tf.nn.softmax(subject.model(image, training=False))}

    module.read = read
    return tf.lite.TFLiteConverter.from_concrete_functions([read.get_concrete_function()], module)
