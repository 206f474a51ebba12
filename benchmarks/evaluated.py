"""Time and memory of one evaluation of two models by the Evaluator's executor, in its own process.

    uv run python benchmarks/evaluated.py 300

The argument is the size of the charset. The script imports no other benchmark, so that `large_charset` can run it with the `components` of
an earlier release. Expected: one line of JSON.
"""

import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf
import typer
from tfx.types import standard_artifacts
from tfx.utils import proto_utils

from components.base import features
from components.data.captcha_spec import CaptchaSpec
from components.evaluation import tfma_metrics
from components.evaluator import CaptchaEvaluatorExecutor
from pipeline.config.engines import Engine
from pipeline.logs import silence

PICTURES: Final = 2_000
LENGTH: Final = 4
_FIRST: Final = 0x4E00  # first code point of the block of Chinese characters
_MISREAD: Final = 0.01  # share of the characters that each model misreads
_ROWS: Final = ("truth", "model", "baseline")


class Reader(tf.Module):
    """A model for "pictures" of int32 [_ROWS, LENGTH]: the true classes and the classes that each model reads."""

    def __init__(self, num_classes: int, row: str):
        super().__init__()
        self._num_classes = num_classes
        self._row = _ROWS.index(row)

    def _ids(self, examples: tf.Tensor, row: int) -> tf.Tensor:
        picture = tf.io.parse_example(examples, {features.IMAGE: tf.io.FixedLenFeature([], tf.string)})[features.IMAGE]
        return tf.reshape(tf.io.decode_raw(picture, tf.int32), [-1, len(_ROWS), LENGTH])[:, row]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serving_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = tf.nn.softmax(15.0 * tf.one_hot(self._ids(examples, self._row), self._num_classes))
        # With a single output TFMA would use the tensor itself as the prediction, not a dict.
        return {features.PROBABILITIES: probabilities, features.CONFIDENCE: tf.reduce_prod(tf.reduce_max(probabilities, -1), -1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def transform_features(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {features.LABEL_IDS: tf.cast(self._ids(examples, 0), tf.int64)}


def _save(folder: Path, spec: CaptchaSpec, row: str) -> None:
    reader = Reader(spec.num_classes, row)
    signatures = {"serving_examples": reader.serving_examples, "transform_features": reader.transform_features}
    tf.saved_model.save(reader, str(folder), signatures=signatures)
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / features.SPEC_FILE).write_text(json.dumps({"spec": spec.model_dump(mode="json"), "fingerprint": row}))


def _write_examples(path: Path, spec: CaptchaSpec) -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, spec.num_classes, (PICTURES, LENGTH))
    read = [np.where(rng.random(truth.shape) < _MISREAD, rng.integers(0, spec.num_classes, truth.shape), truth) for _ in _ROWS[1:]]
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for i, ids in enumerate(truth.tolist()):
            label = spec.decode(ids)
            values: dict[str, list[bytes]] = {
                features.IMAGE: [np.stack([truth[i], *(row[i] for row in read)]).astype(np.int32).tobytes()],
                features.LABEL: [label.encode()],
                features.CHARACTERS: [character.encode() for character in label],
                features.SOURCE: [b"synthetic"],
                features.DIFFICULTY: [b"high contrast" if i % 3 else b"low contrast"],
                features.SPAN: [b"span-000001" if i % 4 else b"span-000002"],
            }
            feature = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=value)) for name, value in values.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def evaluate(folder: Path, characters: int) -> dict[str, Any]:
    """Evaluates in an empty folder. Returns seconds, bytes of peak memory, bytes of the metrics on disk, and accuracies per set."""
    spec = CaptchaSpec(charset="".join(chr(_FIRST + i) for i in range(characters)), length=LENGTH)
    (folder / "examples" / "Split-test").mkdir(parents=True)
    _write_examples(folder / "examples" / "Split-test" / "data-00000-of-00001.gz", spec)
    artifacts: dict[str, Any] = {"examples": standard_artifacts.Examples()}
    for key, row in (("model", "model"), ("baseline_model", "baseline")):
        _save(folder / key / "Format-Serving", spec, row)
        artifacts[key] = standard_artifacts.Model()
    outputs: dict[str, Any] = {"evaluation": standard_artifacts.ModelEvaluation(), "blessing": standard_artifacts.ModelBlessing()}
    for key, artifact in (artifacts | outputs).items():
        artifact.uri = str(folder / key)
    artifacts["examples"].span = 2
    artifacts["examples"].split_names = json.dumps(["test"])
    eval_config = tfma_metrics.eval_config(spec, confidence=0.95, source_digest="0")
    properties = {
        "eval_config": proto_utils.proto_to_json(eval_config),
        "example_splits": json.dumps(["test"]),
        "golden": 0,
        "min_sequence_accuracy": 0.0,
        "max_regression": 0.005,
        "max_slice_regression": 0.05,
        "confidence": 0.95,
        "min_pictures": 50,
    }
    context = CaptchaEvaluatorExecutor.Context(beam_pipeline_args=Engine().beam_args(), tmp_dir=str(folder / "tmp"), unique_id="1")
    started = time.perf_counter()
    CaptchaEvaluatorExecutor(context).Do(
        {key: [it] for key, it in artifacts.items()}, {key: [it] for key, it in outputs.items()}, properties
    )
    return {
        "seconds": time.perf_counter() - started,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "figures_bytes": sum(path.stat().st_size for path in (folder / "evaluation").rglob("*") if path.is_file()),
        "sets": json.loads((folder / "evaluation" / "judgement.json").read_text(encoding="utf-8"))["sets"],
    }


def main(characters: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(evaluate(Path(folder), characters)))


if __name__ == "__main__":
    silence()
    typer.run(main)
