"""The format "onnx": a file for ONNX Runtime, with weights in float32 or in 8 bits."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from captcha_read.pictures import Pixels
from components.base.features import PIXELS
from pipeline.exporting.subject import Probabilities, Subject

if TYPE_CHECKING:
    import onnx

CALIBRATION_PICTURES: Final = 512


def write(subject: Subject, path: Path) -> None:
    """Writes the model in float32."""
    path.write_bytes(_graph(subject).SerializeToString())


def opened(path: Path) -> Probabilities:
    """Opens the file as captcha-read does."""
    from captcha_read.model import Model

    return Model(path).probabilities


def write_int8(subject: Subject, path: Path) -> None:
    """Writes the model with weights and activations of 8 bits, whose ranges are calibrated on pictures of the training split.

    The first convolution and the layers that count and choose characters stay in float32: see `onnx_graph.EXACT`.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from pipeline.exporting.onnx_graph import EXACT

    first = next(layer.name for layer in subject.model.layers if layer.weights)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        given, prepared = Path(folder) / "float32.onnx", Path(folder) / "prepared.onnx"
        write(subject, given)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            _Pictures(subject.sample(CALIBRATION_PICTURES)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Relu", "MaxPool"],
            nodes_to_exclude=[first, *EXACT],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Of 3,000 pictures of four digits, this read all as the float32 model; with the 99.999th percentile one text was different.
            calibrate_method=CalibrationMethod.MinMax,
        )


def _graph(subject: Subject) -> "onnx.ModelProto":
    from pipeline.exporting.onnx_graph import onnx_graph

    return onnx_graph(subject.model, subject.mean, subject.std)


class _Pictures:
    """Gives pictures to ONNX Runtime's calibration, which calls `get_next`."""

    def __init__(self, pixels: Pixels):
        self._remaining: Iterator[Any] = iter(pixels)

    def get_next(self) -> dict[str, Pixels] | None:
        picture = next(self._remaining, None)
        return None if picture is None else {PIXELS: picture[None]}
