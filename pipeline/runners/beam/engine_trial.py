"""A job of a moment, which tells whether an engine's workers can do the work of a run: they have this very code, and see its folders.

It is run in a process of its own, so that whatever hangs can be ended with it.
"""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

# What a worker says follows it, wherever the engine's own words for a failure begin and end.
MARK: Final = "captcha-pipeline: "
_ELEMENTS_A_WORKER: Final = 4
# Two thirds of the time that Beam's import takes are those of the clients of clouds and databases, and of pandas for its data frames.
_CLIENTS: Final = ("google.cloud", "google.api_core", "boto3", "pymongo", "pandas")


def expected(folders: Sequence[str]) -> dict[str, Any]:
    """Returns what a worker should find: as much as this process does, and the folders."""
    from components.base.recipe import code_digest  # half a second, which the process that has only the job to start does not need

    return {
        "python": platform.python_version_tuple()[:2],
        "beam": version("apache-beam"),
        "code": code_digest(),
        "folders": list(folders),
    }


def complaint(wanted: Mapping[str, Any]) -> str:
    """Returns what is wrong with the worker that this runs in; "" where nothing is."""
    found = expected(())
    if found["python"] != tuple(wanted["python"]):
        return f"a worker runs Python {'.'.join(found['python'])}, this process {'.'.join(wanted['python'])}"
    if found["beam"] != wanted["beam"]:
        return f"a worker has Beam {found['beam']}, this process {wanted['beam']}"
    if found["code"] != wanted["code"]:
        return "a worker has another release of captcha-pipeline than this process"
    for folder in wanted["folders"]:
        if not os.access(folder, os.R_OK | os.W_OK):
            return f"a worker does not see {folder}, or may not write there: the folder must be shared, under the same path"
    return ""


def _compare(_: int, wanted: Mapping[str, Any]) -> None:
    if found := complaint(wanted):
        raise RuntimeError(MARK + found)


def main() -> None:
    """Runs the job. Arguments: what is expected, in JSON; how many workers there are; Beam's options."""
    wanted, workers, *beam_args = sys.argv[1:]
    if "--runner=DataflowRunner" not in beam_args:
        sys.modules.update(dict.fromkeys(_CLIENTS, None))  # type: ignore[arg-type]  # an import of these fails, which Beam is prepared for
    import apache_beam as beam

    with beam.Pipeline(argv=beam_args) as pipeline:
        # The first stage has none of our code: Beam 2.77 waits for minutes for a worker whose very first function cannot be loaded.
        elements = pipeline | beam.Create(range(_ELEMENTS_A_WORKER * int(workers)), reshuffle=False)
        _ = elements | beam.Reshuffle() | beam.Map(_compare, json.loads(wanted))
