"""The section `beam`: the options that Beam receives, and the shipped profiles."""

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
    """Returns the options of a step as Beam parses them."""
    return PipelineOptions(config.of(step).beam_args()).get_all_options(drop_default=True)


def test_the_default_runner_is_in_memory() -> None:
    assert options(BeamConfig()) == {"runner": "FnApiRunner", "sdk_container_image": "none"}


def test_several_local_workers_are_processes() -> None:
    assert options(beam(parallelism=2)).items() >= {"direct_running_mode": "multi_processing", "direct_num_workers": 2}.items()


def test_the_options_of_flink() -> None:
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


def test_a_step_inherits_the_keys_that_it_does_not_set() -> None:
    config = beam(runner="FlinkRunner", endpoint="flink:8081", parallelism=4, steps={"Transform": {"parallelism": 2}})
    assert options(config)["parallelism"] == 2
    assert options(config)["flink_master"] == "flink:8081"
    assert options(config, "StatisticsGen")["parallelism"] == 4


def test_a_step_with_its_own_runner_inherits_nothing() -> None:
    config = beam(runner="FlinkRunner", endpoint="flink:8081", parallelism=4, steps={"CaptchaEvaluator": {"runner": "FnApiRunner"}})
    assert options(config, "CaptchaEvaluator") == options(BeamConfig())


def test_a_printed_section_is_read_unchanged() -> None:
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
        ({"runner": "FlinkRunner"}, "FlinkRunner needs an endpoint"),
        ({"endpoint": "a:1"}, "FnApiRunner has no endpoint"),
        ({"runner": "MyRunner", "parallelism": 2}, "MyRunner has no parallelism; set its Beam options in args"),
        ({"steps": {"Trainer": {}}}, "Input should be 'synth', 'CaptchaExampleGen'"),
        ({"steps": {"Transform": {"endpoint": "a:1"}}}, "FnApiRunner has no endpoint"),
        ({"environment": {"type": "DOKCER"}}, "Input should be 'EXTERNAL'"),
        ({"parallelism": 0}, "greater than or equal to 1"),
    ],
)
def test_invalid_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        beam(**values)


def test_an_unknown_runner_gets_its_options_unchanged() -> None:
    assert options(beam(runner="MyRunner", args=["--job_name=a"])) == {"runner": "MyRunner", "job_name": "a"}


PROFILES = sorted((ROOT / "configs" / "beam").glob("*.yaml"))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_shipped_profiles_are_found_by_name(path: Path) -> None:
    config = load_config(path.parents[1] / "tiny.yaml", ["beam.steps={synth: {runner: FnApiRunner}}"], beam=path.stem)
    assert options(config.beam)["runner"] == yaml.safe_load(path.read_text(encoding="utf-8"))["runner"]
    assert options(config.beam, "synth")["runner"] == "FnApiRunner"
    assert load_config(path.parents[1] / "tiny.yaml", beam=str(path)).beam == BeamConfig(**yaml.safe_load(path.read_text(encoding="utf-8")))


def test_a_missing_profile_is_named() -> None:
    known = ", ".join(path.stem for path in PROFILES)
    with pytest.raises(CaptchaPipelineError, match=rf"--beam flnik: this profile does not exist; .*beam has {known}\. "):
        load_config(PROFILES[0].parents[1] / "tiny.yaml", beam="flnik")


def test_components_mention_no_engine() -> None:
    components = ROOT / "components"
    names = ("flink", "spark", "dataflow", "fnapirunner", "directrunner")
    texts = {path.name: path.read_text(encoding="utf-8").lower() for path in components.rglob("*.py")}
    told = [(file, name) for file, text in texts.items() for name in names if name in text]
    assert not told


def test_the_configuration_is_read_without_importing_beam() -> None:
    """`retrain` reads the configuration, and must say at once if there is nothing to do."""
    program = "import sys, pipeline.config.loading; sys.exit('apache_beam' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
