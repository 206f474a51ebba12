"""Folders that look like exported models, and the contents of a folder."""

import json
import os
from pathlib import Path

from components.data.captcha_spec import CaptchaSpec

SPEC = CaptchaSpec()


def make_model(path: Path, fingerprint: str = "a", spec: CaptchaSpec = SPEC, files: int = 3, recipe: str = "") -> Path:
    """Makes a model with a fingerprint, which is also its recipe if no recipe is given."""
    (path / "variables").mkdir(parents=True)
    (path / "assets.extra").mkdir()
    about = {"spec": json.loads(spec.model_dump_json()), "fingerprint": fingerprint, "recipe": recipe or fingerprint, "servable": True}
    (path / "assets.extra" / "captcha.json").write_text(json.dumps(about))
    (path / "saved_model.pb").write_bytes(b"graph of " + fingerprint.encode())
    for i in range(files):
        (path / "variables" / f"part-{i}").write_bytes(os.urandom(1000))
    return path


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def make_former(path: Path, fingerprint: str) -> Path:
    """Makes a model as earlier releases exported it, which servers cannot use."""
    about = make_model(path, fingerprint) / "assets.extra" / "captcha.json"
    about.write_text(json.dumps({"spec": SPEC.model_dump(mode="json"), "fingerprint": fingerprint}))
    return path
