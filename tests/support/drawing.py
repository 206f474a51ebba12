"""Plans of synthetic spans."""

from collections.abc import Mapping
from typing import Any

from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.painting import SynthConfig, SynthPlan


def synth_plan(
    spec: CaptchaSpec, count: int, seed: int, shard_size: int, splits: Mapping[str, int], layout: Any = "canonical", **synth: Any
) -> SynthPlan:
    """Returns a plan of a few pictures."""
    return SynthPlan(spec, SynthConfig(count=count, seed=seed, shard_size=shard_size, **synth), dict(splits), layout)
