"""Opens the labelling of a folder: its pictures, their labels in the spans, and the journal."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from components.base.disk import writing_in
from components.base.files import locked
from components.data.sources.index import Progress
from pipeline.config.config import Config
from pipeline.labelling.catalogue import scan
from pipeline.labelling.journal import Journal
from pipeline.labelling.labels import labels_in_spans
from pipeline.labelling.leases import Leases
from pipeline.labelling.session import Session

_BUSY: Final = "Another labelling of this pipeline (process {}) is at work. Open a second window of its page, or stop it first."


def folder_of(config: Config) -> Path:
    """Returns the folder of the journal, the models and the logs of a labelling."""
    return Path(config.root) / config.name / "labelling"


@contextlib.contextmanager
def opened(config: Config, folder: Path, progress: Progress | None = None) -> Iterator[Session]:
    """Opens the labelling of a folder. Only one process at a time works on the labelling of a pipeline.

    Args:
      config: of the pipeline.
      folder: of the pictures.
      progress: called while the pictures and the spans are read.

    Raises:
      CaptchaPipelineError: the folder has no usable picture, another process labels, or a file is damaged or cannot be written.
    """
    home = folder_of(config)
    with writing_in(home), locked(home / "lock", _BUSY):
        catalogue = scan(folder, config.captcha, config.data.picture_rules, progress)
        places = labels_in_spans(config, catalogue, progress)
        with contextlib.closing(Journal(home / "journal.sqlite")) as journal:
            yield Session(config, catalogue, journal, places, Leases())
