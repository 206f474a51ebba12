"""What the outcome of a run depends on besides its configuration. Looking does not import TensorFlow."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from components.base.recipe import code_digests, recipe
from components.evaluation import golden
from components.serving.serving_dir import best_on_golden_sets, latest_pushed
from pipeline.config.config import Config


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a run's outcome depends on besides its configuration: without it TFX would reuse what is out of date.

    Attributes:
      spans: names the content of the window of spans, and the state of its files.
      production: names the pushed models that a new one is compared with, and goes on from.
      attempt: how often the same has been fitted before: 0 but where that is asked for.
      digests: by step, a hash of its code and of the libraries.
      recipe: of the model, see `components.base.recipe`; "" where the pipeline is compiled, and a step works it out.
    """

    spans: str
    production: str
    attempt: int
    digests: Mapping[str, str]
    recipe: str


def look_around(config: Config, attempt: int = 0) -> Surroundings:
    """Returns what the outcome of a run with this configuration depends on now. `attempt`: see Surroundings.

    Raises:
      CaptchaPipelineError: there is no span to train on, or one is not whole.
    """
    window = config.data.read_window()
    made_by = recipe(model_settings(config), window.digest, config.trainer.epochs_parameter, attempt)
    pushed = latest_pushed(config.serving_dir, made_by, config.captcha)
    # By what it was made from: a rollback puts the same model there again, as another version.
    production = (pushed.fingerprint or str(pushed.version)) if pushed else "none"
    if bests := best_on_golden_sets(config.serving_dir, made_by):
        production += " " + hashlib.sha256(golden.to_json(bests).encode()).hexdigest()[:16]
    return Surroundings(spans=window.as_of, production=production, attempt=attempt, digests=code_digests(), recipe=made_by)


def model_settings(config: Config) -> str:
    """Returns the parts of a configuration that decide what the model is, as JSON, for `components.base.recipe.recipe`.

    Which spans are read, and where they lie, is not among them, as their content is what counts; nor are the epochs, which a run of a
    compiled pipeline may set.
    """
    parts = {
        "captcha": config.captcha.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json", exclude={"root", "window", "exclude", "golden"}),
        "trainer": config.trainer.model_dump(mode="json", exclude={"epochs"}),
    }
    return json.dumps(parts, sort_keys=True, ensure_ascii=False)
