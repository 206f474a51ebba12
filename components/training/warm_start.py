"""Warm start: a fit that goes on from the model in production."""

import json
from dataclasses import dataclass
from pathlib import Path

import keras

from components.base.errors import CaptchaPipelineError
from components.base.features import FINGERPRINT, SPEC_FILE, WEIGHTS_FILE
from components.data.captcha_spec import CaptchaSpec
from components.training.model import COLUMN_HEAD, PRESETS, build_model


class UnreadableBase(CaptchaPipelineError):
    """A model that is there, and cannot be read."""


@dataclass(frozen=True)
class Base:
    """A model to go on from, what it reads, and its fingerprint."""

    model: keras.Model
    spec: CaptchaSpec
    fingerprint: str


def find_base(directory: str | Path | None, spec: CaptchaSpec, preset: str) -> tuple[Base | None, str]:
    """Returns the model that a fit goes on from, None for none, and what is wrong with it, a sentence or "".

    Args:
      directory: as for `load_base`.
      spec: what the new model is to read.
      preset: of the new model.
    """
    try:
        base = load_base(directory)
    except UnreadableBase as problem:
        return None, f"The model in production cannot be read ({problem}): the fit starts from nothing."
    if base is None:
        return None, ""
    model = build_model(spec, PRESETS[preset])
    misfits = layers_that_differ(model, spec, base)
    if not misfits:
        return base, ""
    if len(misfits) == sum(bool(layer.weights) for layer in model.layers):
        return None, "No layer is like that of the model in production: the fit starts from nothing."
    return base, f"These layers are not like those of the model in production, and start from nothing: {', '.join(misfits)}."


def load_base(directory: str | Path | None) -> Base | None:
    """Returns the model that `export_model` left in a SavedModel; None where there is none.

    Args:
      directory: of the SavedModel. None, and an empty or missing folder, are none.

    Raises:
      UnreadableBase: there is one, and it cannot be read.
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
        raise UnreadableBase(f"{extra / SPEC_FILE} has no {error}, or one that this release does not know") from None
    except (OSError, ValueError, RuntimeError) as error:
        # Of a file of weights that does not fit, Keras tells over many lines.
        raise UnreadableBase(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}") from None


def take_over(model: keras.Model, spec: CaptchaSpec, base: Base) -> None:
    """Gives the layers of a model the weights of the layers of the same name in another, but for `layers_that_differ`.

    Args:
      model: as `build_model` returns it.
      spec: what it is to read.
      base: to take over from.
    """
    misfits = layers_that_differ(model, spec, base)
    for layer in model.layers:
        if layer.get_weights() and layer.name not in misfits:
            layer.set_weights(base.model.get_layer(layer.name).get_weights())


def layers_that_differ(model: keras.Model, spec: CaptchaSpec, base: Base) -> list[str]:
    """Returns the names of the layers with weights that cannot have those of the layer of the same name in another model.

    Where the classes are others, these are the heads, and where the length is, what depends on it: the trunk can be taken over.

    Args:
      model, spec, base: as for `take_over`.
    """
    same_classes = (spec.characters, spec.blank_id) == (base.spec.characters, base.spec.blank_id)
    shapes = {layer.name: _shapes(layer) for layer in base.model.layers if same_classes or not layer.name.startswith(("head", COLUMN_HEAD))}
    return [layer.name for layer in model.layers if _shapes(layer) and _shapes(layer) != shapes.get(layer.name)]


def _shapes(layer: keras.layers.Layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]
