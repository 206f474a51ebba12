"""The image, as a cluster runs it: a numeric user, and only mounted folders can be written. `make test-image` builds it."""

import importlib.metadata
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import TINY

ENGINE, IMAGE = os.environ.get("ENGINE", "docker"), os.environ.get("CAPTCHA_IMAGE")
USER = 10001
VOLUME = "/mnt/captcha"

pytestmark = pytest.mark.skipif(not IMAGE, reason="CAPTCHA_IMAGE does not name an image: see `make test-image`")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Returns a function that runs a command in the image: no network, a read-only root, and a volume that its user can write."""
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)

    def call(*command: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        options = ["--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL", "--volume", f"{volume}:{VOLUME}"]
        account = ["--user", user] if user else []
        return subprocess.run([ENGINE, "run", *options, *account, str(IMAGE), *command], capture_output=True, text=True)

    return call


def test_the_command_the_user_and_the_read_only_root(run: Run) -> None:
    assert run("captcha-pipeline", "--version").stdout.split()[-1] == importlib.metadata.version("captcha-pipeline")
    assert run("python", "-c", "import os; print(os.getuid())").stdout.strip() == str(USER)
    assert run("captcha-pipeline", "--version", user="20002:0").returncode == 0  # OpenShift chooses the user ID
    refused = run("python", "-c", "open('/opt/captcha/bin/planted', 'w')")
    assert "Read-only file system" in refused.stderr


def test_every_step_succeeds_in_a_rehearsal(run: Run, tmp_path: Path) -> None:
    (tmp_path / "volume" / "tiny.yaml").write_bytes(TINY.read_bytes())
    config = ["--config", f"{VOLUME}/tiny.yaml"]
    config += ["--set", f"root={VOLUME}/output", "--set", f"data.root={VOLUME}/data", "--set", f"kubeflow.volumes={{{VOLUME}: captcha}}"]
    compiled = f"{VOLUME}/pipeline.yaml"
    for command in (
        ["data", "synth", *config],
        ["kubeflow", "compile", "-o", compiled, *config, "--image", str(IMAGE), "--root", "s3://bucket/captcha"],
        ["kubeflow", "rehearse", compiled, "--folder", f"{VOLUME}/cluster"],
    ):
        done = run("captcha-pipeline", *command)
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("succeeded") == 9
    assert list((tmp_path / "volume" / "output" / "tiny" / "serving" / "tiny").glob("[0-9]*/saved_model.pb"))
