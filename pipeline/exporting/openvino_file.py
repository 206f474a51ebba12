"""The format "openvino": an intermediate representation for OpenVINO's runtime, model.xml and model.bin, made from the ONNX graph.

There is no variant with 8-bit weights. It would need the package nncf, which brings scikit-learn, pandas and others.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from captcha_read.pictures import Pixels
from pipeline.exporting.subject import Probabilities, Subject


def write(subject: Subject, path: Path) -> None:
    """Writes the model in float32."""
    import openvino

    from pipeline.exporting.onnx_graph import onnx_graph

    # `openvino.convert_model` would do the same, but reports its use over the network.
    model = openvino.Core().read_model(onnx_graph(subject.model, subject.mean, subject.std).SerializeToString())
    openvino.save_model(model, path, compress_to_fp16=False)


def opened(path: Path) -> Probabilities:
    """Opens the files with OpenVINO's runtime, on the CPU."""
    import openvino

    # On processors with AMX, the default is bfloat16.
    model: Any = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def probabilities(pixels: Pixels) -> npt.NDArray[np.float32]:
        return np.asarray(model(pixels)[0])

    return probabilities
