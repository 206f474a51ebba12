"""What a model is made from, in two short names.

The *recipe* stands for all that a fit is given: the configuration, the data, the code, the libraries, and the number of the attempt. The
*fingerprint* is the recipe and the model that the fit really went on from: two models with one fingerprint differ by rounding at most.

Both follow from content alone, wherever the pipeline runs. On this machine the recipe is known before a run; on Kubeflow a step works it
out from what it gets.
"""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import Any, Final

from components.base.source_digest import source_digest

# By step, the modules that hold its code. Those that only a dotted path leads to are imported by none of the others.
_CODE: Final[Mapping[str, tuple[str, ...]]] = {
    "CaptchaExampleGen": ("components.example_gen",),
    "CaptchaSchema": ("components.schema_gate",),
    "Transform": ("components.transform", "components.training.preprocessing"),
    "Trainer": ("components.trainer", "components.training.run_fn"),
    "LatestPushedModel": ("components.latest_pushed_model",),
    "DriftGate": ("components.drift_gate",),
    "CaptchaEvaluator": ("components.evaluator",),
    "Tuner": ("components.training.tuner_fn",),
}
# The steps that decide what the data and the model are. The others judge the model, or look for a better one.
_MAKE_THE_MODEL: Final = ("CaptchaExampleGen", "CaptchaSchema", "Transform", "Trainer")
# What reads, converts and learns from the pictures. The library that draws some is not among them: the spans hold what it has drawn.
_LIBRARIES: Final = (
    "tfx",
    "tensorflow",
    "keras",
    "apache-beam",
    "pillow",
    "tensorflow-transform",
    "tensorflow-data-validation",
    "tensorflow-model-analysis",
    "numpy",
)


def libraries() -> dict[str, str]:
    """Returns by name the versions of Python and of the libraries on which the outcome of a run depends."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def code_digest() -> str:
    """Returns a hash of the code of all steps, whatever the libraries."""
    return source_digest(*(module for modules in _CODE.values() for module in modules))


def code_digests() -> dict[str, str]:
    """Returns by step a hash of its code and of the libraries: a step that gets it as a property runs again where either has changed."""
    versions = libraries()
    return {step: _digest([source_digest(*modules), versions]) for step, modules in _CODE.items()}


def recipe(settings: str, window: str, epochs: int, attempt: int) -> str:
    """Returns the recipe of a model, for the code and the libraries of this process.

    Args:
      settings: the parts of the configuration that decide what the model is, as JSON.
      window: the digest of the window of spans, see `components.data.spans.Window`.
      epochs: passes over the training split, 0 for as many as suit its size, which a run of a compiled pipeline may set.
      attempt: how often the same has been fitted before; each attempt starts from another seed.
    """
    code = source_digest(*(module for step in _MAKE_THE_MODEL for module in _CODE[step]))
    return _digest([json.loads(settings), window, epochs, attempt, code, libraries()])


def fingerprint(recipe: str, base: str | None) -> str:
    """Returns the fingerprint of a model made by a recipe; `base` is that of the model that its fit went on from, None for none."""
    return _digest([recipe, base])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
