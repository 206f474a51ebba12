"""The export formats, as data. To add one, write a module here and list it in FORMATS.

Modules here import the packages of an extra inside functions, so that the other commands do not need them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pipeline.exporting import onnx_file
from pipeline.exporting.subject import Probabilities, Subject


@dataclass(frozen=True)
class Format:
    """A format of exported models.

    Attributes:
      file: the name of the model's file in the folder of an export.
      write: writes that file.
      opened: opens the file, with the manifest beside it, as users of the format do. The proof of an export reads with the result.
      write_int8: writes the file with 8-bit weights and activations; None if the format has no such variant.
      extra: of captcha-pipeline, with the packages that the functions import.
    """

    file: str
    write: Callable[[Subject, Path], None]
    opened: Callable[[Path], Probabilities]
    write_int8: Callable[[Subject, Path], None] | None = None
    extra: str = "export"


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "onnx": Format("model.onnx", onnx_file.write, onnx_file.opened, onnx_file.write_int8),
    }
)
