from pathlib import Path

import pytest
from tfx.types import standard_artifacts

from components.data.beam_output import remove_abandoned


@pytest.mark.parametrize("name", ["plain", "[a] b*c?d"])
def test_temporary_files_are_removed_and_finished_files_are_kept(tmp_path: Path, name: str) -> None:
    tmp_path = tmp_path / name
    examples = standard_artifacts.Examples()
    examples.uri = str(tmp_path)
    for folder in (tmp_path, tmp_path / "Split-train"):
        (folder / "beam-temp-data-1234").mkdir(parents=True)
        (folder / "beam-temp-data-1234" / "half").write_bytes(b"h")
        (folder / "data-00000-of-00001.gz").write_bytes(b"w")
    log, missing = standard_artifacts.Examples(), standard_artifacts.Examples()
    log.uri, missing.uri = str(tmp_path / "data-00000-of-00001.gz"), str(tmp_path / "nowhere")
    remove_abandoned({"examples": [examples], "executor-logs": [log, missing]})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["Split-train", "data-00000-of-00001.gz", "data-00000-of-00001.gz"]
