"""The compiled pipeline, run by the driver and the launcher of Kubeflow, with a cluster on loopback: `make test-kfp` builds them."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.kill_each_step import STEPS
from components.serving.serving_dir import roll_back, versions
from pipeline.runners.kubeflow.compile import _NEVER_CACHED
from tests.support.command import call
from tests.support.kfp_stand_in import stand_in
from tests.support.kubeflow import ACCEPTANCE, SHAPES, older_than, shape
from tests.support.paths import tiny_options

# Where the launcher keeps artifacts in a pod: LocalPathForURI in its launcher_v2.go.
MIRROR = Path("/s3")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ACCEPTANCE, reason="KFP_ACCEPTANCE is not set: run make test-kfp"),
    pytest.mark.skipif(not os.access(MIRROR if MIRROR.exists() else "/", os.W_OK), reason=f"the launcher writes to {MIRROR}"),
]


@pytest.fixture
def bucket() -> Iterator[str]:
    """Yields a unique name, because the launcher makes a folder of that name at the top of the file system."""
    name = f"captcha-{uuid.uuid4()}"
    made = not MIRROR.exists()
    yield name
    shutil.rmtree(MIRROR / name, ignore_errors=True)
    if made and MIRROR.exists():
        MIRROR.rmdir()


def cacheable(tasks: dict[str, Any], name: str) -> bool:
    """Returns whether Kubeflow may cache a step: neither the step nor a step before it reads folders."""
    return name not in _NEVER_CACHED and all(cacheable(tasks, before) for before in tasks[name].get("dependentTasks", []))


def test_driver_and_launcher_run_every_step(tmp_path: Path, bucket: str) -> None:
    from tests.support.kfp_cluster import cluster

    volume, pipeline, runtime = tmp_path / "volume", tmp_path / "pipeline.yaml", tmp_path / "runtime.json"
    options = tiny_options(volume)
    call("data", "synth", *options)
    pods = ["--set", f"kubeflow.volumes={{{volume}: captcha}}", "--set", "kubeflow.trainer.gpus=1", "--set", "kubeflow.trainer.memory=16"]
    call("kubeflow", "compile", "-o", str(pipeline), *options, *pods, "--image", "captcha:1", "--root", f"s3://{bucket}/artifacts")
    with stand_in() as server:
        parameters = ("-p", "epochs=3", "-p", "min_sequence_accuracy=0.2")
        call("kubeflow", "submit", str(pipeline), "--host", server.host, "--no-wait", *parameters)
        (request,) = server.store["runs"].values()
    runtime.write_text(json.dumps(request["runtime_config"]))
    tasks = next(yaml.safe_load_all(pipeline.read_text(encoding="utf-8")))["root"]["dag"]["tasks"]
    serving = volume / "output" / "tiny" / "serving" / "tiny"

    with cluster(tmp_path, bucket) as there:

        def run(run_id: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
            command = [
                str(ACCEPTANCE),
                "run",
                str(pipeline),
                str(runtime),
                run_id,
                str(there.metadata_port),
                str(tmp_path / "cache.json"),
            ]
            path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # `python` of the image is the Python of this environment
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=os.environ | {"KUBECONFIG": str(there.kubeconfig), "PATH": path}
            )
            steps = [json.loads(line) for line in done.stdout.splitlines()]
            return done, {step["Name"]: step for step in steps}

        done, steps = run("first")
        assert done.returncode == 0, done.stderr[-3000:]
        assert {name: step["State"] for name, step in steps.items()} == dict.fromkeys(STEPS, "succeeded")
        commands = {name: step["Pod"]["containers"][0]["command"] for name, step in steps.items()}
        given = {name: json.loads(command[command.index("--executor_input") + 1]) for name, command in commands.items()}
        assert {name: shape(value) for name, value in given.items()} == json.loads(SHAPES.read_text(encoding="utf-8"))
        (pushed,) = versions(serving)
        keys = [item["Key"] for item in there.storage.list_objects_v2(Bucket=bucket)["Contents"]]
        assert [key for key in keys if key.endswith("/blessing/BLESSED")]
        (logged,) = [key for key in keys if "/Trainer/" in key and "executor-logs" in key]
        assert b"epoch 3/3: loss" in there.storage.get_object(Bucket=bucket, Key=logged)["Body"].read()
        (container,) = steps["Trainer"]["Pod"]["containers"]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "1", "memory": "16G"}
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {str(volume)}

        # Every step that may be cached is cached; a failed step ends the run, and its log names the error.
        serving.rename(serving.with_name("aside"))
        serving.touch()
        done, steps = run("second")
        assert done.returncode == 1
        failed = [name for name, step in steps.items() if step["State"] == "failed"]
        assert failed == ["LatestPushedModel"]
        assert list(steps)[-1] == "LatestPushedModel"
        assert "LatestPushedModel failed: " in done.stderr
        assert "Remove the file." in done.stderr
        cached = {name for name, step in steps.items() if step["State"] == "cached"}
        assert cached == {name for name in steps if cacheable(tasks, name)}
        serving.unlink()
        serving.with_name("aside").rename(serving)
        assert versions(serving) == [pushed]

        # The next run respects a rollback: the same data, configuration and code make the same model, whatever the name of the run.
        back = roll_back(serving, older_than(pushed).version)
        done, steps = run("third")
        assert done.returncode == 0, done.stderr[-3000:]
        assert {steps[name]["State"] for name in ("Trainer", "AtomicPusher")} == {"succeeded"}
        assert versions(serving)[0] == back
        assert "A rollback has taken this model out of production: it is not pushed again." in done.stderr
