"""Removes temporary files that Beam leaves in its output folders."""

import os
from collections.abc import Mapping, Sequence

from tfx.dsl.io import fileio
from tfx.types import artifact


def remove_abandoned(output_dict: Mapping[str, Sequence[artifact.Artifact]]) -> None:
    """Removes the unfinished files of killed workers from the outputs of a completed step.

    The engine has repeated the work of these workers in other files. A reader of all files of the split would otherwise find the folder
    with the unfinished files.
    """
    for artifacts in output_dict.values():
        for item in artifacts:
            if not fileio.isdir(item.uri):  # Kubeflow's driver adds an output that is a file
                continue
            splits = [os.path.join(item.uri, name) for name in fileio.listdir(item.uri) if name.startswith("Split-")]
            for folder in (item.uri, *splits):
                for name in fileio.listdir(folder):
                    if name.startswith("beam-temp-"):
                        fileio.rmtree(os.path.join(folder, name))
