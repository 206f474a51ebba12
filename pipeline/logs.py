"""Hides the informational output of TensorFlow and other libraries from users, and keeps errors visible.

Python's log records and warnings go to the command's log file. A command without a log file shows errors only. Environment variables limit
the output of C++ code. It reads them once, when it is loaded: import this module before TensorFlow.
"""

import contextlib
import logging
import logging.handlers
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

import absl.logging

# Useless output of TensorFlow while it loads and looks for devices: information and warnings, which it logs before it has read its own
# log level; double registration of its GPU plugins (2.16); and, on a machine without a GPU, that CUDA finds none (2.21).
_CHATTER: Final = re.compile(
    rb"[IW]\d{4} |WARNING: All log messages before absl::InitializeLog|.*Unable to register cu(FFT|DNN|BLAS) factory"
)
_NO_GPU: Final = re.compile(rb".*failed call to cuInit")
_GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/dxg")
_LOG_SIZE: Final = 10_000_000  # bytes
_OLD_LOGS: Final = 3


def silence() -> None:
    """Shows errors only, in this process and its child processes. Environment variables that the user has set are kept."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # 2 shows errors; "no GPU found" is a warning, "uses oneDNN" is information
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("ABSL_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # allocates GPU memory as needed; here because it is read at the same time
    logging.captureWarnings(True)
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.ERROR)
    logging.basicConfig(level=logging.WARNING, handlers=[errors], force=True)


def load_tensorflow(*, with_keras: bool = True) -> None:
    """Imports TensorFlow and looks for devices. Filters useless lines of its C++ code out of standard error.

    Args:
      with_keras: import Keras as well. Without it the import takes three fifths of the time; a SavedModel does not need it. Keras can
        still be imported later.
    """
    hide_keras = not with_keras and "keras" not in sys.modules
    with _without_chatter():
        try:
            if hide_keras:
                sys.modules["keras"] = None  # type: ignore[assignment]  # TensorFlow can be imported without Keras
            import tensorflow as tf

            tf.config.list_physical_devices()
        finally:
            if hide_keras:
                del sys.modules["keras"]


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Sends standard error through a child process that filters out useless lines.

    The child outlives this process: if a library aborts, its last output is still shown. A thread could not do that, because no thread
    runs while a library is loaded. Nothing is filtered in two cases. The first process of a container ends all other processes with it. If
    TensorFlow is already loaded, it has threads, and a process with threads must not fork.
    """
    if os.getpid() == 1 or "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    end, beginning = os.pipe()
    sieve = os.fork()
    if sieve == 0:
        os.setsid()  # keeps Ctrl-C away: the child ends when its parent closes the pipe
        os.close(beginning)
        _pass_on(end)
    terminal = os.dup(2)
    os.dup2(beginning, 2)
    os.close(beginning)
    os.close(end)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.waitpid(sieve, 0)


def _pass_on(end: int) -> NoReturn:
    try:
        has_gpu = any(os.path.exists(device) for device in _GPU_DEVICES)
        with open(end, "rb") as written:
            for line in written:
                if not _CHATTER.match(line) and (has_gpu or not _NO_GPU.match(line)):
                    os.write(2, line)
    finally:
        os._exit(0)


def log_to(path: Path) -> None:
    """Sends log records of level INFO and above to a file, and no record to the terminal. A full file is renamed, see `rotate`.

    Records that cannot be written because the disk is full are dropped: Python would otherwise print a traceback for each.
    """
    logging.raiseExceptions = False
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[_rotating(path)],
        force=True,
    )
    # TensorFlow's logger has its own handler. absl later sets its logger's level again, from its flag.
    logging.getLogger("tensorflow").handlers.clear()
    logging.getLogger("tensorflow").propagate = True
    absl.logging.set_verbosity(absl.logging.INFO)


def rotate(path: Path) -> None:
    """Renames a log file of more than 10 MB to PATH.1, an existing PATH.1 to PATH.2, and so on up to PATH.3. The file may be missing.

    Call it while no process writes to the file.
    """
    if path.is_file() and path.stat().st_size > _LOG_SIZE:
        handler = _rotating(path)
        handler.doRollover()
        handler.close()


def _rotating(path: Path) -> logging.handlers.RotatingFileHandler:
    return logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_SIZE, backupCount=_OLD_LOGS, encoding="utf-8", delay=True)
