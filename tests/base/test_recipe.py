"""The names of a model: its recipe and its fingerprint."""

import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from components.base.recipe import code_digests, fingerprint, libraries, recipe
from tests.support.paths import ROOT

SETTINGS = json.dumps({"captcha": {"length": 4}, "trainer": {"seed": 1}})
PACKAGE = ROOT / "components"
MADE_BY = """
import json
from components.base.recipe import code_digests, recipe
print(json.dumps({"recipe": recipe("{}", "spans", 8, 0)} | code_digests()))
"""


def test_recipe_depends_on_every_part_and_not_on_key_order() -> None:
    made_by = recipe(SETTINGS, "spans", 8, 0)
    assert made_by == recipe(json.dumps({"trainer": {"seed": 1}, "captcha": {"length": 4}}), "spans", 8, 0), "the order does not count"
    others = [
        recipe("{}", "spans", 8, 0),
        recipe(SETTINGS, "other", 8, 0),
        recipe(SETTINGS, "spans", 9, 0),
        recipe(SETTINGS, "spans", 8, 1),
    ]
    assert len({made_by, *others}) == 5


def test_fingerprint_depends_on_the_recipe_and_the_base_model() -> None:
    names = {fingerprint("a", None), fingerprint("b", None), fingerprint("a", "b"), fingerprint("a", "c"), fingerprint("b", "a")}
    assert len(names) == 5
    assert fingerprint("a", "b") == fingerprint("a", "b")


@pytest.mark.parametrize("library", ["tfx", "tensorflow", "keras", "pillow", "apache-beam", "python"])
def test_another_library_version_changes_the_recipe_and_every_digest(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    made_by, digests, version = recipe(SETTINGS, "spans", 8, 0), code_digests(), importlib.metadata.version
    assert library in libraries()
    if library == "python":
        monkeypatch.setattr(platform, "python_version", lambda: "3.99.1")
    else:
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.1" if name == library else version(name))
    assert recipe(SETTINGS, "spans", 8, 0) != made_by
    assert all(digest != digests[step] for step, digest in code_digests().items())


@pytest.fixture(scope="module")
def names_after(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """Returns a function that appends text to one module of a copy of the code, and returns the recipe and the code digests."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, root / "components", ignore=shutil.ignore_patterns("__pycache__"))

    def run(module: str = "", text: str = "") -> dict[str, Any]:
        path = root / "components" / f"{module}.py"
        before = path.read_text(encoding="utf-8") if module else ""
        if module:
            path.write_text(before + text, encoding="utf-8")
        printed = subprocess.run([sys.executable, "-c", MADE_BY], cwd=root, capture_output=True, text=True, check=True).stdout
        if module:
            path.write_text(before, encoding="utf-8")
        return json.loads(printed)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "steps"),
    [
        ("trainer", {"Trainer"}),
        ("transform", {"Transform"}),
        ("training/calibration", {"Trainer", "Tuner"}),
        ("example_gen", {"CaptchaExampleGen"}),
    ],
)
def test_changed_code_of_a_model_step_changes_the_recipe(names_after: Callable[..., Any], module: str, steps: set[str]) -> None:
    before, after = names_after(), names_after(module, "\nCHANGED = 1\n")
    assert {name for name in before if after[name] != before[name]} == {"recipe", *steps}


@pytest.mark.slow
def test_changed_code_of_the_evaluator_keeps_the_recipe(names_after: Callable[..., Any]) -> None:
    before, after = names_after(), names_after("evaluator", "\nCHANGED = 1\n")
    assert {name for name in before if after[name] != before[name]} == {"CaptchaEvaluator"}


@pytest.mark.slow
def test_a_comment_changes_no_digest(names_after: Callable[..., Any]) -> None:
    assert names_after("trainer", "\n# A comment.\n") == names_after()


def test_what_every_command_imports_is_light() -> None:
    heavy = ("tensorflow", "tfx", "keras", "scipy.stats", "scipy.spatial")
    code = f"import sys, pipeline.config.config, pipeline.runs.inputs; sys.exit(' '.join(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""
