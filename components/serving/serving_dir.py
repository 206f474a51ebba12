"""The folder that models are served from, in TensorFlow Serving's layout: one numbered folder per version.

Separate from the TFX components, so that reading the folder does not import TensorFlow.
"""

import contextlib
import dataclasses
import filecmp
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from components.base.features import SERVABLE, SPEC_FILE
from components.base.files import locked, publish, read_json, sync, write_whole
from components.data.captcha_spec import CaptchaSpec
from components.evaluation import golden

SAVED_MODEL: Final = "saved_model.pb"

# TensorFlow Serving and `versions` ignore names that are not numbers.
_UNFINISHED: Final = ".unfinished-push"
_LOCK: Final = ".push-lock"
# Lists the recipes of the models that a rollback has taken out of production.
_WITHDRAWN: Final = ".withdrawn.json"
# In assets.extra of a version that a rollback made: names the version that it is a copy of.
_ROLLBACK_FILE: Final = "rollback.json"


class Withdrawn(CaptchaPipelineError):
    """A rollback has taken the model out of production."""


@dataclasses.dataclass(frozen=True)
class Pushed:
    """A version in the serving folder. `about` is the content of its captcha.json, {} without such a file."""

    version: int
    path: Path
    about: dict[str, Any]

    @property
    def recipe(self) -> str | None:
        """The combination of configuration, data and code that made the version; see components/base/recipe.py."""
        return recipe_of(self.about)

    @property
    def fingerprint(self) -> str | None:
        """The recipe and the model that the fit started from; see components/base/recipe.py."""
        return self.about.get("fingerprint")

    @property
    def spec(self) -> CaptchaSpec | None:
        """What the version reads; None if its captcha.json does not say so."""
        try:
            return CaptchaSpec.model_validate(self.about.get("spec"))
        except ValidationError:
            return None

    @property
    def servable(self) -> bool:
        """Whether TensorFlow Serving can use the version. It cannot use the models that earlier releases of this project exported."""
        return self.fingerprint is None or SERVABLE in self.about

    @property
    def copy_of(self) -> int | None:
        """The version that a rollback copied to make this one; None if this is not a copy."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads((self.path / "assets.extra" / _ROLLBACK_FILE).read_text(encoding="utf-8"))["version"])
        return None

    @property
    def original(self) -> int:
        """The version that a run pushed: this one, or the version that it is a copy of."""
        return self.copy_of or self.version


def versions(serving_dir: str | Path) -> list[Pushed]:
    """Returns the versions that contain a SavedModel, newest first; [] if the folder does not exist.

    Raises:
      CaptchaPipelineError: a version is damaged, or the folder is a file.
    """
    found = [(version, path) for version, path in sorted(_numbered(Path(serving_dir)), reverse=True) if (path / SAVED_MODEL).is_file()]
    for _, path in found:
        for file in (path / SAVED_MODEL, path / "assets.extra" / SPEC_FILE):
            # A power failure leaves an empty file if the file was not synced. Earlier releases did not sync files.
            if file.is_file() and not file.stat().st_size:
                raise CaptchaPipelineError(
                    f"{file} is damaged: it is empty. Remove the folder {path}. The newest remaining version is then in production."
                )
    return [Pushed(version, path, _about(path)) for version, path in found]


def version_at(folder: str | Path) -> Pushed | None:
    """Returns the version in a folder whose name is its number; None if the folder has no such name, or contains no SavedModel."""
    path = Path(folder).resolve()
    numbers = {path: number for number, path in _numbered(path.parent)}
    return Pushed(numbers[path], Path(folder), _about(path)) if path in numbers and (path / SAVED_MODEL).is_file() else None


def latest_pushed(serving_dir: str | Path, recipe: str, spec: CaptchaSpec) -> Pushed | None:
    """Returns the newest version of a different recipe: one with the same spec or, if none exists, one with another spec.

    A version with the same spec is the baseline of a model of this recipe. A fit can start from either. A model is never compared
    with itself, and a rerun of a recipe after its push finds the same version as the first run.
    """
    others = [pushed for pushed in versions(serving_dir) if pushed.spec and pushed.recipe != recipe]
    return next((pushed for pushed in others if pushed.spec == spec), next(iter(others), None))


def unservable_warning(serving_dir: str | Path) -> str:
    """Returns why servers cannot use the version in production, and the remedy; "" if they can or no version exists."""
    newest = next(iter(versions(serving_dir)), None)
    if newest is None or newest.servable:
        return ""
    return (
        f"An earlier release exported version {newest.version}, which is in production: TensorFlow Serving and other servers cannot use "
        "it, only Python can. The next run trains a model that they can use, and pushes it if it is good enough. If that run finds "
        "nothing to do, `captcha-pipeline retrain --force` trains a new model."
    )


def best_on_golden_sets(serving_dir: str | Path, recipe: str) -> tuple[golden.Best, ...]:
    """Returns the best reading of each golden set by a pushed model, to compare a model of this recipe with.

    As with `latest_pushed`, a model is never compared with itself. Models that a rollback has taken out of production do not count.

    Raises:
      CaptchaPipelineError: the record of the readings or the list of the withdrawn models cannot be read.
    """
    return golden.best_readings(serving_dir, {recipe} | withdrawn(serving_dir))


def check_not_withdrawn(model_dir: str | Path, serving_dir: str | Path) -> None:
    """Checks that a rollback has not taken this model out of production.

    Raises:
      Withdrawn: a rollback has.
      CaptchaPipelineError: the list of the withdrawn models is damaged.
    """
    if recipe_of(_about(Path(model_dir))) in withdrawn(serving_dir):
        raise Withdrawn("A rollback has taken this model out of production: it is not pushed again.")


def push(model_dir: str | Path, serving_dir: str | Path, keep: int, reading: golden.GoldenReading | None = None) -> Pushed:
    """Copies a SavedModel to the serving folder as its newest version, and removes the oldest versions beyond `keep`.

    A reader sees the complete version or nothing: the copy gets a name that readers ignore, and is renamed at the end. The next push
    removes what a killed push left. Pushes to one folder wait for each other. Version numbers are seconds since 1970, and always
    above all others in the folder. If the newest version is identical to this model, it stays as it is: it was pushed by a run that was
    killed before it could record the push.

    Args:
      model_dir: of the SavedModel.
      serving_dir: TensorFlow Serving's base path.
      keep: the number of versions to keep, at least 2. Versions that this project did not make are neither counted nor removed.
      reading: how the model reads the golden set, recorded for `best_on_golden_sets`; None without a golden set.

    Raises:
      Withdrawn: `roll_back` has taken this model out of production.
      CaptchaPipelineError: the folder cannot be written, or a file in it is damaged.
    """
    model_dir = Path(model_dir)
    with _writing(serving_dir) as target:
        check_not_withdrawn(model_dir, target)
        newest = next(iter(versions(target)), None)
        if newest and _same_tree(model_dir, newest.path):
            pushed = newest
        else:
            pushed = _publish(_copy(model_dir, target))
            for old in [version for version in versions(target) if version.fingerprint][keep:]:
                _remove(old.path)
        if reading and pushed.recipe:
            there = {version.recipe for version in versions(target) if version.recipe}
            golden.note(target, reading, pushed.version, pushed.recipe, there, withdrawn(target))
    return pushed


def check(serving_dir: str | Path) -> None:
    """Checks that `push` can read and write the serving folder, so that it does not fail after a fit of hours.

    Raises:
      CaptchaPipelineError: `push` cannot. The message says why.
    """
    versions(serving_dir)  # names the file that is in the place of the folder, if there is one
    with _writing(serving_dir) as target:
        withdrawn(target)
        (target / _UNFINISHED).mkdir()
        (target / _UNFINISHED).rmdir()


def original(serving_dir: str | Path, version: str) -> str:
    """Returns the version that a run pushed: `version` itself or, if a rollback made it, the version that it is a copy of."""
    originals = {str(pushed.version): str(pushed.original) for pushed in versions(serving_dir)}
    return originals.get(version, version)


def withdrawn(serving_dir: str | Path) -> set[str]:
    """Returns the recipes of the models that a rollback has taken out of production.

    Recipes, not fingerprints, because a fit of the same recipe that starts from an older model would undo the rollback.

    Raises:
      CaptchaPipelineError: the file that lists them is damaged.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        remedy = "Remove it. To withdraw the same models again, roll back again."
        return set(read_json(Path(serving_dir) / _WITHDRAWN, remedy))
    return set()


def roll_back(serving_dir: str | Path, version: int) -> Pushed:
    """Puts an earlier version back into production: a copy of it becomes the newest version, which all readers use.

    The models that were first pushed after it are withdrawn: `push` rejects them until a rollback puts them back. It does not reject
    models from new data, a new configuration or new code.

    Raises:
      CaptchaPipelineError: the version does not exist, is already the newest, servers cannot use it, or the folder cannot be written.
    """
    with _writing(serving_dir) as target:
        there = versions(target)
        chosen = next((pushed for pushed in there if pushed.version == version), None)
        if chosen is None:
            known = ", ".join(str(pushed.version) for pushed in there) or "none"
            raise CaptchaPipelineError(f"Version {version} does not exist in {serving_dir}. Existing versions: {known}.")
        if chosen == there[0]:
            raise CaptchaPipelineError(f"Version {version} is the newest in {serving_dir}: it is already in production.")
        if not chosen.servable:
            others = ", ".join(str(pushed.version) for pushed in there if pushed.servable) or "none"
            raise CaptchaPipelineError(
                f"An earlier release exported version {version}: TensorFlow Serving and other servers cannot use it, and every request to "
                f"them would fail. Roll back to one that they can use ({others}), or run `captcha-pipeline retrain --force`. "
                f"To read with version {version}, run `captcha-pipeline predict` with --model {chosen.path}."
            )
        newer = {pushed.recipe for pushed in there if pushed.original > chosen.original and pushed.recipe}
        taken_out = (withdrawn(target) | newer) - {chosen.recipe}
        unfinished = _copy(chosen.path, target)
        write_whole(unfinished / "assets.extra" / _ROLLBACK_FILE, json.dumps({"version": chosen.original}))
        # Before the version appears, because otherwise after a kill in between the next run would push the withdrawn model again. After the
        # copy, because the copy fails on a full disk.
        write_whole(target / _WITHDRAWN, json.dumps(sorted(taken_out)))
        return _publish(unfinished)


@contextlib.contextmanager
def _writing(serving_dir: str | Path) -> Iterator[Path]:
    """Creates the folder, waits until no other process writes there, and removes what a killed process left."""
    if "://" in str(serving_dir):
        raise CaptchaPipelineError(f"Cannot push to {serving_dir}: pusher.serving_dir must be a folder on this machine.")
    target = Path(serving_dir)
    try:
        with writing_in(target):
            target.mkdir(parents=True, exist_ok=True)
            with locked(target / _LOCK):
                shutil.rmtree(target / _UNFINISHED, ignore_errors=True)
                yield target
    except OSError as error:
        raise CaptchaPipelineError(
            f"Cannot push to {serving_dir}: {error}. Make the folder writable, or set pusher.serving_dir."
        ) from error


def _copy(model_dir: Path, target: Path) -> Path:
    unfinished = target / _UNFINISHED
    try:
        shutil.copytree(model_dir, unfinished)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)  # on a full disk the space is needed to record the failure
        raise
    return unfinished


def _publish(unfinished: Path) -> Pushed:
    target = unfinished.parent
    version = max([int(time.time()), *(number + 1 for number, _ in _numbered(target))])
    publish(unfinished, target / str(version))
    return Pushed(version, target / str(version), _about(target / str(version)))


def _remove(version: Path) -> None:
    if version.is_symlink():
        version.unlink()
        return
    unfinished = version.with_name(_UNFINISHED)
    version.rename(unfinished)
    sync(version.parent)  # otherwise a power failure could leave the version with a part of its files
    shutil.rmtree(unfinished)


def _numbered(serving_dir: Path) -> Iterator[tuple[int, Path]]:
    try:
        for path in serving_dir.iterdir():
            if path.name.isascii() and path.name.isdigit():
                yield int(path.name), path
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise CaptchaPipelineError(f"{serving_dir} must be a folder of versions, but a file is in its place. Remove the file.") from None


def _about(version: Path) -> dict[str, Any]:
    # A version that this project did not make has no such file, or one with different content.
    with contextlib.suppress(OSError, ValueError):
        about = json.loads((version / "assets.extra" / SPEC_FILE).read_text(encoding="utf-8"))
        if isinstance(about, dict):
            return about
    return {}


def recipe_of(about: Mapping[str, Any]) -> str | None:
    """Returns the recipe that a model's captcha.json, `about`, names; None for a model of another project."""
    # Earlier releases stored the recipe as the fingerprint.
    return about.get("recipe", about.get("fingerprint"))


def _same_tree(left: Path, right: Path) -> bool:
    files = [{path.relative_to(root) for path in root.rglob("*") if path.is_file()} for root in (left, right)]
    return files[0] == files[1] and all(filecmp.cmp(left / name, right / name, shallow=False) for name in files[0])
