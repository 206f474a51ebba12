"""A hash of the code of steps that ignores comments and formatting.

TFX decides by the inputs and properties of a step whether the step has run before. It sees neither the code of the step nor the code of
the modules that the step uses. The hash is passed to the step as one more property, so that the step runs again when its code changes.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[2]


def source_digest(*module_names: str, root: Path = _ROOT) -> str:
    """Returns 16 hex digits that change when the code of the modules changes, or the code of modules that they import.

    Imports from the module's own package are followed at any depth. Comments, docstrings and formatting do not count, because the syntax
    trees are hashed. The digits also depend on the version of Python, because the output of `ast.dump` does.

    Args:
      module_names: dotted names such as `components.example_gen`.
      root: the folder that contains the package.

    Raises:
      ModuleNotFoundError: a module does not exist under `root`.
    """
    for name in module_names:
        if _source_file(name, root) is None:
            raise ModuleNotFoundError(f"The module {name} does not exist under {root}.")
    sources: dict[str, bytes] = {}
    waiting = list(module_names)
    while waiting:
        name = waiting.pop()
        path = _source_file(name, root)
        if path is None or name in sources:
            continue
        sources[name], imports = _read(path.read_bytes(), name, is_package=path.name == "__init__.py")
        waiting.extend(imports)
    digest = hashlib.sha256()
    for name, source in sorted(sources.items()):
        digest.update(f"{name}\0{len(source)}\0".encode() + source)
    return digest.hexdigest()[:16]


def _source_file(module_name: str, root: Path) -> Path | None:
    base = root.joinpath(*module_name.split("."))
    return next(
        (path for path in (base.with_name(base.name + ".py"), base / "__init__.py") if path.is_file()),
        None,
    )


@functools.cache  # the steps share most of their modules
def _read(source: bytes, module_name: str, *, is_package: bool) -> tuple[bytes, tuple[str, ...]]:
    """Returns the syntax tree of a module without docstrings and descriptions of fields, as bytes, and the dotted names of its imports."""
    tree = ast.parse(source)
    imports = tuple(_imports(tree, module_name, is_package))
    for node in ast.walk(tree):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
        elif isinstance(node, ast.Call):  # such as pydantic's Field: text for people, like a docstring
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
    return ast.dump(tree).encode(), imports


def _imports(tree: ast.Module, module_name: str, is_package: bool) -> Iterator[str]:
    """Yields the imported dotted names that may be modules of the same package. Imports inside functions count too."""
    package = module_name.split(".")[0]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module_name.split(".")[: -node.level + is_package or None]
                base = ".".join([*parents, *([base] if base else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.split(".")[0] == package)
