"""What Beam leaves beside its output."""

import os
from collections.abc import Mapping, Sequence

from tfx.dsl.io import fileio
from tfx.types import artifact


def remove_abandoned(output_dict: Mapping[str, Sequence[artifact.Artifact]]) -> None:
    """Removes from the outputs of a step that is done the files that a worker was at when it was killed.

    The engine had its work done anew, elsewhere; whoever reads "every file of the split" would find the folder with the halves.
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
