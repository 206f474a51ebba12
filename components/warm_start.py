"""Warm start: a fit that goes on from the model in production."""

import json
from dataclasses import dataclass
from pathlib import Path

import keras

from components.captcha import CaptchaSpec
from components.features import SPEC_FILE, WEIGHTS_FILE
from components.model import PRESETS, build_model


@dataclass(frozen=True)
class Base:
    """A model to go on from, and what it reads."""

    model: keras.Model
    spec: CaptchaSpec


def load_base(directory: str | Path | None) -> Base | None:
    """Returns the model that `export_model` left in a SavedModel; None where there is none.

    Args:
      directory: of the SavedModel. None, and a folder without a model of this pipeline's, are none.
    """
    if directory is None:
        return None
    extra = Path(directory) / "assets.extra"
    try:
        about = json.loads((extra / SPEC_FILE).read_text(encoding="utf-8"))
        spec = CaptchaSpec.model_validate(about["spec"])
        model = build_model(spec, PRESETS[about["preset"]])
        model.load_weights(extra / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError):
        return None
    return Base(model, spec)


def take_over(model: keras.Model, spec: CaptchaSpec, base: Base) -> list[str]:
    """Gives the layers of a model the weights of the layers of the same name in another, where their shapes agree.

    Where the classes are others, the heads start anew, and so does what depends on the length where that is another: the trunk is kept.

    Args:
      model: as `build_model` returns it.
      spec: what it is to read.
      base: to take over from.

    Returns:
      The names of the layers that have weights and kept their own.
    """
    same_classes = (spec.characters, spec.blank_id) == (base.spec.characters, base.spec.blank_id)
    weights = {layer.name: layer.get_weights() for layer in base.model.layers if same_classes or not layer.name.startswith("head")}
    kept = []
    for layer in model.layers:
        theirs, ours = weights.get(layer.name, []), layer.get_weights()
        if [array.shape for array in theirs] == [array.shape for array in ours]:
            layer.set_weights(theirs)
        elif ours:
            kept.append(layer.name)
    return kept
