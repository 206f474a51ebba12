"""Files that are there whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a file readable by all, in UTF-8, in place of one that may be there: a kill leaves the old one or the new one.

    Folders are made. File names in a text may hold bytes that are no UTF-8: they are written escaped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
