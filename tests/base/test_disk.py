"""The messages for a disk that cannot be written."""

import errno
import os
from pathlib import Path

import pytest

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from components.base.files import write_whole
from components.serving import serving_dir


def raises(error: BaseException, *folders: Path) -> str:
    with pytest.raises(CaptchaPipelineError) as told, writing_in(*folders):
        raise error
    return str(told.value)


@pytest.mark.parametrize(
    "text", ["OSError: [Errno 28] No space left on device [while running 'Write']", "COMMIT: database or disk is full"]
)
def test_a_full_disk_is_recognised_by_the_error_text(tmp_path: Path, text: str) -> None:
    message = raises(RuntimeError(text), tmp_path)
    assert message.startswith("The disk is full: ")
    assert "Free some space there and run the same command again" in message


def test_a_full_disk_is_found_in_the_cause_of_an_error(tmp_path: Path) -> None:
    outer = ValueError("cannot save")
    outer.__cause__ = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(tmp_path / "file"))
    assert raises(outer, Path("/")).startswith(f"The disk quota is used up: {tmp_path / 'file'} cannot be written.")


def test_a_full_disk_is_reported_for_a_missing_folder(tmp_path: Path) -> None:
    assert "The disk is full: /proc/none/deep " in raises(OSError(errno.ENOSPC, "full"), Path("/proc/none/deep"))
    assert "the output of this command" in raises(OSError(errno.ENOSPC, "full"))


def test_other_errors_pass_through_unchanged() -> None:
    for error in (ValueError("a defect"), CaptchaPipelineError("told already"), FileNotFoundError(errno.ENOENT, "gone")):
        with pytest.raises(type(error)) as raised, writing_in(Path("/")):
            raise error
        assert raised.value is error


def test_a_half_written_file_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", "before")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(CaptchaPipelineError, match="The disk is full"):
        write_whole(tmp_path / "file", "after")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "before"}


def test_a_rollback_on_a_full_disk_withdraws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        extra = tmp_path / name / "assets.extra"
        extra.mkdir(parents=True)
        (extra / "captcha.json").write_text(f'{{"fingerprint": "{name}", "servable": true}}')
        (tmp_path / name / "saved_model.pb").write_text(name)
    serving = tmp_path / "serving"
    first, second = (serving_dir.push(tmp_path / name, serving, keep=9) for name in "ab")

    def refuse(source: Path, target: Path) -> None:
        (target / "half").mkdir(parents=True)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copytree", refuse)
        with pytest.raises(CaptchaPipelineError, match="The disk is full"):
            serving_dir.roll_back(serving, first.version)
    assert serving_dir.versions(serving) == [second, first]
    assert sorted(path.name for path in serving.iterdir()) == sorted([".push-lock", str(first.version), str(second.version)])
