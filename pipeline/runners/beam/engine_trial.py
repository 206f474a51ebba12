"""A short job that checks whether an engine's workers can do the work of a run: they need the same code, and access to its folders.

It runs in its own process, so that anything that hangs can be ended with the process.
"""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

# Marks the start of a worker's complaint within the engine's own error text.
MARK: Final = "captcha-pipeline: "
_ELEMENTS_A_WORKER: Final = 4
# The clients of clouds and databases, and pandas for its data frames, take two thirds of the time of Beam's import.
_CLIENTS: Final = ("google.cloud", "google.api_core", "boto3", "pymongo", "pandas")


def expected(folders: Sequence[str]) -> dict[str, Any]:
    """Returns what a worker should have: the Python, Beam and code of this process, and the folders."""
    from components.base.recipe import code_digest  # takes half a second; the process that only starts the job does not need it

    return {
        "python": platform.python_version_tuple()[:2],
        "beam": version("apache-beam"),
        "code": code_digest(),
        "folders": list(folders),
    }


def complaint(wanted: Mapping[str, Any]) -> str:
    """Returns what is wrong with the worker that runs this; "" if nothing is wrong."""
    found = expected(())
    if found["python"] != tuple(wanted["python"]):
        return f"a worker runs Python {'.'.join(found['python'])}, but this process runs {'.'.join(wanted['python'])}"
    if found["beam"] != wanted["beam"]:
        return f"a worker has Beam {found['beam']}, but this process has {wanted['beam']}"
    if found["code"] != wanted["code"]:
        return "a worker has another release of captcha-pipeline than this process"
    for folder in wanted["folders"]:
        if not os.access(folder, os.R_OK | os.W_OK):
            return f"a worker cannot read and write {folder}. Share the folder with the workers under the same path"
    return ""


def _compare(_: int, wanted: Mapping[str, Any]) -> None:
    if found := complaint(wanted):
        raise RuntimeError(MARK + found)


def main() -> None:
    """Runs the job. Arguments: the expected values as JSON, the number of workers, and Beam's options."""
    wanted, workers, *beam_args = sys.argv[1:]
    if "--runner=DataflowRunner" not in beam_args:
        sys.modules.update(dict.fromkeys(_CLIENTS, None))  # type: ignore[arg-type]  # makes their import fail, which Beam handles
    import apache_beam as beam

    with beam.Pipeline(argv=beam_args) as pipeline:
        # The first stage has no code of ours: Beam 2.77 waits for minutes for a worker that cannot load its first function.
        elements = pipeline | beam.Create(range(_ELEMENTS_A_WORKER * int(workers)), reshuffle=False)
        _ = elements | beam.Reshuffle() | beam.Map(_compare, json.loads(wanted))
