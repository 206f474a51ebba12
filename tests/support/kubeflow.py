"""The shared parts of the tests of Kubeflow Pipelines."""

import json
import os
import shutil
from typing import Any

from components.serving.serving_dir import Pushed, versions
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from tests.support.paths import SUPPORT, TINY

VOLUME = ("root=/mnt/captcha/output", "data.root=/mnt/captcha/data", "kubeflow.volumes={/mnt/captcha: captcha}")
CLUSTER = ("kubeflow.image=registry/captcha:1", "kubeflow.root=s3://bucket/captcha")
GPU = "kubeflow.trainer={cpu: 4, memory: 16, gpus: 1, node_selector: {gpu: h100}, tolerations: [{key: nvidia.com/gpu, operator: Exists}]}"
ACCEPTANCE = os.environ.get("KFP_ACCEPTANCE")
# The inputs that Kubeflow's driver gave each step, reduced by `shape`; test_kubeflow_launcher.py compares them with the driver.
SHAPES = SUPPORT / "kfp_executor_inputs_2.17.0.json"


def config(*overrides: str) -> Config:
    return load_config(TINY, [*VOLUME, *CLUSTER, *overrides])


def shape(value: Any) -> Any:
    """Returns an ExecutorInput with the types of its values, and without the folders of artifacts, which differ between runs."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items() if key != "customPath"}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return "number" if isinstance(value, int | float) else type(value).__name__


def older_than(pushed: Pushed) -> Pushed:
    """Adds a model to the serving folder as if it had been pushed earlier. It differs only in its name."""
    path = shutil.copytree(pushed.path, pushed.path.with_name(str(pushed.version - 1)))
    about = path / "assets.extra" / "captcha.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"recipe": "older", "fingerprint": "older"}))
    return versions(path.parent)[1]
