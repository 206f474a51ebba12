"""The shared parts of the tests on a real Flink: `make test-flink` runs them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.flink.cluster import Cluster, end
from deploy.flink.job_server import job_server
from pipeline.config.loading import load_config
from pipeline.runs import history
from tests.support.paths import ROOT

DISTRIBUTION, RELEASE = os.environ.get("FLINK", ""), os.environ.get("FLINK_RELEASE", "")
MARKS = [pytest.mark.slow, pytest.mark.skipif(not DISTRIBUTION, reason="FLINK names no Flink: make test-flink gets one")]
JOB_SERVER = Path(os.environ.get("JOB_SERVER") or (job_server(RELEASE) if DISTRIBUTION else ""))
CONFIG = Path(os.environ.get("FLINK_CONFIG") or ROOT / "configs" / "tiny.yaml")


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Yields a running cluster with all its files in `folder`."""
    cluster = Cluster(Path(DISTRIBUTION), JOB_SERVER, folder)
    try:
        cluster.up()
        yield cluster
    finally:
        end(folder)


def settings(*changes: str) -> list[str]:
    return ["--config", str(CONFIG), *(word for change in changes for word in ("--set", change))]


def profile(cluster: Cluster, folder: Path, **changes: Any) -> str:
    """Writes a profile for --beam into `folder`; returns its path."""
    path = folder / "flink.yaml"
    path.write_text(yaml.safe_dump(cluster.beam(parallelism=4) | changes), encoding="utf-8")
    return str(path)


class Root:
    """The output of a run in a folder."""

    def __init__(self, folder: Path, data: Path):
        # One epoch: the accuracy does not matter here, and a model with some mistakes gives more to compare.
        quickly = ("trainer.epochs=1", "evaluator.min_sequence_accuracy=0")
        self.options = settings(f"root={folder}", f"data.root={data}", "data.max_bad_fraction=0.2", *quickly)
        self.config = load_config(CONFIG, self.options[3::2])

    def uri(self, step: str, output: str) -> Path:
        run = history.latest_run(self.config.metadata_path)
        assert run is not None
        return Path(str(run.artifact_uri(step, output)))
