"""Whether there is a reason to train anew. Looking takes a second, and does not import TensorFlow unless a new span has to be read."""

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timezone

from pipeline.config.config import Config
from pipeline.runs import history
from pipeline.runs.fingerprint import look_around
from pipeline.runs.history import RunRecord
from pipeline.runs.outcomes import accuracy_in_production, read_badly


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why to train anew, in words. `attempt`: see `pipeline.runs.fingerprint.Surroundings`."""

    words: str
    attempt: int = 0


def reason_to_retrain(config: Config, *, force: bool = False) -> Reason | None:
    """Returns why a run would not come to what the last one came to, or why another model is wanted; None if neither.

    A model that was not blessed is no reason: the same data, configuration and code would make it again. Where the data are the same and
    another model is wanted, the fit starts from another seed, or with a warm start from another model.

    Args:
      config: of the pipeline.
      force: another model is wanted in any case.

    Raises:
      CaptchaPipelineError: there is no span to train on, one is not whole, or the record of the runs cannot be read.
    """
    runs = [run for run in history.runs(config.metadata_path) if not run.is_search]
    if not runs:
        look_around(config)  # says what is wrong with the data
        return Reason("there has been no run yet")
    last = runs[-1]
    attempt = current_attempt(config, runs)
    if not last.is_complete:
        return Reason(f"the last run, {last.run_id}, did not come to its end", attempt)
    if words := _what_has_changed(config, last):
        return Reason(words, attempt)
    if words := "asked for" if force else _what_is_wanted(config, last, runs):
        return Reason(words, attempt + 1)
    return None


def current_attempt(config: Config, runs: Sequence[RunRecord]) -> int:
    """Returns the attempt of the newest run that was made from the same configuration, data and code as a run would be now; 0 for none.

    A run with it repeats that one: after a model has been asked for again, the one before it is not made once more.

    Args:
      config: of the pipeline.
      runs: those on record, oldest first.

    Raises:
      CaptchaPipelineError: there is no span to train on, or one is not whole.
    """
    now: dict[int, str] = {}
    for run in reversed(runs):
        if run.recipe and run.recipe == (now.get(run.attempt) or now.setdefault(run.attempt, look_around(config, run.attempt).recipe)):
            return run.attempt
    return 0


def _what_has_changed(config: Config, last: RunRecord) -> str:
    if last.recipe == look_around(config, last.attempt).recipe:
        return ""
    there = {span.number for span in config.data.read_window().spans}
    new = sorted(there - set(last.spans))
    if new and not config.retraining.every_span:
        without_new = config.data.model_copy(update={"exclude": (*config.data.exclude, *new)})
        before = config.model_copy(update={"data": without_new})
        if last.spans and look_around(before, last.attempt).recipe == last.recipe:
            from pipeline.runs.new_spans import what_is_unlike

            return what_is_unlike(config, last, new)
    if new:
        return f"new in the window: span {', '.join(map(str, new))}"
    if gone := sorted(set(last.spans) - there):
        return f"no longer in the window: span {', '.join(map(str, gone))}"
    return "the configuration, the code of a step, a library or the content of a span differs"


def _what_is_wanted(config: Config, last: RunRecord, runs: list[RunRecord]) -> str:
    wanted = config.retraining
    # The run that has fitted it: later ones have that fit cached, and what an earlier fit left may have been removed.
    fitted = (run for run in reversed(runs) if run.recipe == last.recipe and run.state_of("Trainer") == "done")
    trained = next(fitted, last).started
    age = (datetime.now(timezone.utc) - trained).total_seconds() / 86400
    if wanted.max_age is not None and age > wanted.max_age:
        return f"the last model was trained {age:.1f} days ago; retraining.max_age is {wanted.max_age:g}"
    floor = wanted.min_sequence_accuracy
    if floor is not None and last.attempt == 0:  # once: what two fits cannot read, a third one will not either
        accuracy = accuracy_in_production(config, last)
        return read_badly("the newest span", accuracy, floor) if accuracy else ""
    return ""
