from pathlib import Path

import pytest
import yaml

from components.captcha import LengthRange
from components.errors import CaptchaPipelineError
from pipeline.config import Config
from pipeline.config_file import load_config

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_load_and_print_as_what_they_are(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    printed = tmp_path / "printed.yaml"
    printed.write_text(yaml.safe_dump(config.model_dump(mode="json"), allow_unicode=True), encoding="utf-8")
    assert load_config(printed) == config


def test_overrides_reach_any_depth_and_are_typed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\n", encoding="utf-8")
    config = load_config(
        path, ["trainer.epochs=3", "captcha.length={min: 4, max: 8}", "captcha.charset=京都", "data.window=2", "beam.args=[--a=b]"]
    )
    assert config.trainer.epochs == 3
    assert config.captcha.length == LengthRange(min=4, max=8)
    assert config.captcha.characters == "京都"
    assert config.data.window == 2
    assert config.beam.args == ("--a=b",)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("name: a\ntrainer: {epoch: 3}", [], "trainer.epoch: there is no such key; did you mean epochs?"),
        ("name: a\ncaptcha: {length: {min: 9, max: 4}}", [], "captcha.length: length.min .9. must be below"),
        ("name: Upper Case", [], "name: .*it is 'Upper Case'"),
        ("captcha: {}", [], "name: this key is required"),
        ("name: a", ["trainer.epochs=many"], "trainer.epochs: Input should be a valid integer"),
        ("name: a", ["trainer.epochs"], "write it as section.key=value"),
        ("name: a", ["name.x=1"], "name is a value, not a section"),
        ("name: a", ["trainer.epochs=[1"], "not valid YAML"),
        ("name: [", [], "not valid YAML"),
        ("- 1", [], "must hold keys and values"),
        ("name: a\ndata: {background: [1, 2, 256]}", [], "data.background.2"),
        ("name: a\nroot: /data/[old] runs*", [], r"root: TFX takes \[ \* in a path for a pattern: name a folder without"),
        ("name: a\nkubeflow: {root: 's3://bucket/what?'}", [], r"kubeflow.root: TFX takes \? in a path"),
    ],
)
def test_errors_name_the_key_and_the_remedy(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CaptchaPipelineError, match=message):
        load_config(path, overrides)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptchaPipelineError, match=r"Cannot read the configuration .*none\.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


def test_configurations_are_frozen() -> None:
    config = Config(name="a")
    with pytest.raises(ValueError, match="frozen"):
        config.name = "b"  # type: ignore[misc]
