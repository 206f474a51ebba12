"""A hash of a step's source.

TFX decides whether a step has run before by its inputs and properties, and sees neither its code nor that of the modules
it uses. The hash is given to the step as one more property, so that a change of code reruns it.
"""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent.parent


def source_digest(module_name: str, root: Path = _ROOT) -> str:
    """Returns 16 hex digits that change with the source of a module or of one it imports, at any depth, from its own package.

    Args:
      module_name: such as `components.example_gen`.
      root: the folder that holds the package.

    Raises:
      ModuleNotFoundError: there is no such module under `root`.
    """
    if _source_file(module_name, root) is None:
        raise ModuleNotFoundError(f"No module {module_name} under {root}")
    sources: dict[str, bytes] = {}
    waiting = [module_name]
    while waiting:
        name = waiting.pop()
        path = _source_file(name, root)
        if path is None or name in sources:
            continue
        sources[name] = path.read_bytes()
        waiting.extend(_imports(sources[name], name, is_package=path.name == "__init__.py"))
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


def _imports(source: bytes, module_name: str, is_package: bool) -> Iterator[str]:
    """Yields the dotted names that may be modules of the same package, in whatever function the import stands."""
    package = module_name.split(".")[0]
    for node in ast.walk(ast.parse(source)):
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
