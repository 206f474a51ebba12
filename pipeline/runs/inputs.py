"""The inputs of a run besides its configuration. Reading them does not import TensorFlow."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from components.base.recipe import code_digests, recipe
from components.evaluation import golden
from components.serving.serving_dir import best_on_golden_sets, latest_pushed
from pipeline.config.config import Config


@dataclasses.dataclass(frozen=True)
class RunInputs:
    """The inputs that decide a run's outcome besides its configuration. Without them, TFX would reuse outdated results.

    Attributes:
      spans: identifies the content of the window of spans and the state of its files.
      production: identifies the pushed models that a new model is compared with and continues from.
      attempt: the number of earlier fits with the same data, configuration and code; 0 unless another model was requested.
      digests: a hash of the code and the libraries of each step, by step.
      recipe: the recipe of the model, see `components.base.recipe`; "" in a compiled pipeline, where a step computes it.
    """

    spans: str
    production: str
    attempt: int
    digests: Mapping[str, str]
    recipe: str

    @property
    def digest(self) -> str:
        """A hash of all inputs."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def run_inputs(config: Config, attempt: int = 0) -> RunInputs:
    """Returns the inputs of a run with this configuration, as they are now.

    Args:
      config: the configuration.
      attempt: see `RunInputs`.

    Raises:
      CaptchaPipelineError: no span to train on exists, or a span is incomplete.
    """
    window = config.data.read_window()
    made_by = recipe(model_settings(config), window.digest, config.trainer.epochs_parameter, attempt)
    pushed = latest_pushed(config.serving_dir, made_by, config.captcha)
    # The fingerprint rather than the version: a rollback pushes the same model again as a new version.
    production = (pushed.fingerprint or str(pushed.version)) if pushed else "none"
    if bests := best_on_golden_sets(config.serving_dir, made_by):
        production += " " + hashlib.sha256(golden.to_json(bests).encode()).hexdigest()[:16]
    return RunInputs(spans=window.as_of, production=production, attempt=attempt, digests=code_digests(), recipe=made_by)


def model_settings(config: Config) -> str:
    """Returns the parts of a configuration that determine the model, as JSON, for `components.base.recipe.recipe`.

    They leave out the choice and the folder of the spans, because only the content of the spans counts, and the epochs, because a run of
    a compiled pipeline may set them.
    """
    parts = {
        "captcha": config.captcha.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json", exclude={"root", "window", "exclude", "golden"}),
        "trainer": config.trainer.model_dump(mode="json", exclude={"epochs"}),
    }
    return json.dumps(parts, sort_keys=True, ensure_ascii=False)
