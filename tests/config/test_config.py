import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec, LengthRange
from components.training.hyperparameters import Hyperparameters
from pipeline.config import DEFAULT_CONFIG
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from tests.support.paths import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_printed_configuration_loads_as_the_same_configuration(path: Path, tmp_path: Path) -> None:
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
        ("name: a\ntrainer: {epoch: 3}", [], "trainer.epoch: unknown key; did you mean epochs?"),
        ("name: a\ncaptcha: {length: {min: 9, max: 4}}", [], "captcha.length: length.min .9. must be below"),
        ("name: Upper Case", [], "name: .*it is 'Upper Case'"),
        ("captcha: {}", [], "name: this key is required"),
        ("name: a", ["trainer.epochs=many"], "trainer.epochs: Input should be a valid integer"),
        ("name: a", ["trainer.epochs"], "write it as section.key=value"),
        ("name: a", ["name.x=1"], "name is a value, not a section"),
        ("name: a", ["trainer.epochs=[1"], "not valid YAML"),
        ("name: [", [], "not valid YAML"),
        ("- 1", [], "must contain keys and values"),
        ("name: a\ndata: {background: [1, 2, 256]}", [], "data.background.2"),
        ("name: a\nroot: /data/[old] runs*", [], r"root: TFX reads \[ \* in a path as a pattern; choose a folder without"),
        ("name: a\nkubeflow: {root: 's3://bucket/what?'}", [], r"kubeflow.root: TFX reads \? in a path"),
        (
            "name: a\ncaptcha: {height: 8}",
            ["trainer.shift=9"],
            "  trainer.shift is 9 pixels; pictures of 100 x 8 can be shifted by at most 8 pixels",
        ),
        ("name: a", ["synth.free={}", "data.wrong_size=refuse"], "synth.free draws sizes other than captcha's 100 x 30"),
        ("name: a", ["data.max_pixels=2999"], "data.max_pixels is 2999, which refuses pictures of captcha's size 100 x 30; set it to 3000"),
        ("name: a", ["root=s3://bucket/output"], "  root: this must be a folder or file of this machine, not a URL.*'s3://bucket/output'"),
        ("name: a", ["data.root=gs://bucket"], "  data.root: this must be a folder or file"),
        ("name: a", ["pusher.serving_dir=file:///srv/models"], "  pusher.serving_dir: this must be a folder or file"),
        ("name: a", ["synth.fonts=[/a.ttf, 'https://fonts.example/b.ttf']"], "  synth.fonts.1: this must be a folder or file"),
        ("name: a", ["data.root=~nobody-of-this-name/data"], "  data.root: there is no home folder for ~nobody-of-this-name"),
    ],
)
def test_errors_name_the_key_and_the_remedy(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CaptchaPipelineError, match=message):
        load_config(path, overrides)


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    paths = ["root=~/output", "data.root=~/data", "pusher.serving_dir=~/serving", "synth.fonts=[~/a.ttf]"]
    config = load_config(CONFIGS[0], [*paths, "kubeflow.root=s3://bucket/folder"])
    assert (config.root, config.data.root, config.serving_dir) == ("/home/ada/output", "/home/ada/data", "/home/ada/serving")
    assert config.synth.fonts == ("/home/ada/a.ttf",)
    assert config.kubeflow.root == "s3://bucket/folder"


def test_a_shift_can_be_as_large_as_the_picture() -> None:
    assert Config(name="a", captcha=CaptchaSpec(height=8), trainer=Hyperparameters(shift=8)).trainer.shift == 8


def test_tuned_values_are_checked_against_the_picture_size(tmp_path: Path) -> None:
    """A shift that `tune` found for larger pictures is refused, and the message names the key."""
    path = tmp_path / "a.yaml"
    path.write_text(f"name: a\nroot: {tmp_path}\ncaptcha: {{height: 8}}\n", encoding="utf-8")
    tuned = Path(load_config(path).tuned_path)
    tuned.parent.mkdir()
    tuned.write_text("trainer: {shift: 12}\n", encoding="utf-8")
    with pytest.raises(CaptchaPipelineError, match=r"tuned\.yaml is not a valid configuration:\n  trainer\.shift is 12 pixels"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptchaPipelineError, match=r"Cannot read the configuration .*none\.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.slow
def test_the_packaged_default_is_used_outside_a_checkout(tmp_path: Path) -> None:
    """Its relative paths start at the current folder."""
    program = Path(sys.executable).with_name("captcha-pipeline")
    done = subprocess.run([program, "data", "synth", "--count", "12"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "digits" / "span-000001" / "manifest.json").exists()


def test_a_local_configuration_takes_precedence_over_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(DEFAULT_CONFIG).name == "digits"
    (tmp_path / "configs").mkdir()
    DEFAULT_CONFIG.write_text("name: mine\n")
    assert load_config(DEFAULT_CONFIG).name == "mine"
    DEFAULT_CONFIG.unlink()
    with pytest.raises(CaptchaPipelineError, match=r"Cannot read the configuration configs/alnum\.yaml"):
        load_config("configs/alnum.yaml")


def test_the_golden_span_is_in_use_even_if_it_is_excluded() -> None:
    assert Config.model_validate({"name": "a", "data": {"exclude": [1, 3], "golden": 3}}).data.unused == (1,)


def test_configurations_are_frozen() -> None:
    config = Config(name="a")
    with pytest.raises(ValueError, match="frozen"):
        config.name = "b"  # type: ignore[misc]
