"""Runs of small graphs by TFX's own runner, for the tests of what reads the record of runs."""

from collections.abc import Sequence

from tfx import v1 as tfx
from tfx.dsl.components.base.base_component import BaseComponent


def put_on_record(metadata_path: str, name: str, root: str, steps: Sequence[BaseComponent]) -> None:
    """Runs the steps as the pipeline of this name, with its artifacts below `root`; what is cached is not run again."""
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name=name,
            pipeline_root=root,
            components=list(steps),
            enable_cache=True,
            metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(metadata_path),
        )
    )
