"""Keeps the chatter of TensorFlow and friends from the command's user, and the errors in view.

Python's log records and warnings go to a log file where a command has one; without one, only errors are shown. What C++ code
writes is limited by environment variables, which it reads when it is first loaded: import this before TensorFlow.
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

# What TensorFlow writes while it is loaded and looks for devices, of no use to anyone: information and warnings, which it logs
# before it has looked at its own log level; that its GPU plugins are registered twice (2.16); and, on a machine without one,
# that CUDA finds no GPU (2.21).
_CHATTER: Final = re.compile(
    rb"[IW]\d{4} |WARNING: All log messages before absl::InitializeLog|.*Unable to register cu(FFT|DNN|BLAS) factory"
)
_NO_GPU: Final = re.compile(rb".*failed call to cuInit")
_GPU_DEVICES: Final = ("/dev/nvidiactl", "/dev/dxg")
_LOG_SIZE: Final = 10_000_000  # bytes
_OLD_LOGS: Final = 3


def silence() -> None:
    """Shows errors only, in this process and in those that it starts. What the user has set stays as it is."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors; "no GPU found" is a warning, the use of oneDNN is information
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("ABSL_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # not for silence, but read at the same time: GPU memory as it is needed
    logging.captureWarnings(True)
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.ERROR)
    logging.basicConfig(level=logging.WARNING, handlers=[errors], force=True)


def load_tensorflow(*, with_keras: bool = True) -> None:
    """Imports TensorFlow and looks for devices, and passes on what its C++ code writes to standard error, less the chatter.

    Without Keras, of which a SavedModel needs nothing, it takes three fifths of the time. Who imports Keras later still gets it.
    """
    hide_keras = not with_keras and "keras" not in sys.modules
    with _without_chatter():
        try:
            if hide_keras:
                sys.modules["keras"] = None  # type: ignore[assignment]  # TensorFlow goes on where Keras cannot be imported
            import tensorflow as tf

            tf.config.list_physical_devices()
        finally:
            if hide_keras:
                del sys.modules["keras"]


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Has what is written to standard error pass through a process of its own, which leaves out the chatter.

    That process outlives this one: where a library aborts, what it said last is still shown. No thread could do that, as none runs
    while a library is loaded. The first process of a container takes all others with it when it ends: there nothing is left out. Nor is
    it where TensorFlow is loaded already, and has threads, which no fork should split.
    """
    if os.getpid() == 1 or "tensorflow" in sys.modules:
        yield
        return
    sys.stderr.flush()
    end, beginning = os.pipe()
    sieve = os.fork()
    if sieve == 0:
        os.setsid()  # Ctrl-C is not for it: it ends with the other process
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
    """Sends every log record from INFO up to a file, and none to the terminal. A full file is renamed, see `rotate`.

    A record that cannot be written, on a full disk, is left out: Python would print a traceback for each.
    """
    logging.raiseExceptions = False
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[_rotating(path)],
        force=True,
    )
    # TensorFlow's logger has a handler of its own; absl sets its logger's level anew from its flag, later.
    logging.getLogger("tensorflow").handlers.clear()
    logging.getLogger("tensorflow").propagate = True
    absl.logging.set_verbosity(absl.logging.INFO)


def rotate(path: Path) -> None:
    """Renames a log file of more than 10 MB to PATH.1, what has that name to PATH.2, and so on; PATH.3 is the last. None need be there.

    Call it while nobody writes to the file.
    """
    if path.is_file() and path.stat().st_size > _LOG_SIZE:
        handler = _rotating(path)
        handler.doRollover()
        handler.close()


def _rotating(path: Path) -> logging.handlers.RotatingFileHandler:
    return logging.handlers.RotatingFileHandler(path, maxBytes=_LOG_SIZE, backupCount=_OLD_LOGS, encoding="utf-8", delay=True)
