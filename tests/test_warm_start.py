"""Which weights a model takes over from another."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.captcha import CaptchaSpec
from components.features import SPEC_FILE, WEIGHTS_FILE
from components.model import PRESETS, build_model
from components.warm_start import load_base, take_over

SPEC = CaptchaSpec(charset="012", length=2, width=40, height=24, channels=1)


def save(folder: Path, spec: CaptchaSpec = SPEC, preset: str = "vgg-slim") -> Path:
    """As `export_model` leaves it, without the SavedModel."""
    extra = folder / "assets.extra"
    extra.mkdir(parents=True)
    model = build_model(spec, PRESETS[preset])
    for layer in model.layers:
        layer.set_weights([array + 1 for array in layer.get_weights()])
    model.save_weights(extra / WEIGHTS_FILE)
    (extra / SPEC_FILE).write_text(json.dumps({"spec": spec.model_dump(mode="json"), "preset": preset}))
    return folder


def weights(model: Any, name: str) -> list[np.ndarray]:
    return model.get_layer(name).get_weights()


def test_the_same_kind_takes_over_everything(tmp_path: Path) -> None:
    base = load_base(save(tmp_path / "base"))
    model = build_model(SPEC, PRESETS["vgg-slim"], "mixed_bfloat16")
    assert base
    assert take_over(model, SPEC, base) == []
    for ours, theirs in zip(model.get_weights(), base.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"charset": "0123"}, {"head"}),
        ({"charset": "abc"}, {"head"}),
        ({"length": {"min": 1, "max": 2}}, {"head"}),
        ({"length": 3}, {"glimpses"}),
    ],
)
def test_with_other_characters_or_another_length_the_trunk_is_kept_and_the_heads_are_new(
    tmp_path: Path, change: dict, anew: set[str]
) -> None:
    base = load_base(save(tmp_path / "base"))
    assert base
    spec = CaptchaSpec.model_validate(SPEC.model_dump() | change)
    model = build_model(spec, PRESETS["vgg-slim"])
    before = [array.copy() for array in weights(model, "head")]
    assert set(take_over(model, spec, base)) == anew
    for name in ("conv1_1", "conv2_2", "conv3_2_bn", "conv4_2"):
        for ours, theirs in zip(weights(model, name), weights(base.model, name), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    if "head" in anew:
        for ours, was in zip(weights(model, "head"), before, strict=True):
            np.testing.assert_array_equal(ours, was)


def test_in_grey_instead_of_colour_all_but_the_first_layer_fits(tmp_path: Path) -> None:
    base = load_base(save(tmp_path / "base", SPEC.model_copy(update={"channels": 3})))
    assert base
    assert take_over(build_model(SPEC, PRESETS["vgg-slim"]), SPEC, base) == ["conv1_1"]


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert load_base(None) is None
    assert load_base(tmp_path) is None
    broken = save(tmp_path / "broken")
    (broken / "assets.extra" / WEIGHTS_FILE).write_bytes(b"no weights")
    assert load_base(broken) is None
    unknown = save(tmp_path / "unknown")
    about = json.loads((unknown / "assets.extra" / SPEC_FILE).read_text())
    (unknown / "assets.extra" / SPEC_FILE).write_text(json.dumps(about | {"preset": "another"}))
    assert load_base(unknown) is None
