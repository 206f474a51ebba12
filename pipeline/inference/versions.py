"""Finds a pushed version, what it reads, and its export. Does not import TensorFlow."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from components.base import features
from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.serving import serving_dir
from pipeline.config.config import Config

QUICK: Final = "onnx"  # the format of the export that `predict` reads with


@dataclass(frozen=True)
class Description:
    """What a model reads.

    Attributes:
      spec: the texts and pictures.
      wrong_size: what it does with pictures of another size.
    """

    spec: CaptchaSpec
    wrong_size: Literal["resize", "refuse"]


def describe(directory: str | Path) -> Description:
    """Returns what the model in a folder reads.

    Raises:
      CaptchaPipelineError: the model does not exist, or this pipeline did not export it.
    """
    try:
        about = json.loads((Path(directory) / "assets.extra" / features.SPEC_FILE).read_text(encoding="utf-8"))
        spec = CaptchaSpec.model_validate(about["spec"])
        return Description(spec, about.get(features.WRONG_SIZE, "resize"))
    except (OSError, ValueError, KeyError) as error:
        raise not_a_model(directory, error) from None


def not_a_model(directory: str | Path, error: Exception) -> CaptchaPipelineError:
    """Returns the error for a folder that is not a model of this pipeline."""
    return CaptchaPipelineError(
        f"{directory} is not a model that this pipeline exported ({error}). Give --model a version folder of the serving folder."
    )


def newest_model(config: Config) -> Path:
    """Returns the folder of the newest pushed version.

    Raises:
      CaptchaPipelineError: no version has been pushed.
    """
    versions = serving_dir.versions(config.serving_dir)
    if not versions:
        raise CaptchaPipelineError(
            f"No model has been pushed to {config.serving_dir} yet. Train one with `captcha-pipeline run`, or give a model with --model."
        )
    return versions[0].path


def export_folder(config: Config, version: serving_dir.Pushed, name: str) -> Path:
    """Returns the folder of a version's export in a format. A version that a rollback made shares the exports of its original.

    Args:
      config: of the pipeline.
      version: the version.
      name: of the format, such as "onnx".
    """
    return Path(config.exports_dir) / str(version.original) / name


def quick_export(config: Config, directory: Path) -> Path | None:
    """Returns the folder of the export that `predict` can use instead of a SavedModel; None if there is none, or no ONNX Runtime.

    Args:
      config: of the pipeline.
      directory: of the SavedModel.
    """
    version = serving_dir.version_at(directory)
    if version is None or version.fingerprint is None or importlib.util.find_spec("onnxruntime") is None:
        return None
    folder = export_folder(config, version, QUICK)
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder if found == version.fingerprint else None
