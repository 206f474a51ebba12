"""A look at the serving folder that fails."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.server import versions as module


def test_a_version_that_is_removed_during_the_look_does_not_end_the_following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(folder: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", "saved_model.pb")

    monkeypatch.setattr(module, "versions", gone)
    followed = module.Versions(tmp_path, {}, ThreadPoolExecutor(1), lambda versions: None)
    asyncio.run(followed.refresh())
    assert "No such file or directory" in followed.folder_problem
    monkeypatch.undo()
    asyncio.run(followed.refresh())
    assert followed.folder_problem == ""
