"""The section `beam`: what of it reaches Beam, and the profiles that are shipped."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import ValidationError

from components.base.errors import CaptchaPipelineError
from pipeline.config.config import Config
from pipeline.config.engines import BeamConfig
from pipeline.config.loading import load_config
from tests.support.paths import ROOT


def beam(**values: Any) -> BeamConfig:
    return BeamConfig.model_validate(values)


def options(config: BeamConfig, step: Any = "Transform") -> dict[str, Any]:
    """What Beam makes of it."""
    return PipelineOptions(config.of(step).beam_args()).get_all_options(drop_default=True)


def test_the_default_is_in_memory() -> None:
    assert options(BeamConfig()) == {"runner": "FnApiRunner", "sdk_container_image": "none"}


def test_several_local_workers_are_processes() -> None:
    assert options(beam(parallelism=2)).items() >= {"direct_running_mode": "multi_processing", "direct_num_workers": 2}.items()


def test_flink_and_its_workers() -> None:
    config = beam(
        runner="FlinkRunner",
        endpoint="flink:8081",
        parallelism=4,
        environment={"type": "EXTERNAL", "config": "localhost:50000"},
        args=["--flink_version=1.20"],
    )
    assert options(config) == {
        "runner": "FlinkRunner",
        "flink_master": "flink:8081",
        "parallelism": 4,
        "environment_type": "EXTERNAL",
        "environment_config": "localhost:50000",
        "flink_version": "1.20",
        "sdk_container_image": "none",
    }
    assert str(config.of("Transform")) == "FlinkRunner at flink:8081"


def test_a_step_takes_over_what_it_does_not_set() -> None:
    config = beam(runner="FlinkRunner", endpoint="flink:8081", parallelism=4, steps={"Transform": {"parallelism": 2}})
    assert options(config)["parallelism"] == 2
    assert options(config)["flink_master"] == "flink:8081"
    assert options(config, "StatisticsGen")["parallelism"] == 4


def test_a_step_with_a_runner_of_its_own_takes_nothing_over() -> None:
    config = beam(runner="FlinkRunner", endpoint="flink:8081", parallelism=4, steps={"CaptchaEvaluator": {"runner": "FnApiRunner"}})
    assert options(config, "CaptchaEvaluator") == options(BeamConfig())


def test_what_is_printed_is_read_as_the_same() -> None:
    config = Config.model_validate(
        {
            "name": "a",
            "beam": {
                "runner": "FlinkRunner",
                "endpoint": "a:1",
                "steps": {"Transform": {"parallelism": 2}, "synth": {"runner": "FnApiRunner"}},
            },
        }
    )
    assert Config.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"runner": "FlinkRunner"}, "FlinkRunner takes an endpoint"),
        ({"endpoint": "a:1"}, "FnApiRunner has no endpoint"),
        ({"runner": "MyRunner", "parallelism": 2}, "MyRunner has no parallelism; give its options in args"),
        ({"steps": {"Trainer": {}}}, "Input should be 'synth', 'CaptchaExampleGen'"),
        ({"steps": {"Transform": {"endpoint": "a:1"}}}, "FnApiRunner has no endpoint"),
        ({"environment": {"type": "DOKCER"}}, "Input should be 'EXTERNAL'"),
        ({"parallelism": 0}, "greater than or equal to 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        beam(**values)


def test_another_runner_takes_its_options_as_they_are() -> None:
    assert options(beam(runner="MyRunner", args=["--job_name=a"])) == {"runner": "MyRunner", "job_name": "a"}


PROFILES = sorted((ROOT / "configs" / "beam").glob("*.yaml"))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_shipped_profiles_are_taken_by_name(path: Path) -> None:
    config = load_config(path.parents[1] / "tiny.yaml", ["beam.steps={synth: {runner: FnApiRunner}}"], beam=path.stem)
    assert options(config.beam)["runner"] == yaml.safe_load(path.read_text(encoding="utf-8"))["runner"]
    assert options(config.beam, "synth")["runner"] == "FnApiRunner"
    assert load_config(path.parents[1] / "tiny.yaml", beam=str(path)).beam == BeamConfig(**yaml.safe_load(path.read_text(encoding="utf-8")))


def test_a_profile_that_is_not_there_is_named() -> None:
    with pytest.raises(
        CaptchaPipelineError, match=r"--beam flnik: there is no such profile; .*beam has dataflow, flink, local, processes, spark"
    ):
        load_config(PROFILES[0].parents[1] / "tiny.yaml", beam="flnik")


def test_components_know_of_no_engine() -> None:
    components = ROOT / "components"
    names = ("flink", "spark", "dataflow", "fnapirunner", "directrunner")
    texts = {path.name: path.read_text(encoding="utf-8").lower() for path in components.rglob("*.py")}
    told = [(file, name) for file, text in texts.items() for name in names if name in text]
    assert not told


def test_the_section_is_read_without_beam() -> None:
    """`retrain` reads the configuration, and is to say at once that there is nothing to do."""
    program = "import sys, pipeline.config.loading; sys.exit('apache_beam' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
