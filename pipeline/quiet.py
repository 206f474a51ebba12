"""Keeps the chatter of TensorFlow and friends from the command's user, and the errors in view.

Python's log records and warnings go to a log file where a command has one; without one, only errors are shown. What C++ code
writes is limited by environment variables, which it reads when it is first loaded: import this before TensorFlow.
"""

import logging
import os
import sys
from pathlib import Path


def silence() -> None:
    """Shows errors only, in this process and in those that it starts. What the user has set stays as it is."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors; "no GPU found" is a warning, the use of oneDNN is information
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("ABSL_MIN_LOG_LEVEL", "2")
    logging.captureWarnings(True)
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.ERROR)
    logging.basicConfig(level=logging.WARNING, handlers=[errors], force=True)


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
    # TensorFlow's logger and absl's may have handlers of their own.
    for name in ("absl", "tensorflow"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.INFO)
