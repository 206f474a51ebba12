"""The legacy layout of a record, from the textbook chapter behind this project: `book` on the command line and in manifests.

`image_raw` has the pixels as raw uint8 bytes, `label_raw` the class ids as int64 bytes, `map_raw` the one-hot map of the label as uint8
bytes. `data_info.csv`, next to the records, describes the three. Like components/data/records.py, this module does not import TensorFlow.
"""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.example_proto import Example, bytes_example
from components.data.records import RecordError, canonical_example, encode_png

IMAGE_RAW: Final = "image_raw"
LABEL_RAW: Final = "label_raw"
MAP_RAW: Final = "map_raw"
LEGACY_SOURCE: Final = "book"


_COLUMNS: Final = ("name", "type", "shape", "isbyte", "length_type", "default")
_MODES: Final = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class FeatureInfo:
    """One row of data_info.csv.

    Attributes:
      name: of the feature.
      dtype: of its values.
      shape: of its values; for `length_type` "var" only the number of dimensions counts.
      isbyte: whether the values are stored as one byte string (little-endian) instead of a list of numbers.
      length_type: "fixed" or "var".
      default: the values to use if a record lacks the feature; None for no default.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    isbyte: bool
    length_type: str
    default: np.ndarray | None = None

    def read(self, example: Any) -> np.ndarray:
        """Returns the feature's values in the declared shape; for `length_type` "var", in one dimension.

        Raises:
          RecordError: `feature_missing`, or `feature_shape` if the number of bytes or values differs from the declared number.
        """
        values = self._stored(example)
        if values is None:
            if self.default is None:
                raise RecordError("feature_missing", f"the feature {self.name} is missing")
            return self.default
        if self.length_type == "var":
            return values
        if values.size != np.prod(self.shape, dtype=np.int64):
            raise RecordError(
                "feature_shape", f"{self.name} has {values.size} values; data_info.csv declares {list(self.shape)} of {self.dtype}"
            )
        return values.reshape(self.shape)

    def _stored(self, example: Any) -> np.ndarray | None:
        feature = example.features.feature
        kind = feature[self.name].WhichOneof("kind") if self.name in feature else None
        stored = getattr(feature[self.name], kind).value if kind else ()
        if not stored:
            return None
        if (kind == "bytes_list") != self.isbyte or (self.isbyte and len(stored) != 1):
            expected = "one byte string" if self.isbyte else "numbers"
            raise RecordError("feature_shape", f"{self.name} has {len(stored)} values in a {kind}; data_info.csv declares {expected}")
        if not self.isbyte:
            return np.array(stored).astype(self.dtype)
        if len(stored[0]) % self.dtype.itemsize:
            raise RecordError("feature_shape", f"{self.name} has {len(stored[0])} bytes, not a whole number of {self.dtype} values")
        return np.frombuffer(stored[0], self.dtype)


@dataclass(frozen=True)
class DataInfo:
    """The contents of data_info.csv, which describes records in the legacy layout."""

    features: tuple[FeatureInfo, ...]

    def __getitem__(self, name: str) -> FeatureInfo:
        return next(feature for feature in self.features if feature.name == name)

    @classmethod
    def for_spec(cls, spec: CaptchaSpec) -> "DataInfo":
        """Returns the description of the examples that `legacy_example` returns."""
        rows = (
            (IMAGE_RAW, "|u1", (spec.height, spec.width, spec.channels)),
            (LABEL_RAW, "<i8", (spec.max_length,)),
            (MAP_RAW, "|u1", (spec.max_length, spec.num_classes)),
        )
        return cls(tuple(FeatureInfo(name, np.dtype(kind), shape, True, "fixed") for name, kind, shape in rows))

    @classmethod
    def load(cls, path: str | Path) -> "DataInfo":
        """Reads data_info.csv. Other columns and features have no effect.

        Raises:
          CaptchaPipelineError: the file cannot be read, lacks a column, or has an invalid row.
        """
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, skipinitialspace=True)
                header = [name.strip() for name in reader.fieldnames or ()]
                reader.fieldnames = header
                rows = [(reader.line_num, {key: (row.get(key) or "").strip() for key in _COLUMNS}) for row in reader]
        except OSError as error:
            remedy = f"This file must describe the records in the columns {','.join(_COLUMNS)}."
            raise CaptchaPipelineError(f"Cannot read {path}: {error.strerror}. {remedy}") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise CaptchaPipelineError(f"{path} is not a CSV file in UTF-8: {error}. Save it as CSV in UTF-8.") from None
        missing = [column for column in _COLUMNS if column not in header]
        if missing:
            raise CaptchaPipelineError(f"{path} lacks the columns {', '.join(missing)}; its first row must be {','.join(_COLUMNS)}.")
        info = cls(tuple(_feature_info(row, f"{path}, line {line}") for line, row in rows))
        info._check(path)
        return info

    def _check(self, path: str | Path) -> None:
        names = [feature.name for feature in self.features]
        for name in (IMAGE_RAW, LABEL_RAW):
            if names.count(name) != 1:
                raise CaptchaPipelineError(f"{path} must have one row for {name}; it has {names.count(name)}.")
            if self[name].dtype.kind not in "iu":
                raise CaptchaPipelineError(f"{path}: {name} is of type {self[name].dtype}; it must be of an integer type, such as uint8.")
        image = self[IMAGE_RAW]
        channels = image.shape[2] if len(image.shape) == 3 else 1
        if image.length_type == "var" or len(image.shape) not in (2, 3) or channels not in _MODES or 0 in image.shape:
            shape = "var" if image.length_type == "var" else list(image.shape)
            raise CaptchaPipelineError(f"{path}: {IMAGE_RAW} has the shape {shape}; it must be fixed, [height, width, channels].")

    def save(self, path: str | Path) -> None:
        """Writes data_info.csv."""
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            for item in self.features:
                default = "" if item.default is None else json.dumps(item.default.tolist())
                writer.writerow((item.name, item.dtype.name, list(item.shape), item.isbyte, item.length_type, default))


def _feature_info(row: Mapping[str, str], where: str) -> FeatureInfo:
    def refuse(column: str, expected: str) -> CaptchaPipelineError:
        return CaptchaPipelineError(f"{where}: {column} is {row[column]!r}; it must be {expected}.")

    kind = row["type"].rpartition(".")[2].lower()  # also accepts tf.uint8 and np.uint8
    if not re.fullmatch(r"u?int(8|16|32|64)|float(16|32|64)", kind):
        raise refuse("type", "a number type, such as uint8 or int64")
    if not re.fullmatch(r"[\[(]?\s*(\d{1,9}\s*,\s*)*(\d{1,9}\s*)?,?\s*[\])]?", row["shape"]):
        raise refuse("shape", "whole numbers, such as [30, 100, 3]")
    if (isbyte := row["isbyte"].lower()) not in ("true", "false", "1", "0", "yes", "no"):
        raise refuse("isbyte", "True or False")
    if row["length_type"].lower() not in ("fixed", "var"):
        raise refuse("length_type", "fixed or var")
    dtype = np.dtype(kind).newbyteorder("<")
    shape = tuple(int(number) for number in re.findall(r"\d+", row["shape"]))
    default = None
    if row["default"].lower() not in ("", "none", "null", "nan"):
        try:
            default = np.array(json.loads(row["default"].replace("(", "[").replace(")", "]"))).astype(dtype)
            default = default if row["length_type"].lower() == "var" else np.broadcast_to(default, shape)
        except (ValueError, TypeError, OverflowError):
            raise refuse("default", "empty, a number, or a list of numbers in the feature's shape") from None
    return FeatureInfo(row["name"], dtype, shape, isbyte in ("true", "1", "yes"), row["length_type"].lower(), default)


def legacy_example(pixels: np.ndarray, label: str, spec: CaptchaSpec, kind: Any = Example) -> Any:
    """Returns an example in the legacy layout, as `DataInfo.for_spec` describes it.

    Args:
      pixels: uint8 [height, width, channels].
      label: a label that the spec allows.
      spec: gives the shape and the class ids; a shorter label is padded with `blank_id`.
      kind: the class of the example.

    Raises:
      LabelError: the spec does not allow the label.
      ValueError: the pixels have a wrong shape or dtype.
    """
    expected = (spec.height, spec.width, spec.channels)
    if pixels.shape != expected or pixels.dtype != np.uint8:
        raise ValueError(f"The pixels are {pixels.dtype} {pixels.shape}, not uint8 {expected}.")
    ids = np.array(spec.encode(label), "<i8")
    one_hot = np.eye(spec.num_classes, dtype=np.uint8)[ids]
    return bytes_example({IMAGE_RAW: pixels.tobytes(), LABEL_RAW: ids.tobytes(), MAP_RAW: one_hot.tobytes()}, kind)


def to_canonical(example: Any, info: DataInfo, spec: CaptchaSpec, source: str = LEGACY_SOURCE) -> Any:
    """Converts an example in the legacy layout to a canonical example of the same class.

    The picture becomes a PNG of unchanged size. The legacy layout does not record the source of an example; `source` gives it.

    Raises:
      RecordError: `feature_missing`, `feature_shape`, `label_length` for too many class ids, `label_charset` for a class id outside the
        charset, or `image_undecodable` for pixel values outside 0 to 255.
    """
    image = encode_png(legacy_picture(example, info))
    return canonical_example(image, legacy_label(example, info, spec), source, {}, type(example))


def legacy_label(example: Any, info: DataInfo, spec: CaptchaSpec) -> str:
    """Returns the text of `label_raw`. Raises RecordError like `to_canonical`."""
    ids = info[LABEL_RAW].read(example).ravel().tolist()
    if len(ids) > spec.max_length:
        raise RecordError("label_length", f"{LABEL_RAW} has {len(ids)} class ids; a label has at most {spec.max_length}")
    for position, class_id in enumerate(ids, start=1):
        if not 0 <= class_id < spec.num_classes:
            raise RecordError(
                "label_charset", f"position {position} has the class id {class_id}; class ids are 0 to {spec.num_classes - 1}"
            )
    return spec.decode(ids)


def legacy_picture(example: Any, info: DataInfo) -> Image.Image:
    """Returns the picture of `image_raw`. Raises RecordError like `to_canonical`."""
    pixels = info[IMAGE_RAW].read(example)
    if pixels.dtype != np.uint8:
        if pixels.min() < 0 or pixels.max() > 255:
            raise RecordError("image_undecodable", f"{IMAGE_RAW} has values from {pixels.min()} to {pixels.max()}, not 0 to 255")
        pixels = pixels.astype(np.uint8)
    height, width, channels = (*pixels.shape, 1)[:3]
    return Image.frombytes(_MODES[channels], (width, height), pixels.tobytes())
