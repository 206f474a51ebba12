"""Keeps the chatter of TensorFlow and friends from the command's user, and the errors in view.

Python's log records and warnings go to a log file where a command has one; without one, only errors are shown. What C++ code
writes is limited by environment variables, which it reads when it is first loaded: import this before TensorFlow.
"""

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import absl.logging

# TensorFlow 2.16 calls it an error that its own GPU plugins are registered twice; no level but "fatal" hides that.
_HARMLESS: Final = (b"Unable to register cuFFT factory", b"Unable to register cuDNN factory", b"Unable to register cuBLAS factory")


def silence() -> None:
    """Shows errors only, in this process and in those that it starts. What the user has set stays as it is."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors; "no GPU found" is a warning, the use of oneDNN is information
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("ABSL_MIN_LOG_LEVEL", "2")
    logging.captureWarnings(True)
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.ERROR)
    logging.basicConfig(level=logging.WARNING, handlers=[errors], force=True)


def load_tensorflow() -> None:
    """Imports TensorFlow, and passes on what its C++ code writes to standard error meanwhile, less what is known to be harmless."""
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with tempfile.TemporaryFile() as written:
            os.dup2(written.fileno(), 2)
            try:
                import tensorflow  # noqa: F401
            finally:
                os.dup2(terminal, 2)
                written.seek(0)
                os.write(2, b"".join(line for line in written if not any(text in line for text in _HARMLESS)))
    finally:
        os.close(terminal)


def log_to(path: Path) -> None:
    """Sends every log record from INFO up to a file, and none to the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        filename=path,
        filemode="a",
        encoding="utf-8",
        force=True,
    )
    # TensorFlow's logger has a handler of its own; absl sets its logger's level anew from its flag, later.
    logging.getLogger("tensorflow").handlers.clear()
    logging.getLogger("tensorflow").propagate = True
    absl.logging.set_verbosity(absl.logging.INFO)
