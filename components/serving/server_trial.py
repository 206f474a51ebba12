"""Uses an exported model as a server would: `python -m components.serving.server_trial MODEL RECORDS`.

TensorFlow Serving, TensorFlow for Java and other servers restore the variables by an operation in the graph. Python's own loader
restores them object by object, and so hides what servers fail at. AtomicPusher runs this before it publishes a version, in a process of
its own: a model that crashes it or hangs takes nothing else with it. It imports neither Keras nor TFX, so that it takes seconds.
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
# By output: its type and its shape.
_Forms = Mapping[str, tuple[Any, tuple[int, ...]]]
_LONGEST_REASON: Final = 2_000  # characters; TensorFlow's errors may hold a traceback for each node


def answers(directory: Path, requests: Mapping[str, Sequence[bytes]]) -> dict[str, dict[str, np.ndarray]]:
    """Restores a SavedModel by its saver, and calls signatures of it that have one input, strings.

    Args:
      directory: of the SavedModel.
      requests: by signature, the values of its input.

    Returns:
      By signature and output, what it answers; strings as objects.

    Raises:
      ValueError: it has no such signature.
      tf.errors.OpError: it cannot be loaded, or does not answer.
    """
    import tensorflow as tf

    found = {}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signatures = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(directory)).signature_def
        for name, values in requests.items():
            if name not in signatures:
                raise ValueError(f"it has no signature {name}")
            (given,) = signatures[name].inputs.values()
            wanted = {key: output.name for key, output in signatures[name].outputs.items()}
            found[name] = session.run(wanted, {given.name: list(values)})
    return found


def find_fault(directory: Path, records: Path) -> str:
    """Returns what is wrong with the answers of a model that this pipeline exported to some pictures of a split; "" for nothing.

    Args:
      directory: of the SavedModel.
      records: the folder of the split, as CaptchaExampleGen leaves it. All its pictures are good.

    Raises:
      CaptchaPipelineError: a record is broken.
      OSError: there is no such folder.
      ValueError, tf.errors.OpError: as `answers`.
    """
    spec = CaptchaSpec.model_validate(json.loads((directory / "assets.extra" / SPEC_FILE).read_text(encoding="utf-8"))["spec"])
    examples = list(islice(whole_records(records), PICTURES))
    if not examples:
        return f"there is no picture in {records} to try it on"
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
                return f"{signature} does not answer with {name}"
            if (answer.dtype, answer.shape) != (dtype, shape):
                return f"{signature} answers with {name} {answer.dtype} {answer.shape} instead of {np.dtype(dtype)} {shape}"
        if VALID in outputs and (bad := int((~found[signature][VALID]).sum())):
            return f"{signature} marks {bad} of {count} good pictures as not valid"
    return ""


def main(arguments: Sequence[str]) -> int:
    """Tries a model out; prints what is wrong, and returns the exit code."""
    model, records = arguments
    # TensorFlow goes on where Keras cannot be imported. A SavedModel needs nothing of it, and its import takes longer than all else.
    sys.modules["keras"] = None  # type: ignore[assignment]
    try:
        problem = find_fault(Path(model), Path(records))
    except Exception as error:  # whatever TensorFlow raises: that it fails is the answer
        problem = f"{type(error).__name__}: {getattr(error, 'message', error)}"[:_LONGEST_REASON]
    if problem:
        print(problem)
    return int(bool(problem))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
