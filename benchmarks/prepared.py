"""Data for the benchmarks: made once by the pipeline's own steps, up to Transform, and reused.

    uv run python -m benchmarks.prepared --config configs/digits.yaml

Expected: the seconds of each data step, the peak memory of the process, and the folder of the transformed examples.
"""

import json
import resource
from dataclasses import dataclass

import typer
from tfx.orchestration import metadata, pipeline
from tfx.orchestration.local.local_dag_runner import LocalDagRunner

from pipeline.cli.options import ConfigOption, SetOption
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.graph import RunParameters, create_pipeline
from pipeline.logs import load_tensorflow, log_to, silence
from pipeline.runners.local import log_path
from pipeline.runs import history
from pipeline.runs.inputs import run_inputs

DATA_STEPS = ("CaptchaExampleGen", "StatisticsGen", "Transform")


@dataclass(frozen=True)
class Prepared:
    """The output of the data steps, and the duration of each of DATA_STEPS.

    Attributes:
      examples: output folder of CaptchaExampleGen, with Split-train, Split-eval and Split-test.
      transformed: output folder of Transform, with Split-train and Split-eval.
      transform_graph: folder for tft.TFTransformOutput.
      seconds: duration of each step; 0 if TFX reused its output.
    """

    examples: str
    transformed: str
    transform_graph: str
    seconds: dict[str, float]

    def files(self, split: str) -> list[str]:
        """Returns the pattern of the transformed files of a split."""
        return [f"{self.transformed}/Split-{split}/*"]


def prepare(config: Config) -> Prepared:
    """Runs the pipeline up to Transform. Earlier output for the same data, configuration and code is reused."""
    graph = create_pipeline(config, run_inputs(config), RunParameters.of(config))
    graph.metadata_connection_config = metadata.sqlite_metadata_connection_config(config.metadata_path)
    log_to(log_path(config))
    LocalDagRunner().run(graph, pipeline.RunOptions(to_nodes=["Transform"]))
    record = history.latest_run(config.metadata_path)
    assert record is not None
    found = {
        name: record.artifact_uri(node, name)
        for node, name in (("CaptchaExampleGen", "examples"), ("Transform", "transformed_examples"), ("Transform", "transform_graph"))
    }
    missing = [name for name, uri in found.items() if uri is None]
    assert not missing, missing
    return Prepared(
        examples=str(found["examples"]),
        transformed=str(found["transformed_examples"]),
        transform_graph=str(found["transform_graph"]),
        seconds={step.node: step.seconds or 0.0 for step in record.steps if step.node in DATA_STEPS},
    )


def main(config: ConfigOption, overrides: SetOption = None) -> None:
    """Prints the seconds of each data step, the peak memory in bytes, and the folder of the transformed examples as JSON."""
    load_tensorflow()
    prepared = prepare(load_config(config, overrides))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": prepared.seconds, "peak_bytes": peak, "transformed": prepared.transformed}))


if __name__ == "__main__":
    silence()
    typer.run(main)
