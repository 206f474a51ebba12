"""Replays power failures: the possible contents of a disk if the power fails at any moment of a block of code.

POSIX promises little. The content of a file survives if fsync has returned for the file since it was written. A name in a folder survives
if fsync has returned for the folder since. All other data may or may not be on the disk. Two extremes are replayed for each moment: only
synced data has survived; or every name has survived, but only synced content.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

Entries = dict[int, dict[str, tuple[int, bool]]]  # inode of a folder -> name -> (inode, whether it is a folder)

_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree")
_recorder: "PowerFailures | None" = None


class _Moment(NamedTuple):
    synced: Entries
    visible: Entries
    contents: dict[int, bytes]


class PowerFailures:
    """Records the changes below a folder while the `with` block runs in this process; `replay` then yields the outcomes."""

    def __init__(self, root: Path):
        self._root = root
        self._handles: dict[int, int] = {}  # while a file is open, its inode is not reused
        self._moments: list[_Moment] = []

    def __enter__(self) -> "PowerFailures":
        global _recorder
        self._synced = self._scan()
        self._contents = {inode: _content(handle) for inode, handle in self._handles.items() if inode not in self._synced}
        self._fsync = os.fsync
        os.fsync = self._on_fsync  # type: ignore[assignment]
        _recorder = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        global _recorder
        self.note()
        _recorder = None
        os.fsync = self._fsync
        for handle in self._handles.values():
            os.close(handle)

    def replay(self, target: Path) -> Iterator[Path]:
        """Yields folders below `target`, each a possible state of the recorded folder after a power failure."""
        root = os.stat(self._root).st_ino
        seen = []
        for moment in self._moments:
            for entries in (moment.synced, moment.visible):
                tree = _tree(root, entries, moment.contents)
                if tree not in seen:
                    seen.append(tree)
                    folder = target / str(len(seen))
                    _make(folder, tree)
                    yield folder

    def note(self) -> None:
        visible = self._scan()
        self._moments.append(_Moment(dict(self._synced), visible, dict(self._contents)))

    def _on_fsync(self, file: int) -> None:
        self._fsync(file)
        inode = os.fstat(file).st_ino
        visible = self._scan()
        if inode in visible:
            self._synced[inode] = visible[inode]
        elif inode in self._handles:
            self._contents[inode] = _content(self._handles[inode])
        self.note()

    def _scan(self) -> Entries:
        found: Entries = {}
        for parent, folders, files in os.walk(self._root):
            here = found.setdefault(os.stat(parent).st_ino, {})
            for name in (*folders, *files):
                path = os.path.join(parent, name)
                inode = os.lstat(path).st_ino
                if inode not in self._handles:
                    self._handles[inode] = os.open(path, os.O_RDONLY)
                here[name] = (inode, name in folders)
        return found


def _content(handle: int) -> bytes:
    return os.pread(handle, os.fstat(handle).st_size, 0)


def _tree(inode: int, entries: Entries, contents: dict[int, bytes]) -> dict[str, object]:
    return {
        name: _tree(child, entries, contents) if is_folder else contents.get(child, b"")
        for name, (child, is_folder) in entries.get(inode, {}).items()
    }


def _make(folder: Path, tree: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    for name, value in tree.items():
        if isinstance(value, dict):
            _make(folder / name, value)
        else:
            assert isinstance(value, bytes)
            (folder / name).write_bytes(value)


_noting = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    global _noting
    if _recorder is not None and event in _EVENTS and not _noting:
        _noting = True  # a scan opens files as well
        try:
            _recorder.note()
        finally:
            _noting = False


sys.addaudithook(_hook)
