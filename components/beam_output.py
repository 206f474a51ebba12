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
            for below in ("", "Split-*"):
                for folder in fileio.glob(os.path.join(item.uri, below, "beam-temp-*")):
                    fileio.rmtree(folder)
