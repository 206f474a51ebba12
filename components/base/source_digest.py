"""A hash of the code of steps: what it does, not how it is written.

TFX decides whether a step has run before by its inputs and properties, and sees neither its code nor that of the modules
it uses. The hash is given to the step as one more property, so that a change of code reruns it.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[2]


def source_digest(*module_names: str, root: Path = _ROOT) -> str:
    """Returns 16 hex digits that change with what modules do, or what one does that they import, at any depth, from their own package.

    Comments, docstrings and formatting do not count: the syntax trees are hashed. `ast.dump` writes them differently from one version of
    Python to another.

    Args:
      module_names: such as `components.example_gen`.
      root: the folder that holds the package.

    Raises:
      ModuleNotFoundError: there is no such module under `root`.
    """
    for name in module_names:
        if _source_file(name, root) is None:
            raise ModuleNotFoundError(f"No module {name} under {root}")
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
    """Returns what a module does, as bytes, and the dotted names of what it imports."""
    tree = ast.parse(source)
    imports = tuple(_imports(tree, module_name, is_package))
    for node in ast.walk(tree):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree).encode(), imports


def _imports(tree: ast.Module, module_name: str, is_package: bool) -> Iterator[str]:
    """Yields the dotted names that may be modules of the same package, in whatever function the import stands."""
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
