"""The digest changes when, and only when, code that the module uses changes."""

from pathlib import Path

import pytest

from components.source_digest import source_digest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "__init__.py": "",
        "step.py": "import os\nfrom package import names\nfrom package.deep import leaf as l\n\ndef run():\n    import package.late\n",
        "names.py": "A = 1\n",
        "late.py": "from . import relative\n",
        "relative.py": "from .deep.sibling import x\n",
        "deep/__init__.py": "from . import inner\n",
        "deep/inner.py": "",
        "deep/leaf.py": "from .. import step\n",
        "deep/sibling.py": "x = 1\n",
        "other.py": "",
    }
    for name, source in files.items():
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


USED = [
    "step",
    "names",
    "late",
    "relative",
    "deep/__init__",
    "deep/inner",
    "deep/leaf",
    "deep/sibling",
]


@pytest.mark.parametrize("name", USED)
def test_changes_with_what_is_imported_at_any_depth(root: Path, name: str) -> None:
    before = source_digest("package.step", root)
    path = root / "package" / f"{name}.py"
    path.write_text(path.read_text() + "# changed\n")
    assert source_digest("package.step", root) != before


def test_does_not_change_with_the_rest(root: Path) -> None:
    before = source_digest("package.step", root)
    (root / "package" / "other.py").write_text("y = 2\n")
    assert source_digest("package.step", root) == before


def test_of_this_project() -> None:
    assert source_digest("components.captcha") == source_digest("components.captcha")
    assert len(source_digest("components.captcha")) == 16
    assert source_digest("components.captcha") != source_digest("components.features")


def test_no_such_module() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"components\.nonesuch"):
        source_digest("components.nonesuch")
