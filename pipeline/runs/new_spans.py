"""Looks at new spans before anything is trained: whether they are unlike the others, and whether the model in production reads them."""

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
from components.example_gen import shards_of
from components.serving.serving_dir import versions
from pipeline.config.config import Config
from pipeline.runs.history import RunRecord
from pipeline.runs.outcomes import read_badly

# Of each split of a span about as many are looked at: the distances of two such samples of the same pictures are some hundredths.
_SAMPLE = 2_000


def what_is_unlike(config: Config, last: RunRecord, new: Sequence[int]) -> str:
    """Returns which new span has drifted, or is read badly, and by how much; "" if none. An answer is kept until something else is new.

    Args:
      config: of the pipeline; its section `drift` has the thresholds, `retraining` the floor.
      last: the last complete run, which knows the other spans.
      new: numbers of spans that it has not seen.

    Raises:
      CaptchaPipelineError: a span is not whole.
    """
    window = config.data.read_window()
    production = next(iter(versions(config.serving_dir)), None)
    asked = [window.as_of, production and production.version, config.drift.model_dump(), config.retraining.model_dump()]
    kept = Path(config.root) / config.name / "looked.json"
    if kept.exists() and (answer := read_json(kept, "Remove it: the new spans are then looked at again."))["asked"] == asked:
        return str(answer["words"])
    words = "; ".join(filter(None, (_look(config, last, span, production is not None) for span in window.spans if span.number in new)))
    write_whole(kept, json.dumps({"asked": asked, "words": words}))
    return words


def _look(config: Config, last: RunRecord, span: Span, has_model: bool) -> str:
    known = json.loads(Path(last.artifact_uri("CaptchaExampleGen", "profiles") or "", PROFILES_FILE).read_text(encoding="utf-8"))
    profiles = {name: Profile(counts) for name, counts in known.items()} | {span.path.name: profile_of(config, span)}
    if drifted := complain(describe(profiles, config.drift.thresholds)):
        return " ".join(drifted.split())
    floor = config.retraining.min_sequence_accuracy
    if floor is None or not has_model:
        return ""
    from pipeline.logs import load_tensorflow

    load_tensorflow(with_keras=False)
    from pipeline.inference.evaluation import evaluate_spans
    from pipeline.inference.served_model import newest_model

    accuracy = evaluate_spans(config, newest_model(config), SPLITS[-1], [span]).sequence_accuracy
    return read_badly(span.path.name, accuracy, floor)


def profile_of(config: Config, span: Span) -> Profile:
    """Returns what a sample of a span's pictures and labels is like, as CaptchaExampleGen would count it.

    Raises:
      CaptchaPipelineError: a shard is missing, or not as its manifest says.
    """
    check, profile = CheckShard(config.captcha, config.data.picture_rules), Profile()
    for shard in shards_of(span):
        share = min(1.0, _SAMPLE / max(1, span.manifest.counts[shard.split]))
        for output in check.process(dataclasses.replace(shard, share=share)):
            if output.tag == SUMMARY and (changed := json.loads(output.value)["changed"]):
                raise CaptchaPipelineError(changed[0])
            if output.tag == PROFILE:
                profile.merge(Profile(json.loads(output.value)[span.path.name]))
    return profile
