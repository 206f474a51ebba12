"""The export formats, as data. To add one, write a module here and list it in FORMATS.

Modules here import the packages of an extra inside functions, so that the other commands do not need them.
"""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from captcha_read.manifest import load_manifest
from pipeline.exporting import html_page, litert_file, onnx_file, openvino_file
from pipeline.exporting.proof import pixel_reader
from pipeline.exporting.subject import PictureReader, Probabilities, Subject


@dataclass(frozen=True)
class Format:
    """A format of exported models.

    Attributes:
      file: the name of the model's file in the folder of an export.
      write: writes that file.
      reader: opens the file, with the manifest beside it, as users of the format do. The proof of an export reads with the result.
      write_int8: writes the file with 8-bit weights and activations; None if the format has no such variant.
      extra: of captcha-pipeline, with the packages that the functions import.
    """

    file: str
    write: Callable[[Subject, Path], None]
    reader: Callable[[Path], AbstractContextManager[PictureReader]]
    write_int8: Callable[[Subject, Path], None] | None = None
    extra: str = "export"


def _by_pixels(opened: Callable[[Path], Probabilities]) -> Callable[[Path], AbstractContextManager[PictureReader]]:
    """Returns the `reader` of a format whose files get pixels. `opened` opens such a file."""
    return lambda path: contextlib.nullcontext(pixel_reader(opened(path), load_manifest(path.parent)))


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "onnx": Format("model.onnx", onnx_file.write, _by_pixels(onnx_file.opened), onnx_file.write_int8),
        "litert": Format("model.tflite", litert_file.write, _by_pixels(litert_file.opened), litert_file.write_int8),
        "openvino": Format("model.xml", openvino_file.write, _by_pixels(openvino_file.opened)),
        "html": Format("reader.html", html_page.write, html_page.reader),
    }
)
