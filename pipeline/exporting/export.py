"""Exports a version: writes the model's file and its manifest, proves that they read like the SavedModel, and publishes both."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from captcha_read.manifest import MANIFEST, ExportError, load_manifest
from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from components.base.features import SPLITS
from components.base.files import publish
from pipeline.config.config import Config
from pipeline.exporting.formats import FORMATS
from pipeline.exporting.manifest import manifest_of
from pipeline.exporting.proof import Proof, prove
from pipeline.exporting.subject import load_version, subject_of
from pipeline.inference.evaluation import good_records
from pipeline.inference.served_model import ServedModel
from pipeline.inference.versions import export_folder


@dataclasses.dataclass(frozen=True)
class Export:
    """A finished export: its folder, and its proof."""

    folder: Path
    proof: Proof


def export(config: Config, model: Path, name: str, int8: bool = False, out: Path | None = None) -> Export:
    """Exports a version. The folder appears only if the proof holds. An earlier export in the default folder is then replaced.

    Args:
      config: of the pipeline. The pictures of its window calibrate and prove the export.
      model: version folder.
      name: of the format, a key of FORMATS.
      int8: with weights and activations of 8 bits.
      out: the folder to write, new or empty; None for the default, where `captcha-pipeline predict` finds it.

    Raises:
      CaptchaPipelineError: the format is unknown or has no such variant, a package is missing, the version cannot be exported, the folder
        is not empty or cannot be written, or the proof does not hold.
    """
    form = FORMATS.get(name)
    if form is None:
        raise CaptchaPipelineError(f"There is no export format {name!r}. Formats: {', '.join(FORMATS)}.")
    write = form.write_int8 if int8 else form.write
    if write is None:
        raise CaptchaPipelineError(f"The format {name} has no variant with 8-bit weights. Export without --int8.")
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CaptchaPipelineError(f"{out} exists and is not an empty folder. Give --out a new folder.")
    version, keras_model = load_version(model)
    target = out or export_folder(config, version, f"{name}-int8" if int8 else name)
    saved = ServedModel(model)
    with _draft(target) as draft:
        file = draft / form.file
        # The rules for pictures are needed before the file exists, to calibrate it.
        _write_manifest(draft, manifest_of(version, name, int8, form.file, ""))
        try:
            write(subject_of(config, version, keras_model, load_manifest(draft)), file)
            content = manifest_of(version, name, int8, form.file, _sha256(file))
            # Such as OpenVINO's weights.
            content |= {
                "further_files": {path.name: _sha256(path) for path in sorted(draft.iterdir()) if path.name not in (form.file, MANIFEST)}
            }
            _write_manifest(draft, content)
            with form.reader(file) as read:
                proof = prove(saved, read, good_records(config, SPLITS[-1], config.data.read_window(), saved.spec))
        except ModuleNotFoundError as error:
            raise CaptchaPipelineError(
                f"The format {name} needs {error.name}, which is not installed. In the clone: pip install '.[{form.extra}]'."
            ) from None
        except ExportError as error:
            raise CaptchaPipelineError(f"The export cannot be opened: {error}") from None
        if fault := proof.fault(int8):
            raise CaptchaPipelineError(f"The export of version {version.version} to {name} is not written: {fault}.")
        _write_manifest(draft, content | {"proof": dataclasses.asdict(proof)})
        _replace(draft, target)
    return Export(target, proof)


@contextlib.contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """Gives a folder beside `target`, which is removed at the end if it is still there."""
    with writing_in(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            folder.chmod(0o755)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_manifest(folder: Path, content: dict[str, object]) -> None:
    (folder / MANIFEST).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _replace(draft: Path, target: Path) -> None:
    """Publishes a folder in the place of an earlier export. A kill in between leaves no export, but never a part of one."""
    if target.exists() and any(target.iterdir()):
        with _draft(target) as former:
            target.rename(former / target.name)
            publish(draft, target)
    else:
        publish(draft, target)
