"""The kinds of input that `data import` accepts.

To add one, write a module here with a function like `import_folder`, and list it in FORMATS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.base.features import DATA_INFO
from components.data.sources.imported import import_folder, import_legacy, import_table
from components.data.sources.index import Progress
from components.data.sources.listing import TABLES
from components.data.sources.outcome import Imported
from components.data.sources.sift import ImportPlan


@dataclass(frozen=True)
class Options:
    """Options of an import that only some formats use.

    Attributes:
      pattern: used for a folder, see `import_folder`.
      outside: used for a table, see `import_table`.
    """

    pattern: str
    outside: bool


@dataclass(frozen=True)
class Format:
    """A kind of input.

    Attributes:
      accepts: returns whether an existing path has this format.
      load: imports the path. Raises CaptchaPipelineError if it is invalid, or if nothing could be imported.
    """

    accepts: Callable[[Path], bool]
    load: Callable[[Path, Options, ImportPlan, Progress | None], Imported]


FORMATS: Final = (
    Format(
        lambda path: path.is_dir() and not (path / DATA_INFO).exists(),
        lambda path, options, plan, progress: import_folder(path, options.pattern, plan, progress),
    ),
    Format(
        lambda path: path.suffix.lower() in TABLES and path.name != DATA_INFO,
        lambda path, options, plan, progress: import_table(path, plan, progress, options.outside),
    ),
)
# For every other path.
_LEGACY: Final = Format(
    lambda path: True,
    lambda path, options, plan, progress: import_legacy(path.parent if path.name == DATA_INFO else path, plan, progress),
)


def import_path(path: Path, options: Options, plan: ImportPlan, progress: Progress | None = None) -> Imported:
    """Imports a path with the first format that accepts it, or else as records in the legacy layout.

    Args:
      path: a file or folder that exists.
      options: of the user.
      plan: the target of the import.
      progress: called while the path and the spans are read.

    Raises:
      NothingNew: every picture is already in a span, and the plan leaves such pictures out.
      CaptchaPipelineError: the path is invalid, or nothing could be imported.
    """
    chosen = next((it for it in FORMATS if it.accepts(path)), _LEGACY)
    return chosen.load(path, options, plan, progress)
