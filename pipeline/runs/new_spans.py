"""Checks new spans before any training: whether they have drifted from the others, and whether the production model reads them."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from components.base.errors import CaptchaPipelineError
from components.base.features import PROFILES_FILE, SPLITS
from components.base.files import read_json, write_whole
from components.data.drift import Profile, complain, describe
from components.data.record_check import PROFILE, SUMMARY, CheckShard
from components.data.spans import Span
from components.data.window import Window
from components.example_gen import shards_of
from components.serving.serving_dir import versions
from pipeline.config.config import Config
from pipeline.runs.history import RunRecord
from pipeline.runs.outcomes import read_badly

# The approximate number of pictures sampled from each split of a span. Two samples of this size from the same pictures have distances of
# a few hundredths.
_SAMPLE = 2_000


def what_is_unlike(config: Config, last: RunRecord, new: Sequence[int]) -> str:
    """Returns in words which new spans have drifted or are read badly, and by how much; "" if there are none.

    The answer is cached on disk until the window, the production model or the thresholds change.

    Args:
      config: the configuration; its section `drift` has the thresholds, `retraining` the minimum accuracy.
      last: the last complete run, which has the profiles of the other spans.
      new: the numbers of the spans that this run has not seen.

    Raises:
      CaptchaPipelineError: a span is incomplete.
    """
    window = config.data.read_window()
    production = next(iter(versions(config.serving_dir)), None)
    asked = [window.as_of, production and production.version, config.drift.model_dump(), config.retraining.model_dump()]
    kept = Path(config.root) / config.name / "looked.json"
    if kept.exists() and (answer := read_json(kept, "Remove it: the new spans are then checked again."))["asked"] == asked:
        return str(answer["words"])
    spans = [span for span in window.judging if span.number in new]
    words = "; ".join(filter(None, (_look(config, last, window, span, production is not None) for span in spans)))
    write_whole(kept, json.dumps({"asked": asked, "words": words}))
    return words


def _look(config: Config, last: RunRecord, window: Window, span: Span, has_model: bool) -> str:
    known = json.loads(Path(last.artifact_uri("CaptchaExampleGen", "profiles") or "", PROFILES_FILE).read_text(encoding="utf-8"))
    # The profiles may be of a run before the first labels, when drawn pictures still counted.
    drawn = {other.path.name for other in window.spans if window.only_trains(other)}
    profiles = {name: Profile(counts) for name, counts in known.items() if name not in drawn}
    profiles[span.path.name] = profile_of(config, window, span)
    if drifted := complain(describe(profiles, config.drift.thresholds)):
        return " ".join(drifted.split())
    floor = config.retraining.min_sequence_accuracy
    if floor is None or not has_model:
        return ""
    from pipeline.logs import load_tensorflow

    load_tensorflow(with_keras=False)
    from pipeline.inference.evaluation import evaluate_window
    from pipeline.inference.versions import newest_model

    accuracy = evaluate_window(config, newest_model(config), SPLITS[-1], window.only(span)).sequence_accuracy
    return read_badly(span.path.name, accuracy, floor)


def profile_of(config: Config, window: Window, span: Span) -> Profile:
    """Returns the profile of a sample of the pictures and labels of a span in a window, as CaptchaExampleGen would count it.

    Raises:
      CaptchaPipelineError: a shard is missing, or differs from its manifest.
    """
    check, profile = CheckShard(config.captcha, config.data.picture_rules), Profile()
    for shard in shards_of(span, window):
        share = min(1.0, _SAMPLE / max(1, span.manifest.counts[shard.split]))
        for output in check.process(dataclasses.replace(shard, share=share)):
            if output.tag == SUMMARY and (changed := json.loads(output.value)["changed"]):
                raise CaptchaPipelineError(changed[0])
            if output.tag == PROFILE:
                profile.merge(Profile(json.loads(output.value)[span.path.name]))
    return profile
