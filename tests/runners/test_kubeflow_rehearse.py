"""The rehearsal: its rules, tested with small steps, and the complete graph, compared with a local run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.base.errors import CaptchaPipelineError
from components.base.features import IMAGE, LABEL
from components.data.record_check import check_record
from components.data.tfrecords import read_records
from components.evaluation import golden
from components.evaluator import load_results
from components.example_gen import shards_of
from components.serving.serving_dir import best_on_golden_sets, roll_back, versions
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.runners.kubeflow.rehearse import Rehearsal
from pipeline.runs import history
from tests.support.command import call
from tests.support.kubeflow import SHAPES, older_than, shape
from tests.support.paths import TINY, tiny_options

TYPE = {"instanceSchema": "title: tfx.Artifact\ntype: object\n"}
# A step: writes its inputs to its output, counts its runs, and fails if a file `break-NAME` exists.
STEP = """
import json, os, pathlib, sys
name, log, whole = sys.argv[1], pathlib.Path(sys.argv[2]), json.loads(sys.argv[3])
(log / name).open("a").write("ran\\n")
if (log / f"break-{name}").exists():
    sys.exit(f"{name} is broken")
texts = [pathlib.Path(a["customPath"], "text").read_text() for i in whole["inputs"].get("artifacts", {}).values() for a in i["artifacts"]]
(out,) = whole["outputs"]["artifacts"]["out"]["artifacts"]
os.makedirs(out["customPath"])
pathlib.Path(out["customPath"], "text").write_text(f"{name}({whole['inputs']['parameterValues']['p']}{','.join(texts)})")
output = {"artifacts": {"out": {"artifacts": [{"name": out["name"], "uri": out["uri"], "metadata": {"by": name}}]}}}
if (log / f"garble-{name}").exists():
    output["nonsense"] = 1
pathlib.Path(whole["outputs"]["outputFile"]).write_text(json.dumps(output))
"""


def step(name: str, log: Path, parameter: dict[str, Any], after: tuple[str, ...] = (), cached: bool = True) -> tuple[dict[str, Any], ...]:
    """Returns the task, the component and the executor of a step that reads the outputs of the steps in `after`."""
    artifacts = {f"from_{other}": {"taskOutputArtifact": {"producerTask": other, "outputArtifactKey": "out"}} for other in after}
    task = {
        "componentRef": {"name": name},
        "dependentTasks": list(after),
        "inputs": {"parameters": {"p": parameter}, "artifacts": artifacts},
        "cachingOptions": {"enableCache": True} if cached else {},
    }
    component = {"executorLabel": f"{name}_executor", "outputDefinitions": {"artifacts": {"out": {"artifactType": TYPE}}}}
    container = {"image": "image:1", "command": ["python", "-c", STEP], "args": [name, str(log), "{{$}}"]}
    return task, component, {"container": container}


def write_pipeline(folder: Path) -> Path:
    """Writes a pipeline in which `b` needs `a`, `c` needs both, and `b` gets the parameter of the run.

    `a` is never cached if a file `fresh` exists.
    """
    steps = {
        "c": step("c", folder, {"runtimeValue": {"constant": "3"}}, ("a", "b")),
        "b": step("b", folder, {"componentInputParameter": "size"}, ("a",)),
        "a": step("a", folder, {"runtimeValue": {"constant": "1"}}, cached=not (folder / "fresh").exists()),
    }
    spec = {
        "pipelineInfo": {"name": "letters"},
        "defaultPipelineRoot": "s3://bucket/root",
        "root": {
            "inputDefinitions": {"parameters": {"size": {"defaultValue": 2, "parameterType": "NUMBER_INTEGER"}}},
            "dag": {"tasks": {name: parts[0] for name, parts in steps.items()}},
        },
        "components": {name: parts[1] for name, parts in steps.items()},
        "deploymentSpec": {"executors": {f"{name}_executor": parts[2] for name, parts in steps.items()}},
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return path


def states(rehearsal: Rehearsal) -> dict[str, str]:
    return {outcome.name: outcome.state for outcome in rehearsal.run()}


def times_run(folder: Path) -> dict[str, int]:
    return {name: len((folder / name).read_text().splitlines()) for name in "abc" if (folder / name).exists()}


def test_steps_get_their_inputs_in_the_order_of_the_graph(tmp_path: Path) -> None:
    rehearsal = Rehearsal(write_pipeline(tmp_path), tmp_path / "cluster", {})
    assert list(states(rehearsal).items()) == [("a", "succeeded"), ("b", "succeeded"), ("c", "succeeded")]
    assert (rehearsal.artifact("c", "out") / "text").read_text() == "c(3a(1),b(2a(1)))"


def test_second_run_is_cached_where_kubeflow_would_cache(tmp_path: Path) -> None:
    states(Rehearsal(write_pipeline(tmp_path), tmp_path / "cluster", {}))
    assert states(Rehearsal(write_pipeline(tmp_path), tmp_path / "cluster", {})) == dict.fromkeys("abc", "cached")
    changed = Rehearsal(write_pipeline(tmp_path), tmp_path / "cluster", {"size": 5})
    assert states(changed) == {"a": "cached", "b": "succeeded", "c": "succeeded"}
    assert (changed.artifact("c", "out") / "text").read_text() == "c(3a(1),b(5a(1)))"


def test_a_step_that_is_never_cached_runs_with_every_step_after_it(tmp_path: Path) -> None:
    (tmp_path / "fresh").touch()
    for _ in range(2):
        assert states(Rehearsal(write_pipeline(tmp_path), tmp_path / "cluster", {})) == dict.fromkeys("abc", "succeeded")


def test_a_failed_step_stops_the_run_and_the_next_run_resumes_there(tmp_path: Path) -> None:
    (tmp_path / "fresh").touch()
    (tmp_path / "break-b").touch()
    outcomes = list(Rehearsal(write_pipeline(tmp_path), tmp_path / "cluster", {}).run())
    assert [outcome.state for outcome in outcomes] == ["succeeded", "failed", "not run"]
    assert "b ended with exit code 1. The full log is " in outcomes[1].message
    assert outcomes[1].message.endswith("b is broken")
    (tmp_path / "break-b").unlink()
    assert states(Rehearsal(write_pipeline(tmp_path), tmp_path / "cluster", {})) == {"a": "kept", "b": "succeeded", "c": "succeeded"}
    assert times_run(tmp_path) == {"a": 1, "b": 2, "c": 1}
    # After a completed run a new run starts, which keeps nothing.
    assert states(Rehearsal(write_pipeline(tmp_path), tmp_path / "cluster", {})) == dict.fromkeys("abc", "succeeded")


def test_the_output_file_is_parsed_strictly(tmp_path: Path) -> None:
    (tmp_path / "garble-a").touch()
    outcome = next(iter(Rehearsal(write_pipeline(tmp_path), tmp_path / "cluster", {}).run()))
    assert outcome.state == "failed"
    assert "a wrote no output file that the launcher could read" in outcome.message
    assert "nonsense" in outcome.message


def test_wrong_parameter_file_and_volume_are_named(tmp_path: Path) -> None:
    with pytest.raises(CaptchaPipelineError, match="has no parameter sise; it has size"):
        Rehearsal(write_pipeline(tmp_path), tmp_path / "cluster", {"sise": 1})
    with pytest.raises(CaptchaPipelineError, match="Cannot read the pipeline"):
        Rehearsal(tmp_path / "none.yaml", tmp_path / "cluster", {})
    with pytest.raises(CaptchaPipelineError, match=r"tiny\.yaml contains no pipeline"):
        Rehearsal(TINY, tmp_path / "cluster", {})
    path = write_pipeline(tmp_path)
    mount = {"pvcMount": [{"constant": "captcha", "mountPath": str(tmp_path / "nowhere")}]}
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {"a_executor": mount}}}}}
    path.write_text(path.read_text() + "---\n" + yaml.safe_dump(platform))
    with pytest.raises(CaptchaPipelineError, match=r"The volume captcha is mounted at .*nowhere, which is not a folder"):
        Rehearsal(path, tmp_path / "cluster", {})


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda spec: spec["root"]["dag"]["tasks"]["b"].update(triggerPolicy={"condition": "true"}), "triggerPolicy"),
        (lambda spec: spec["root"]["dag"]["tasks"]["b"].update(parameterIterator={"itemInput": "p"}), "parameterIterator"),
        (lambda spec: spec["components"].update(b={"dag": {"tasks": {}}}), "no container"),
        (lambda spec: spec["deploymentSpec"]["executors"].update(b_executor={"importer": {}}), "no container"),
        (lambda spec: spec["deploymentSpec"]["executors"]["b_executor"]["container"]["args"].append("{{$.json_escape[1]}}"), "json_escape"),
        (
            lambda spec: spec["root"]["dag"]["tasks"]["b"]["inputs"]["parameters"].update(
                p={"runtimeValue": {"constant": "{{$.pipeline_job_name}}"}}
            ),
            "pipeline_job_name",
        ),
    ],
)
def test_a_pipeline_with_unsupported_features_is_refused(tmp_path: Path, edit: Callable[[dict[str, Any]], None], named: str) -> None:
    path = write_pipeline(tmp_path)
    spec = yaml.safe_load(path.read_text())
    edit(spec)
    path.write_text(yaml.safe_dump(spec))
    with pytest.raises(CaptchaPipelineError, match=f"the step b has .*{named}.*, which a rehearsal does not support"):
        Rehearsal(path, tmp_path / "cluster", {})


def perfect_reading(config: Config) -> golden.GoldenReading:
    """Returns the reading of a model that misreads no picture of the golden set."""
    window = config.data.read_window()
    span = window.golden
    assert span
    digests = []
    for shard in shards_of(span, window):
        if shard.split == "test":
            for record in read_records(shard.path):
                feature = check_record(record.data, shard, config.captcha, config.data.picture_rules).example.features.feature
                picture, label = (feature[name].bytes_list.value[0] for name in (IMAGE, LABEL))
                digests.append(golden.digest(picture, label.decode()))
    return golden.reading(digests, [True] * len(digests))


@pytest.mark.long
def test_the_complete_graph_gives_the_results_of_a_local_run(tmp_path: Path) -> None:
    volume, pipeline, cluster = tmp_path / "volume", tmp_path / "pipeline.yaml", tmp_path / "cluster"
    options = tiny_options(volume)
    options += ["--set", "data.golden=1"]
    call("data", "synth", *options)
    claim = ["--set", f"kubeflow.volumes={{{volume}: captcha}}", "--image", "captcha:1", "--root", "minio://bucket/captcha"]
    call("kubeflow", "compile", "-o", str(pipeline), *options, *claim)
    rehearse = ["kubeflow", "rehearse", str(pipeline), "--folder", str(cluster)]

    serving = volume / "output" / "tiny" / "serving"
    serving.parent.mkdir(parents=True)
    serving.touch()
    with pytest.raises(CaptchaPipelineError, match=r"LatestPushedModel ended with exit code 1(.|\n)*LatestPushedModel failed: ") as failure:
        call(*rehearse)
    assert str(failure.value).endswith("a file is in its place. Remove the file.")
    serving.unlink()
    perfect = perfect_reading(load_config(TINY, options[3::2]))
    (serving / "tiny").mkdir(parents=True)
    golden.note(serving / "tiny", perfect, 1, "another", (), ())
    table = call(*rehearse)
    assert table.count("kept") == 3, "what came before LatestPushedModel"
    assert table.count("succeeded") == 7
    (pushed,) = versions(serving / "tiny")

    local = ["--config", str(TINY), "--set", f"root={tmp_path / 'local'}", "--set", f"data.root={volume / 'data'}"]
    local += ["--set", "data.golden=1"]
    call("run", *local)
    config = load_config(TINY, local[3::2])
    evaluation = history.latest_complete_run(config.metadata_path).artifact_uri("CaptchaEvaluator", "evaluation")
    (ours,) = cluster.glob("store/minio/bucket/captcha/tiny/*/CaptchaEvaluator/*/evaluation")
    rehearsed, run = load_results(str(ours)), load_results(str(evaluation))
    theirs, mine = rehearsed.results, run.results
    assert theirs.example_count == mine.example_count
    assert theirs.sequence_accuracy.value == pytest.approx(mine.sequence_accuracy.value, abs=0.05)
    (blessing,) = cluster.glob("store/minio/bucket/captcha/tiny/*/CaptchaEvaluator/*/blessing")
    assert {file.name for file in blessing.iterdir()} == {"BLESSED", "golden.json"}
    kept = json.loads((ours / "judgement.json").read_text(encoding="utf-8"))["sets"]["golden set, best so far"]
    assert (kept["production"]["value"], kept["count"]) == (1.0, perfect.pictures), "what a push noted reaches the Evaluator"
    (best,) = best_on_golden_sets(serving / "tiny", "another")
    assert (best.version, best.content) == (pushed.version, perfect.content), "and what it found reaches the push"
    given = {path.name.split(".")[0]: json.loads(path.read_text()) for path in cluster.glob("runs/*/*.input.json")}
    assert {name: shape(value) for name, value in given.items()} == json.loads(SHAPES.read_text(encoding="utf-8"))
    (outputs,) = cluster.glob("runs/*/AtomicPusher.json")
    assert json.loads(outputs.read_text())["pushed_model"]["metadata"]["pushed_destination"] == str(pushed.path)

    # The same data, configuration and code give the same model in both runs.
    assert pushed.recipe == versions(config.serving_dir)[0].recipe
    assert pushed.fingerprint == versions(config.serving_dir)[0].fingerprint
    # The next run is killed in its fit, and a retry resumes there; it respects a rollback.
    back = roll_back(serving / "tiny", older_than(pushed).version)
    checkpoints = volume / "output" / "tiny" / "checkpoints"
    shutil.rmtree(checkpoints)  # otherwise the fit, which is the same, would already be finished
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", *rehearse]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while not list(checkpoints.glob("*/epoch-000002")):
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    table = call(*rehearse)
    assert table.count("kept") == 7
    logs = cluster.glob("store/minio/bucket/captcha/tiny/*/Trainer/*/executor-logs-0")
    assert sum("resuming after epoch " in log.read_text(encoding="utf-8", errors="replace") for log in logs) == 1
    assert versions(serving / "tiny")[0] == back
    newest = max(cluster.glob("runs/*/AtomicPusher.json"), key=os.path.getmtime)
    assert json.loads(newest.read_text())["pushed_model"]["metadata"]["pushed"] == 0
