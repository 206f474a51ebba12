"""The Transform component: TFX's component, on an engine that may lose a worker."""

import shutil
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.internal import pickler
from tensorflow_transform.beam import impl
from tfx.components.transform import executor
from tfx.types import standard_artifacts
from tfx_bsl.coders import example_coder
from tfx_bsl.tfxio.tf_example_record import TFExampleBeamRecord

from components.base.features import LABEL_IDS, WINDOW
from components.data.captcha_spec import CaptchaSpec
from components.schema_gate import captcha_schema
from components.transform import Executor
from tests.support.encoded import encode
from tests.support.transform_run import draw, emitted, transform

pytestmark = pytest.mark.slow

SPEC = CaptchaSpec(width=20, height=10, channels=1, length=2)


def test_a_worker_with_the_lost_graph_accepts_the_new_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts of a job use TFT's step in one worker; the second part starts after another worker has died."""
    rows = [emitted(encode(draw(SPEC, label)), label, SPEC) for label in ("01", "23")]
    transform(SPEC, {"train": rows}, tmp_path)
    lost = tmp_path / "graph" / "transform_fn"
    anew = Path(shutil.copytree(lost, tmp_path / "anew"))
    schema = captcha_schema(SPEC)
    batch = example_coder.ExamplesToRecordBatchDecoder(schema.SerializeToString()).DecodeBatch(rows)
    inputs = TFExampleBeamRecord(physical_format="records", schema=schema).TensorAdapterConfig()
    steps: list[bytes] = []

    def build(*_: object) -> None:
        step = impl._RunMetaGraphDoFn(None, impl.shared.Shared(), (), use_tf_compat_v1=False, input_tensor_adapter_config=inputs)
        steps.append(pickler.dumps(step))

    # Stands for TFX's executor, which lets TFT build its step while our executor runs it.
    monkeypatch.setattr(executor.Executor, "Do", build)
    examples, transformed = standard_artifacts.Examples(), standard_artifacts.Examples()
    transformed.uri = str(tmp_path / "transformed")
    examples.set_string_custom_property(WINDOW, "of which spans")
    Executor().Do({"examples": [examples]}, {"transformed_examples": [transformed]}, {})
    assert transformed.get_string_custom_property(WINDOW) == "of which spans", "the Trainer names its model after them"
    parts: list[beam.DoFn] = [pickler.loads(steps[0]) for _ in range(2)]
    for part, graph in zip(parts, (lost, anew), strict=True):
        part.setup()
        (found,) = part.process(batch, str(graph))
        assert len(found[LABEL_IDS]) == 2
