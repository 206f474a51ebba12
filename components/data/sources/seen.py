"""What is needed of a labelled picture to compare it with others, in the same import and in the spans."""

import contextlib
import json
import unicodedata
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError
from PIL import Image

from components.base.features import IMAGE, LABEL, PARAMS
from components.data.captcha_spec import CaptchaSpec
from components.data.example_proto import Example
from components.data.legacy_layout import DataInfo, legacy_label, legacy_picture
from components.data.likeness import look_of
from components.data.pictures import PictureError, PictureRules, visible_picture, visible_pixels
from components.data.records import RecordError
from components.data.splits import bytes_key, split_key

_LONGEST: Final = 256  # characters of a label or a name; valid labels are far shorter
FILE: Final = "file"  # in the params of an imported record: the name of its original file


@dataclass(frozen=True)
class Seen:
    """A labelled picture, without its pixels.

    Attributes:
      key: a hash of the visible pixels (components/data/splits.py); if a run refuses the picture, a hash of the bytes.
      look: the perceptual hash (components/data/likeness.py); None if a run refuses the picture, or if it shows too little.
      label: the given label, NFC-normalised, at most 256 characters.
      name: of the original file; "" if it is not known.
      size: width and height in pixels; None if a run refuses the picture.
      refusal: why a run refuses the picture, a reason of PictureError; "" if no run refuses it.
    """

    key: bytes
    look: bytes | None
    label: str
    name: str
    size: tuple[int, int] | None = None
    refusal: str = ""


def of_pixels(picture: Image.Image, label: str, name: str) -> Seen:
    """Returns what is needed to compare a picture of mode L or RGB."""
    return Seen(split_key(picture), look_of(picture), _normalised(label), name, picture.size)


def of_encoded(data: bytes, label: str, name: str, rules: PictureRules) -> Seen:
    """Returns what is needed to compare an encoded picture. If it cannot be decoded, `refusal` says why."""
    try:
        return of_pixels(visible_picture(data, rules), label, name)
    # Pillow's decoders raise almost any exception on broken input.
    except Exception as error:
        refusal = error.reason if isinstance(error, PictureError) else "image_undecodable"
        return Seen(bytes_key(data), None, _normalised(label), name, refusal=refusal)


def of_legacy(example: Any, info: DataInfo, spec: CaptchaSpec, name: str, rules: PictureRules) -> Seen:
    """Returns what is needed to compare an example in the legacy layout.

    Raises:
      RecordError: as for `to_canonical` in legacy_layout.py.
    """
    return of_pixels(visible_pixels(legacy_picture(example, info), rules.background), legacy_label(example, info, spec), name)


def of_record(data: bytes, info: DataInfo | None, spec: CaptchaSpec, rules: PictureRules) -> Seen | None:
    """Returns what is needed to compare a record of a span, or None if the record is bad.

    Args:
      data: the serialised record.
      info: describes the records of a span in the legacy layout; None for the canonical layout.
      spec: of the span.
      rules: how pictures are decoded.
    """
    try:
        example = Example.FromString(data)
        if info is not None:
            return of_legacy(example, info, spec, "", rules)
        feature = example.features.feature
        image, label = (feature[name].bytes_list.value[0] for name in (IMAGE, LABEL))
        return of_encoded(image, label.decode(), _file(feature[PARAMS].bytes_list.value), rules)
    except (DecodeError, RecordError, IndexError, UnicodeDecodeError):
        return None


def _normalised(label: str) -> str:
    return unicodedata.normalize("NFC", label[:_LONGEST])


def _file(params: Any) -> str:
    """Returns the name of the original file from a record's params, or "". The params are unchecked, so any error is possible."""
    with contextlib.suppress(Exception):
        name = str(json.loads(params[0])[FILE])[:_LONGEST]
        name.encode()
        return name
    return ""
