"""The digest changes if and only if code that the module uses changes."""

from pathlib import Path

import pytest

from components.base.source_digest import source_digest


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
def test_a_change_in_any_imported_module_changes_the_digest(root: Path, name: str) -> None:
    before = source_digest("package.step", root=root)
    path = root / "package" / f"{name}.py"
    path.write_text(path.read_text() + "changed = 1\n")
    assert source_digest("package.step", root=root) != before


def test_a_change_in_an_unused_module_keeps_the_digest(root: Path) -> None:
    before = source_digest("package.step", root=root)
    (root / "package" / "other.py").write_text("y = 2\n")
    assert source_digest("package.step", root=root) == before


@pytest.mark.parametrize(
    "written",
    [
        "# A comment\nA = 1  # another\n",
        '"""A docstring."""\nA = 1\n',
        "A   =   (\n    1\n)\n",
    ],
)
def test_comments_and_formatting_keep_the_digest(root: Path, written: str) -> None:
    before = source_digest("package.step", root=root)
    (root / "package" / "names.py").write_text(written)
    assert source_digest("package.step", root=root) == before


def test_docstrings_keep_the_digest_and_other_strings_change_it(root: Path) -> None:
    path = root / "package" / "names.py"
    code = "class C:\n    {}\n    async def f(self):\n        {}\n        return {}\n"
    digests = {}
    for name, parts in {"bare": ("", "", "'x'"), "told": ("'of C'", "'of f'", "'x'"), "other": ("'of C'", "'of f'", "'y'")}.items():
        path.write_text(code.format(*parts))
        digests[name] = source_digest("package.step", root=root)
    assert digests["bare"] == digests["told"] != digests["other"]


def test_digest_of_several_modules(root: Path) -> None:
    before = source_digest("package.step", "package.other", root=root)
    assert before == source_digest("package.other", "package.step", root=root) != source_digest("package.step", root=root)
    (root / "package" / "other.py").write_text("y = 2\n")
    assert source_digest("package.step", "package.other", root=root) != before


def test_digest_of_this_project() -> None:
    assert source_digest("components.data.captcha_spec") == source_digest("components.data.captcha_spec")
    assert len(source_digest("components.data.captcha_spec")) == 16
    assert source_digest("components.data.captcha_spec") != source_digest("components.base.features")


def test_an_unknown_module_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"components\.nonesuch"):
        source_digest("components.nonesuch")


def test_the_description_of_a_field_does_not_count(root: Path) -> None:
    digests = set()
    for text in ("one", "another"):
        (root / "package" / "names.py").write_text(f"A = Field(1, description={text!r})\n")
        digests.add(source_digest("package.step", root=root))
    (root / "package" / "names.py").write_text("A = Field(2, description='one')\n")
    assert len(digests) == 1
    assert source_digest("package.step", root=root) not in digests
