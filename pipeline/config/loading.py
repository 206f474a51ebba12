"""Loads a configuration: a YAML file, the overrides of `--set section.key=value`, and the values that `tune` found."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from components.base.errors import CaptchaPipelineError
from components.base.section import problems
from components.training.hyperparameters import Hyperparameters
from pipeline.config import DEFAULT_CONFIG
from pipeline.config.config import Config


def load_config(path: str | Path, overrides: list[str] | None = None, *, beam: str | None = None, tuned: bool = True) -> Config:
    """Reads a YAML file and applies overrides of the form `section.key=value`, with the value in YAML.

    Args:
      path: the file. If it is the default path and missing, as outside a checkout, the file in the package is read.
      overrides: applied in this order.
      beam: a YAML file that replaces the section `beam`, or NAME of beam/NAME.yaml beside `path`.
      tuned: use the values that `tune` found for this pipeline, for keys that neither the file nor an override sets.

    Raises:
      CaptchaPipelineError: the file is missing or not YAML, or keys or values are invalid; the message names each of them.
    """
    path = Path(path)
    if path == DEFAULT_CONFIG and not path.exists():
        path = Path(__file__).parents[1] / path
    tree = _read(path)
    if beam is not None:
        tree["beam"] = _read(_profile(beam, path.parent / "beam"))
    for override in overrides or []:
        _apply(tree, override)
    config = _validate(tree, path)
    if not tuned or not Path(config.tuned_path).exists():
        return config
    found = _validate({**tree, **_read(config.tuned_path)}, config.tuned_path).trainer
    ours = config.trainer
    values = found.model_dump(include=found.model_fields_set) | ours.model_dump(include=ours.model_fields_set)
    return config.model_copy(update={"trainer": Hyperparameters(**values)})


def _profile(name: str, folder: Path) -> Path:
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        there = f"{folder} has {', '.join(known)}" if known else f"{folder} has no profiles"
        raise CaptchaPipelineError(f"--beam {name}: this profile does not exist; {there}. Give one of them, or the path of a YAML file.")
    return folder / f"{name}.yaml"


def _read(path: str | Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CaptchaPipelineError(f"Cannot read the configuration {path}: {error.strerror}. configs/ has examples.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CaptchaPipelineError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise CaptchaPipelineError(f"{path} must contain keys and values, such as `name: digits`; it contains {type(tree).__name__}.")
    return tree


def _validate(tree: dict[str, Any], path: str | Path) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        found = "".join(f"  {problem}\n" for problem in problems(error, Config))
        raise CaptchaPipelineError(
            f"{path} is not a valid configuration:\n{found}`captcha-pipeline config` lists every key with its default."
        ) from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise CaptchaPipelineError(f"--set {override}: write it as section.key=value, such as --set trainer.epochs=3.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise CaptchaPipelineError(f"--set {override}: the value is not valid YAML.") from None
    for part in parts[:-1]:
        branch = tree.setdefault(part, {})
        if not isinstance(branch, dict):
            raise CaptchaPipelineError(f"--set {override}: {part} is a value, not a section.")
        tree = branch
    tree[parts[-1]] = value
