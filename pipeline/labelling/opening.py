"""Gets everything ready to label a folder: its pictures, the labels that are already in spans, and the journal."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from components.base.disk import writing_in
from components.base.files import locked
from components.data.sources.imported import source_name
from components.data.sources.index import Progress
from pipeline.config.config import Config
from pipeline.labelling.catalogue import scan
from pipeline.labelling.journal import Journal
from pipeline.labelling.labels import in_spans
from pipeline.labelling.leases import Leases
from pipeline.labelling.session import Session

_BUSY: Final = (
    "`captcha-pipeline label` is already running for this pipeline (process {}). Open its page in a second window, or stop it first."
)


def folder_of(config: Config) -> Path:
    """Returns the folder with the journal, the models and the logs of `captcha-pipeline label`."""
    return Path(config.root) / config.name / "labelling"


@contextlib.contextmanager
def opened(config: Config, folder: Path, progress: Progress | None = None) -> Iterator[Session]:
    """Opens a session in which the pictures of a folder are labelled. Only one process at a time can do so for a pipeline.

    Args:
      config: of the pipeline.
      folder: of the pictures.
      progress: called while the pictures and the spans are read.

    Raises:
      Busy: another process labels pictures for this pipeline.
      CaptchaPipelineError: the folder does not exist, has no usable picture, or has a name that no source can have; or a file is damaged or
        cannot be written.
    """
    source_name("", folder)  # the source of the spans; a name that they cannot have must be known before the labelling, not after it
    home = folder_of(config)
    with writing_in(home), locked(home / "lock", _BUSY):
        catalogue = scan(folder, config.captcha, config.data.picture_rules, progress)
        stored = in_spans(config, catalogue, progress)
        with contextlib.closing(Journal(home / "journal.sqlite")) as journal:
            yield Session(config, catalogue, journal, stored, Leases())
