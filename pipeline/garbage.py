"""Removes output of old runs that no kept run needs: `captcha-pipeline gc`. Does not import TensorFlow.

ML Metadata decides what is needed. A run is kept if it is the last run, the newest complete run, one of the newest `gc.keep_runs` runs in
which not every step was cached, or if its version is in the serving folder. A kept run keeps its artifacts (also those of older runs that
it reused from the cache), its TensorBoard logs and its report. A checkpoint and a search stay while their step is unfinished, so that the
next run can resume them.

Only folders whose names are in ML Metadata are removed, and only inside the pipeline's own folder. Links are not followed.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as pb

from components.base.disk import writing_in
from components.base.files import locked, sync
from components.base.recipe import fingerprint
from components.serving.serving_dir import versions
from pipeline.config.config import Config
from pipeline.reporting.trend import trend_page, write_trend_page
from pipeline.runs import history
from pipeline.runs.history import RunRecord
from pipeline.runs.metadata import node_names, open_store, value_of
from pipeline.runs.outcomes import KEPT_FILES, report_path

_BUSY: Final = "A run (process {}) is at work. Which output it needs is known only after it ends: try again then."
_WORKING: Final = ".system"  # in a step's folder: files that TFX needs while the step runs
_GOING: Final = ".going-"  # prefix of the name of a folder that is being removed
_FINISHED: Final = ("done", "cached")
_BLOCK: Final = 512  # bytes, the unit of st_blocks

_Place = tuple[str, str, str]  # of an artifact: step, output, execution number


@dataclass(frozen=True)
class Leftover:
    """The output of one execution, fit, search or report.

    Attributes:
      name: for display.
      folders: the folders of the output.
      size: disk space of the folders, in bytes.
    """

    name: str
    folders: tuple[Path, ...]
    size: int


@dataclass(frozen=True)
class Garbage:
    """The output that no kept run needs.

    Attributes:
      leftovers: output to remove.
      unknown: files and folders that are not on record; they stay.
    """

    leftovers: tuple[Leftover, ...] = ()
    unknown: tuple[Path, ...] = ()

    @property
    def size(self) -> int:
        """The disk space that the removal frees, in bytes."""
        return sum(leftover.size for leftover in self.leftovers)


def collect(config: Config, *, dry_run: bool = False) -> Garbage:
    """Removes output that no kept run needs, and returns it. The small files with the figures of old runs (`KEPT_FILES`) stay.

    The process can be killed at any moment: runs still work, and the next call removes the rest.

    Args:
      config: of the pipeline; its section `gc` says how many runs are kept.
      dry_run: remove nothing.

    Returns:
      The output that was removed, or with `dry_run` would be removed; empty if the pipeline has no metadata file.

    Raises:
      CaptchaPipelineError: a run is at work, the metadata file cannot be read, or a file cannot be written or removed.
    """
    if not Path(config.metadata_path).is_file():
        return Garbage()
    with writing_in(config.root), locked(Path(config.run_lock), _BUSY):
        store = open_store(config.metadata_path)
        if store is None:
            return Garbage()
        needs = _needs(config, store)
        garbage = _look(config, needs)
        if dry_run:
            return garbage
        # TFX reuses an output that is marked as live if its folder exists, complete or not. So a folder that keeps its figures is marked as
        # deleted before it is emptied. All other folders are removed first: on a full disk ML Metadata needs the space to mark artifacts.
        folders = [folder for leftover in garbage.leftovers for folder in leftover.folders]
        with_figures = [folder for folder in folders if _figures(folder)]
        for folder in folders:
            if folder not in with_figures:
                _remove(folder)
        _mark_deleted(store, needs)
        for folder in with_figures:
            _empty(folder)
        if garbage.leftovers:
            write_trend_page(config)  # drops links to removed reports
    return garbage


def kept_runs(config: Config, runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Returns the runs that are kept, by the rules in the module's docstring.

    Args:
      config: of the pipeline.
      runs: all runs, oldest first.
    """
    served = {str(pushed.original) for pushed in versions(config.serving_dir)}
    worked = [run for run in runs if any(step.state != "cached" for step in run.steps)]
    complete = [run for run in runs if run.is_complete]
    kept = {run.run_id for run in (*runs[-1:], *complete[-1:], *worked[-config.gc.keep_runs :])}
    return [run for run in runs if run.run_id in kept or run.pushed_version in served]


@dataclass(frozen=True)
class _Needs:
    """The output that ML Metadata knows, and the part that kept runs need.

    Attributes:
      nodes: step by execution number.
      places: artifacts that are needed.
      names: by folder of the pipeline, two sets: all names on record in it, and the names that are needed.
    """

    nodes: Mapping[str, str]
    places: Set[_Place]
    names: Mapping[str, tuple[Set[str], Set[str]]]


def _needs(config: Config, store: metadata_store.MetadataStore) -> _Needs:
    runs = history.runs(config.metadata_path)
    kept = kept_runs(config, runs)
    newest = max((number for number, run in enumerate(runs) if run.is_complete), default=-1)
    may_go_on = {run.run_id for run in (*kept, *runs[newest + 1 :])}

    def unfinished(works: Iterable[_Work]) -> Set[str]:
        """Returns the names of unfinished works that the next run may resume."""
        last = {work.name: work for work in works}
        return {name for name, work in last.items() if work.state not in _FINISHED and work.run_id in may_go_on}

    def reports(some: Iterable[RunRecord]) -> Set[str]:
        return {path.parent.name for run in some if (path := report_path(config, run))}

    fits, searches = [fit for run in runs for fit in _fits(run)], _searches(runs, store)
    return _Needs(
        {str(number): step for number, step in node_names(store).items()},
        {_place(uri) for run in kept for step in run.steps for uris in step.outputs.values() for uri in uris},
        {
            config.report_dir: (reports(runs), reports(kept)),
            config.log_dir: (_names(fits), _names(fit for run in kept for fit in _fits(run))),
            config.checkpoint_dir: (_names(fits), unfinished(fits)),
            config.search_dir: (_names(searches), unfinished(searches)),
        },
    )


class _Work(NamedTuple):
    """A fit or a search. It writes a folder of this name, from which an interrupted step resumes."""

    name: str
    run_id: str
    state: str


def _fits(run: RunRecord) -> list[_Work]:
    state = run.state_of("Trainer")
    if state is None or run.recipe is None:
        return []
    # The base model of an unfinished Trainer is not on record: its fit may be a warm or a cold start.
    names = {run.fingerprint} if run.fingerprint else {fingerprint(run.recipe, base) for base in (run.production_fingerprint, None)}
    return [_Work(name, run.run_id, state) for name in sorted(names)]


def _searches(runs: Sequence[RunRecord], store: metadata_store.MetadataStore) -> list[_Work]:
    steps = {step.execution_id: (run, step) for run in runs for step in run.steps if step.node == "Tuner"}
    executions = store.get_executions_by_id(list(steps)) if steps else []
    configs = {it.id: json.loads(str(value_of(it.custom_properties["custom_config"]))) for it in executions}
    return [_Work(Path(configs[number]["search_dir"]).name, run.run_id, step.state) for number, (run, step) in steps.items()]


def _names(works: Iterable[_Work]) -> Set[str]:
    return {work.name for work in works}


def _place(uri: str) -> _Place:
    # Only the last three parts: the pipeline's folder may have been moved.
    step, output, execution = Path(uri).parts[-3:]
    return step, output, execution


def _mark_deleted(store: metadata_store.MetadataStore, needs: _Needs) -> None:
    left = [artifact for artifact in store.get_artifacts() if artifact.state != pb.Artifact.DELETED]
    gone = [artifact for artifact in left if _place(artifact.uri) not in needs.places]
    for artifact in gone:
        artifact.state = pb.Artifact.DELETED
    if gone:
        store.put_artifacts(gone)


def _look(config: Config, needs: _Needs) -> Garbage:
    """Finds output on disk that is not needed."""
    unknown: list[Path] = []

    def folders(parent: Path) -> list[Path]:
        """Returns the folders in `parent`; nothing if it is missing or a link. Adds files and links to `unknown`."""
        there = sorted(parent.iterdir()) if parent.is_dir() and not parent.is_symlink() else []
        found = [path for path in there if path.is_dir() and not path.is_symlink()]
        unknown.extend(path for path in there if path not in found and path != trend_page(config))
        return found

    found: dict[str, list[Path]] = defaultdict(list)
    executions = {(step, execution) for step, _, execution in needs.places}
    for step in folders(Path(config.pipeline_root)):
        for output in folders(step):
            if output.name == _WORKING and step.name in needs.nodes.values():
                # No step is running, so these files are not needed. A kept execution has an empty folder here.
                places = [place for kind in folders(output) for place in folders(kind) if (step.name, place.name) not in executions]
            else:
                known = {place: needs.nodes.get(_name(place)) == step.name for place in folders(output)}
                unknown.extend(place for place, is_known in known.items() if not is_known)
                places = [place for place, is_known in known.items() if is_known and _place(str(place)) not in needs.places]
            for place in places:
                if not _is_emptied(place):
                    found[f"artifacts/{step.name}/*/{_name(place)}"].append(place)
    for parent, (on_record, needed) in needs.names.items():
        for place in folders(Path(parent)):
            if _name(place) not in on_record:
                unknown.append(place)
            elif place.name not in needed:
                found[f"{place.parent.name}/{_name(place)}"].append(place)
    leftovers = [Leftover(name, tuple(places), sum(map(_size, places))) for name, places in found.items()]
    return Garbage(tuple(leftovers), tuple(unknown))


def _name(folder: Path) -> str:
    """Returns the folder's name before its removal began."""
    return folder.name.removeprefix(_GOING)


def _size(folder: Path) -> int:
    return _BLOCK * sum(path.lstat().st_blocks for path in (folder, *folder.rglob("*")) if path.name not in KEPT_FILES)


def _figures(folder: Path) -> Set[str]:
    return {path.name for path in folder.iterdir()} & KEPT_FILES


def _is_emptied(folder: Path) -> bool:
    return bool(_figures(folder)) and all(path.name in KEPT_FILES for path in folder.iterdir())


def _remove(folder: Path) -> None:
    """Removes a folder. Runs see it either whole or not at all, because it is renamed first."""
    going = folder if folder.name.startswith(_GOING) else folder.rename(folder.with_name(_GOING + folder.name))
    sync(going.parent)  # without it a power failure could leave the old name with a part of the files
    shutil.rmtree(going)


def _empty(folder: Path) -> None:
    """Removes everything in a folder except its figures."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in KEPT_FILES:
            path.unlink()
