"""The command `captcha-read`. It loads the libraries after it has checked its arguments.

Exit codes: 0 if all files were read, 1 if not, 2 for wrong usage.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from captcha_read.manifest import ExportError

# A whole file is read before its header is checked. An uncompressed picture with the default pixel limit has 16 MiB.
MAX_FILE_BYTES: Final = 64 * 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads picture files and prints their texts. Returns the exit code."""
    parser = argparse.ArgumentParser("captcha-read", description="Read picture files with a model that captcha-pipeline exported.")
    parser.add_argument("model", type=Path, metavar="model.onnx", help="the exported model; manifest.json must be beside it")
    parser.add_argument("pictures", type=Path, nargs="+", metavar="picture", help="a PNG or JPEG")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    chosen = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names and texts that the terminal cannot show
    failed = False
    try:
        for answer in answers(chosen.model, chosen.pictures):
            failed |= answer["error"] is not None
            print(json.dumps(answer, ensure_ascii=False) if chosen.json else _line(answer))
    except ExportError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return int(failed)


def answers(model: Path, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yields the answer for each file, in order: file, text, confidence, position_confidence and error, as `captcha-pipeline predict`.

    Text and confidence are None if the file could not be read, and the error is None if it was.

    Raises:
      ExportError: the model cannot be used.
    """
    from captcha_read.model import Model

    loaded = Model(model)
    unopened: dict[int, str] = {}
    for index, reading in enumerate(loaded.read(_contents(files, unopened))):
        error = unopened.get(index) or reading.error or None
        yield {
            "file": os.fsencode(files[index]).decode(errors="backslashreplace"),
            "text": None if error else reading.text,
            "confidence": None if error else reading.confidence,
            "position_confidence": reading.position_confidence,
            "error": error,
        }


def _contents(files: Sequence[Path], unopened: dict[int, str]) -> Iterator[bytes]:
    """Yields the bytes of each file. If a file cannot be opened or is too large, yields b"" and notes why in `unopened`."""
    for index, path in enumerate(files):
        data = b""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            unopened[index] = error.strerror or str(error)
        if len(data) > MAX_FILE_BYTES:
            unopened[index], data = f"the file is larger than {MAX_FILE_BYTES >> 20} MiB", b""
        yield data


def _line(answer: dict[str, Any]) -> str:
    if answer["error"]:
        return f"{answer['file']}\tnot read\t{answer['error']}"
    return f"{answer['file']}\t{answer['text']}\t{answer['confidence']:.4f}"


if __name__ == "__main__":
    sys.exit(main())
