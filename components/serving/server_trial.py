"""Tests an exported model as a server would use it: `python -m components.serving.server_trial MODEL RECORDS`.

AtomicPusher runs this module before it publishes a version, in a separate process, so that a model that crashes or hangs affects nothing
else. The module imports neither Keras nor TFX, so that it takes seconds.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from components.base.features import CONFIDENCE, IMAGE, LABEL_IDS, PROBABILITIES, SPEC_FILE, TEXT, VALID
from components.data.captcha_spec import CaptchaSpec
from components.data.example_proto import Example
from components.data.tfrecords import whole_records

PICTURES: Final = 8
# The dtype and the shape of each output.
_Forms = Mapping[str, tuple[Any, tuple[int, ...]]]
_LONGEST_REASON: Final = 2_000  # characters; TensorFlow's errors may contain a traceback for each node


def answers(directory: Path, requests: Mapping[str, Sequence[bytes]]) -> dict[str, dict[str, np.ndarray]]:
    """Restores a SavedModel by its saver, and calls signatures that have a single string input.

    Args:
      directory: of the SavedModel.
      requests: the values of the input, by signature.

    Returns:
      The answers by signature and output. Strings have the dtype object.

    Raises:
      ValueError: the model does not have one of the signatures.
      tf.errors.OpError: the model cannot be loaded, or does not answer.
    """
    from components.serving.loaded import LoadedModel  # imports TensorFlow, after `main` has kept it from importing Keras

    model = LoadedModel(directory)
    try:
        return {signature: model.call(signature, values) for signature, values in requests.items()}
    finally:
        model.close()


def find_fault(directory: Path, records: Path) -> str:
    """Returns what is wrong with a model's answers to some pictures of a split, as a sentence; "" if nothing is wrong.

    Args:
      directory: of a SavedModel that this pipeline exported.
      records: the folder of the split, as CaptchaExampleGen writes it. All its pictures are good.

    Raises:
      CaptchaPipelineError: a record is broken.
      OSError: one of the folders does not exist.
      ValueError, tf.errors.OpError: as `answers`.
    """
    spec = CaptchaSpec.model_validate(json.loads((directory / "assets.extra" / SPEC_FILE).read_text(encoding="utf-8"))["spec"])
    examples = list(islice(whole_records(records), PICTURES))
    if not examples:
        return f"{records} has no picture to test the model with."
    pictures = [Example.FromString(example).features.feature[IMAGE].bytes_list.value[0] for example in examples]
    found = answers(directory, {"serving_default": pictures, "serving_examples": examples, "transform_features": examples})
    count = len(examples)
    labels: _Forms = {LABEL_IDS: (np.int64, (count, spec.max_length))}
    readings: _Forms = {
        TEXT: (object, (count,)),
        PROBABILITIES: (np.float32, (count, spec.max_length, spec.num_classes)),
        CONFIDENCE: (np.float32, (count,)),
        VALID: (np.bool_, (count,)),
    }
    forms = {"serving_default": readings, "serving_examples": readings, "transform_features": labels}
    for signature, outputs in forms.items():
        for name, (dtype, shape) in outputs.items():
            answer = found[signature].get(name)
            if answer is None:
                return f"The signature {signature} does not return {name}."
            if (answer.dtype, answer.shape) != (dtype, shape):
                return f"The signature {signature} returns {name} {answer.dtype} {answer.shape} instead of {np.dtype(dtype)} {shape}."
        if VALID in outputs and (bad := int((~found[signature][VALID]).sum())):
            return f"The signature {signature} marks {bad} of {count} good pictures as not valid."
    return ""


def main(arguments: Sequence[str]) -> int:
    """Tests a model and prints what is wrong. Returns the exit code: 1 if anything is wrong, else 0."""
    model, records = arguments
    # Keeps TensorFlow from importing Keras, which would take longer than everything else. A SavedModel does not need it.
    sys.modules["keras"] = None  # type: ignore[assignment]
    try:
        problem = find_fault(Path(model), Path(records))
    except Exception as error:  # whatever TensorFlow raises is the result of the test
        problem = f"{type(error).__name__}: {getattr(error, 'message', error)}"[:_LONGEST_REASON]
    if problem:
        print(problem)
    return int(bool(problem))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
