"""The schema derived from CaptchaSpec, and the gate that stops a run whose data violates the schema."""

import os
from collections.abc import Mapping
from typing import Any, Final

from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tfx.components import ExampleValidator
from tfx.components.example_validator import executor as example_validator
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.base import executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types.standard_artifacts import Schema
from tfx.utils import io_utils

from components.base import features
from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.pictures import DIFFICULTIES

_SCHEMA_FILE: Final = "schema.pbtxt"


def captcha_schema(spec: CaptchaSpec) -> schema_pb2.Schema:
    """Returns the schema of all examples that CaptchaExampleGen emits: each feature is present, with its type and its domain."""
    schema = schema_pb2.Schema()
    schema.feature.extend(
        [
            # TFDV counts the values of bytes features, except those with an image domain.
            _one(features.IMAGE, schema_pb2.BYTES, image_domain=schema_pb2.ImageDomain()),
            _one(features.LABEL, schema_pb2.BYTES),
            _one(features.SOURCE, schema_pb2.BYTES),
            _one(features.PARAMS, schema_pb2.BYTES),
            _one(features.SPAN, schema_pb2.BYTES),
            _feature(
                features.CHARACTERS,
                schema_pb2.BYTES,
                value_count=schema_pb2.ValueCount(min=spec.min_length, max=spec.max_length),
                string_domain=schema_pb2.StringDomain(name=features.CHARACTERS, value=list(spec.characters)),
            ),
            _one(features.WIDTH, schema_pb2.INT, int_domain=schema_pb2.IntDomain(min=1)),
            _one(features.HEIGHT, schema_pb2.INT, int_domain=schema_pb2.IntDomain(min=1)),
            *(
                _one(name, schema_pb2.FLOAT, float_domain=schema_pb2.FloatDomain(min=0, max=255, disallow_nan=True))
                for name in (features.BRIGHTNESS, features.CONTRAST, features.SHARPNESS)
            ),
            _one(
                features.DIFFICULTY,
                schema_pb2.BYTES,
                string_domain=schema_pb2.StringDomain(name=features.DIFFICULTY, value=list(DIFFICULTIES)),
            ),
        ]
    )
    return schema


def _feature(name: str, kind: int, **fields: Any) -> schema_pb2.Feature:
    return schema_pb2.Feature(name=name, type=kind, presence=schema_pb2.FeaturePresence(min_fraction=1, min_count=1), **fields)


def _one(name: str, kind: int, **domain: Any) -> schema_pb2.Feature:
    """Returns a feature with exactly one value. Transform gets it as a tensor [N]."""
    return _feature(name, kind, shape=schema_pb2.FixedShape(), **domain)


@component
def CaptchaSchema(spec: Parameter[str], source_digest: Parameter[str], schema: OutputArtifact[Schema]) -> None:
    """Writes `captcha_schema` into the artifact `schema`.

    Args:
      spec: the CaptchaSpec, as JSON.
      source_digest: the hash of this step's code; another value makes the step run again.
      schema: the output.
    """
    del source_digest
    io_utils.write_pbtxt_file(os.path.join(schema.uri, _SCHEMA_FILE), captcha_schema(CaptchaSpec.model_validate_json(spec)))


class GateExecutor(example_validator.Executor):
    """Validates like ExampleValidator, but fails at an anomaly instead of only recording it."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> Any:
        """Writes the anomalies of each split.

        Raises:
          CaptchaPipelineError: a split has an anomaly.
        """
        result = super().Do(input_dict, output_dict, exec_properties)
        validated = artifact_utils.get_single_instance(output_dict["anomalies"])
        found = {}
        for split in artifact_utils.decode_split_names(validated.split_names):
            path = os.path.join(artifact_utils.get_split_uri([validated], split), example_validator.DEFAULT_FILE_NAME)
            with fileio.open(path, "rb") as file:
                found[split] = anomalies_pb2.Anomalies.FromString(file.read())
        if text := describe_anomalies(found):
            statistics = artifact_utils.get_single_uri(input_dict["statistics"])
            raise CaptchaPipelineError(
                f"The examples violate the schema that is derived from `captcha` in the configuration:\n{text}\n"
                f"Change the configuration or the data. tfdv.load_stats_binary reads the statistics of each split in {statistics}."
            )
        return result


def describe_anomalies(found: Mapping[str, anomalies_pb2.Anomalies]) -> str:
    """Returns one line per anomaly of a feature, with the splits that have it; "" if there is no anomaly."""
    splits: dict[str, list[str]] = {}
    for split, anomalies in found.items():
        lines = [f"{feature}: {info.short_description}. {info.description}" for feature, info in anomalies.anomaly_info.items()]
        if anomalies.HasField("dataset_anomaly_info"):
            whole = anomalies.dataset_anomaly_info
            lines.append(f"all examples: {whole.short_description}. {whole.description}")
        for line in lines:
            splits.setdefault(line, []).append(split)
    return "\n".join(f"  {line} ({', '.join(names)})" for line, names in sorted(splits.items()))


class SchemaGate(ExampleValidator):
    """An ExampleValidator that stops the run at an anomaly. Its output is `anomalies`. Steps that must wait for it name it as upstream."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(GateExecutor)
