"""The weights that a model takes over from another model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.features import SPEC_FILE, WEIGHTS_FILE
from components.data.captcha_spec import CaptchaSpec
from components.training.model import PRESETS, build_model
from components.training.warm_start import find_base, layers_that_differ, load_base, take_over

pytestmark = pytest.mark.slow

SPEC = CaptchaSpec(charset="012", length=2, width=40, height=24, channels=1)


def other(**change: Any) -> CaptchaSpec:
    return CaptchaSpec.model_validate(SPEC.model_dump() | change)


def save(folder: Path, spec: CaptchaSpec = SPEC, preset: str = "vgg-slim") -> Path:
    """Writes the files of `export_model` except for the SavedModel; returns the folder."""
    extra = folder / "assets.extra"
    extra.mkdir(parents=True)
    model = build_model(spec, PRESETS[preset])
    for layer in model.layers:
        layer.set_weights([array + 1 for array in layer.get_weights()])
    model.save_weights(extra / WEIGHTS_FILE)
    (extra / SPEC_FILE).write_text(json.dumps({"spec": spec.model_dump(mode="json"), "preset": preset, "fingerprint": "f"}))
    return folder


def weights(model: Any, name: str) -> list[np.ndarray]:
    return model.get_layer(name).get_weights()


def test_a_model_with_the_same_spec_takes_over_every_weight(tmp_path: Path) -> None:
    base = load_base(save(tmp_path / "base"))
    model = build_model(SPEC, PRESETS["vgg-slim"], "mixed_bfloat16")
    assert base
    assert base.fingerprint == "f"
    assert layers_that_differ(model, SPEC, base) == []
    take_over(model, SPEC, base)
    for ours, theirs in zip(model.get_weights(), base.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({"charset": "0123"}, {"head", "column_head"}),
        ({"charset": "abc"}, {"head", "column_head"}),
        ({"length": {"min": 1, "max": 2}}, {"head", "column_head"}),
        ({"length": 3}, {"glimpses"}),
    ],
)
def test_another_charset_or_length_keeps_the_trunk_and_resets_the_heads(tmp_path: Path, change: dict, anew: set[str]) -> None:
    base = load_base(save(tmp_path / "base"))
    assert base
    spec = other(**change)
    model = build_model(spec, PRESETS["vgg-slim"])
    before = [array.copy() for array in weights(model, "head")]
    assert set(layers_that_differ(model, spec, base)) == anew
    take_over(model, spec, base)
    for name in ("conv1_1", "conv2_2", "conv3_2_bn", "conv3_2"):
        for ours, theirs in zip(weights(model, name), weights(base.model, name), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    if "head" in anew:
        for ours, was in zip(weights(model, "head"), before, strict=True):
            np.testing.assert_array_equal(ours, was)


def test_a_change_from_colour_to_grey_resets_only_the_first_layer(tmp_path: Path) -> None:
    folder = save(tmp_path / "base", other(channels=3))
    base, problem = find_base(folder, SPEC, "vgg-slim")
    assert base
    assert layers_that_differ(build_model(SPEC, PRESETS["vgg-slim"]), SPEC, base) == ["conv1_1"]
    assert problem == "These layers differ from the production model and start from scratch: conv1_1."


def test_no_base_model(tmp_path: Path) -> None:
    for directory in (None, tmp_path, tmp_path / "none"):
        assert find_base(directory, SPEC, "vgg-slim") == (None, ""), "nothing is in production, which is nothing to complain of"


def without(name: str, extra: Path) -> None:
    about = json.loads((extra / SPEC_FILE).read_text())
    del about[name]
    (extra / SPEC_FILE).write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda extra: (extra / WEIGHTS_FILE).write_bytes(b"no weights"), "OSError"),
        (lambda extra: (extra / WEIGHTS_FILE).unlink(), WEIGHTS_FILE),
        (lambda extra: (extra / SPEC_FILE).write_text(""), "JSON"),
        (lambda extra: (extra / SPEC_FILE).write_text((extra / SPEC_FILE).read_text().replace("vgg-slim", "another")), "no 'another'"),
        (lambda extra: without("fingerprint", extra), "no 'fingerprint'"),
        (lambda extra: save(extra.parent / "wider", other(charset="0123456789")), ""),
    ],
)
def test_a_model_that_cannot_be_read_is_named(tmp_path: Path, damage: Callable[[Path], Any], named: str) -> None:
    folder = save(tmp_path / "base")
    damage(folder / "assets.extra")
    if (wider := folder / "wider").exists():  # weights whose shape differs from captcha.json
        (wider / "assets.extra" / WEIGHTS_FILE).rename(folder / "assets.extra" / WEIGHTS_FILE)
    base, problem = find_base(folder, SPEC, "vgg-slim")
    assert base is None
    assert problem.startswith("The production model cannot be read (")
    assert problem.endswith("): the fit starts from scratch.")
    assert named in problem
    assert "\n" not in problem


def test_a_model_without_a_matching_layer_is_no_base(tmp_path: Path) -> None:
    base, problem = find_base(save(tmp_path / "base"), other(charset="ab", channels=3), "vgg-book")
    assert base is None
    assert problem == "No layer matches the production model: the fit starts from scratch."
