"""Whether there is a reason to train anew. Looking takes a second, and does not import TensorFlow."""

from pipeline import history
from pipeline.config import Config
from pipeline.surroundings import look_around


def reason_to_retrain(config: Config) -> str | None:
    """Returns in words why a run would not come to what the last one came to, or None: it would reuse all of it.

    A model that was not blessed is no reason: the same data, configuration and code would make it again.

    Raises:
      CaptchaPipelineError: there is no span to train on, one is not whole, or the record of the runs cannot be read.
    """
    around = look_around(config)
    runs = [run for run in history.runs(config.metadata_path) if all(step.node != "Tuner" for step in run.steps)]
    if not runs:
        return "there has been no run yet"
    last = runs[-1]
    if not last.is_complete:
        return f"the last run, {last.run_id}, did not come to its end"
    if last.fingerprint == around.fingerprint:
        return None
    there = {span.number for span in config.data.read_window().spans}
    if new := sorted(there - set(last.spans)):
        return f"new in the window: span {', '.join(map(str, new))}"
    if gone := sorted(set(last.spans) - there):
        return f"no longer in the window: span {', '.join(map(str, gone))}"
    return "the configuration, the code of a step or the content of a span is another"
