"""Warm start: a fit that starts from the production model."""

import json
from dataclasses import dataclass
from pathlib import Path

import keras

from components.base.errors import CaptchaPipelineError
from components.base.features import FINGERPRINT, SPEC_FILE, WEIGHTS_FILE
from components.data.captcha_spec import CaptchaSpec
from components.training.model import COLUMN_HEAD, PRESETS, build_model


class UnreadableBase(CaptchaPipelineError):
    """A model exists but cannot be read."""


@dataclass(frozen=True)
class Base:
    """A model that a fit starts from, with its spec and its fingerprint."""

    model: keras.Model
    spec: CaptchaSpec
    fingerprint: str


def find_base(directory: str | Path | None, spec: CaptchaSpec, preset: str) -> tuple[Base | None, str]:
    """Returns the model that a fit can start from, or None, and a sentence about the problem with it, or "".

    Args:
      directory: as for `load_base`.
      spec: what the new model reads.
      preset: of the new model.
    """
    try:
        base = load_base(directory)
    except UnreadableBase as problem:
        return None, f"The production model cannot be read ({problem}): the fit starts from scratch."
    if base is None:
        return None, ""
    model = build_model(spec, PRESETS[preset])
    misfits = layers_that_differ(model, spec, base)
    if not misfits:
        return base, ""
    if len(misfits) == sum(bool(layer.weights) for layer in model.layers):
        return None, "No layer matches the production model: the fit starts from scratch."
    return base, f"These layers differ from the production model and start from scratch: {', '.join(misfits)}."


def load_base(directory: str | Path | None) -> Base | None:
    """Returns the model that `export_model` wrote beside a SavedModel; None if no SavedModel exists.

    Args:
      directory: of the SavedModel. It may be None, empty or missing.

    Raises:
      UnreadableBase: the SavedModel exists, but the model cannot be read.
    """
    if directory is None or not Path(directory).is_dir() or not any(Path(directory).iterdir()):
        return None
    extra = Path(directory) / "assets.extra"
    try:
        about = json.loads((extra / SPEC_FILE).read_text(encoding="utf-8"))
        spec = CaptchaSpec.model_validate(about["spec"])
        model = build_model(spec, PRESETS[about["preset"]])
        model.load_weights(extra / WEIGHTS_FILE)
        return Base(model, spec, about[FINGERPRINT])
    except KeyError as error:
        raise UnreadableBase(f"{extra / SPEC_FILE} has no {error}, or this release does not know {error}") from None
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        # For a weights file that does not fit, Keras' message has many lines.
        raise UnreadableBase(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}") from None


def take_over(model: keras.Model, spec: CaptchaSpec, base: Base) -> None:
    """Copies the weights of the base to the layers of the same name in a model, except for `layers_that_differ`.

    Args:
      model: from `build_model`.
      spec: what the model reads.
      base: the model to copy the weights from.
    """
    misfits = layers_that_differ(model, spec, base)
    for layer in model.layers:
        if layer.get_weights() and layer.name not in misfits:
            layer.set_weights(base.model.get_layer(layer.name).get_weights())


def layers_that_differ(model: keras.Model, spec: CaptchaSpec, base: Base) -> list[str]:
    """Returns the names of the layers with weights that cannot use those of the layer of the same name in the base.

    If the classes differ, these are the heads. If the length differs, they are the layers that depend on it. The trunk still fits.

    Args:
      model, spec, base: as for `take_over`.
    """
    same_classes = (spec.characters, spec.blank_id) == (base.spec.characters, base.spec.blank_id)
    shapes = {layer.name: _shapes(layer) for layer in base.model.layers if same_classes or not layer.name.startswith(("head", COLUMN_HEAD))}
    return [layer.name for layer in model.layers if _shapes(layer) and _shapes(layer) != shapes.get(layer.name)]


def _shapes(layer: keras.layers.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]
