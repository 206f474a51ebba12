"""Records runs of small graphs for tests, and reads the newest run."""

from collections.abc import Sequence

from tfx import v1 as tfx
from tfx.dsl.components.base.base_component import BaseComponent

from pipeline.config.config import Config
from pipeline.runs import history


def put_on_record(metadata_path: str, name: str, root: str, steps: Sequence[BaseComponent]) -> None:
    """Runs the steps as the pipeline of this name, with its artifacts below `root`; cached steps do not run again."""
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name=name,
            pipeline_root=root,
            components=list(steps),
            enable_cache=True,
            metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(metadata_path),
        )
    )


def last_run(config: Config) -> history.RunRecord:
    """Returns the newest run of a pipeline, which must have had one."""
    record = history.latest_run(config.metadata_path)
    assert record is not None
    return record
