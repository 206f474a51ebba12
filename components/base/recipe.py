"""Two short hashes that identify a model by the inputs of its training.

The *recipe* is a hash of all inputs of training: the configuration, the data, the code, the libraries, and the number of the attempt. The
*fingerprint* is a hash of the recipe and of the model that training started from. Two models with equal fingerprints differ at
most by rounding.

Both depend on content alone, not on the machine that runs the pipeline. For local runs the recipe is known before the run. On Kubeflow a
step computes it from its inputs.
"""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import Any, Final

from components.base.source_digest import source_digest

# The modules with the code of each step. A module that TFX loads by its dotted path is listed too, because no other module imports it.
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
# Further steps with code of this project, whose output no later step uses.
_JUDGE_AND_PUSH: Final[Mapping[str, tuple[str, ...]]] = {
    "SchemaGate": ("components.schema_gate",),
    "AtomicPusher": ("components.pusher",),
}
# The steps that determine the data and the model. The other steps judge the model, or search for a better one.
_MAKE_THE_MODEL: Final = ("CaptchaExampleGen", "CaptchaSchema", "Transform", "Trainer")
# The libraries that read, convert and learn from pictures. The library that draws pictures is not listed: spans store its output.
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
    """Returns the versions, by name, of Python and of the libraries that affect the result of a run."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def code_digest() -> str:
    """Returns a hash of the code of all steps, independent of the libraries."""
    return source_digest(*(module for modules in _CODE.values() for module in modules))


def step_digest(step: str) -> str:
    """Returns a hash of the code of a step, independent of the libraries; "" for a step that has only TFX's own code."""
    modules = {**_CODE, **_JUDGE_AND_PUSH}.get(step, ())
    return source_digest(*modules) if modules else ""


def code_digests() -> dict[str, str]:
    """Returns a hash of the code and the libraries for each step. A step gets it as a property, and runs again when either changes."""
    versions = libraries()
    return {step: _digest([source_digest(*modules), versions]) for step, modules in _CODE.items()}


def recipe(settings: str, window: str, epochs: int, attempt: int) -> str:
    """Returns the recipe of a model for the code and the libraries of this process.

    Args:
      settings: the parts of the configuration that determine the model, as JSON.
      window: the digest of the window of spans, see `components.data.window.Window`.
      epochs: passes over the training split; 0 derives the number from the size of the split. A run of a compiled pipeline can set it.
      attempt: the number of earlier attempts with these inputs; each attempt starts from a different seed.
    """
    code = source_digest(*(module for step in _MAKE_THE_MODEL for module in _CODE[step]))
    return _digest([json.loads(settings), window, epochs, attempt, code, libraries()])


def fingerprint(recipe: str, base: str | None) -> str:
    """Returns the fingerprint of a model.

    Args:
      recipe: the recipe of the model.
      base: the fingerprint of the model that training started from; None if training started from random weights.
    """
    return _digest([recipe, base])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
