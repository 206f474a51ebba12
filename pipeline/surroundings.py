"""What the outcome of a run depends on besides its configuration. Looking does not import TensorFlow."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from components import golden
from components.serving_dir import best_on_golden_sets, latest_pushed
from components.source_digest import source_digest
from pipeline.config import Config

# The modules whose code decides what the data and the model are, and those that judge the model or look for a better one.
_MODEL_CODE = ("components.example_gen", "components.schema", "components.transform", "components.trainer")
_OTHER_CODE = ("components.drift_gate", "components.evaluator", "components.tuner")


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a run's outcome depends on besides its configuration: without it TFX would reuse what is out of date.

    Attributes:
      spans: names the content of the window of spans.
      production: names the pushed models that a new one is compared with, and goes on from.
      attempt: how often the same has been fitted before: 0 but where that is asked for.
      digests: by module, a hash of the source of a step.
      fingerprint: names this combination of configuration, data and code; a model carries it.
    """

    spans: str
    production: str
    attempt: int
    digests: Mapping[str, str]
    fingerprint: str


def source_digests() -> dict[str, str]:
    """Returns, by module, a hash of the code of each step."""
    return {module: source_digest(module) for module in (*_MODEL_CODE, *_OTHER_CODE)}


def look_around(config: Config, attempt: int = 0) -> Surroundings:
    """Returns what the outcome of a run with this configuration depends on now. `attempt`: see Surroundings.

    Raises:
      CaptchaPipelineError: there is no span to train on, or one is not whole.
    """
    digests = source_digests()
    window = config.data.read_window().digest
    made_from = {
        "captcha": config.captcha.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json", exclude={"window", "exclude", "golden"}),  # which spans, says "spans"
        "trainer": config.trainer.model_dump(mode="json"),
        "spans": window,
        "code": [digests[module] for module in _MODEL_CODE],
        "attempt": attempt,
    }
    fingerprint = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    pushed = latest_pushed(config.serving_dir, fingerprint, config.captcha)
    # By what it was made from: a rollback puts the same model there again, as another version.
    production = (pushed.fingerprint or str(pushed.version)) if pushed else "none"
    if bests := best_on_golden_sets(config.serving_dir, fingerprint):
        production += " " + hashlib.sha256(golden.to_json(bests).encode()).hexdigest()[:16]
    return Surroundings(spans=window, production=production, attempt=attempt, digests=digests, fingerprint=fingerprint)
