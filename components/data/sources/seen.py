"""What labelled pictures are compared by: within an import, and with those in the spans."""

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

_LONGEST: Final = 256  # characters of a label or a name: far beyond a label that is right
FILE: Final = "file"  # in the params of an imported record: the name of the file that it comes from


@dataclass(frozen=True)
class Seen:
    """A labelled picture, without its pixels.

    Attributes:
      key: the same for the same visible pixels (components/data/splits.py); where a run refuses the picture, for the same bytes.
      look: the perceptual hash (components/data/likeness.py); None where a run refuses the picture, or too little is on it.
      label: as it was given, NFC-normalised.
      name: of the file that it comes from; "" where that is not known.
      size: width and height in pixels; None where a run refuses the picture.
      refusal: why a run refuses the picture: a reason of PictureError; "" where it does not.
    """

    key: bytes
    look: bytes | None
    label: str
    name: str
    size: tuple[int, int] | None = None
    refusal: str = ""


def of_pixels(picture: Image.Image, label: str, name: str) -> Seen:
    """Returns what a picture of mode L or RGB is compared by."""
    return Seen(split_key(picture), look_of(picture), _normalised(label), name, picture.size)


def of_encoded(data: bytes, label: str, name: str, rules: PictureRules) -> Seen:
    """Returns what an encoded picture is compared by."""
    try:
        return of_pixels(visible_picture(data, rules), label, name)
    # Pillow's decoders raise nearly anything on broken input.
    except Exception as error:
        refusal = error.reason if isinstance(error, PictureError) else "image_undecodable"
        return Seen(bytes_key(data), None, _normalised(label), name, refusal=refusal)


def of_legacy(example: Any, info: DataInfo, spec: CaptchaSpec, name: str, rules: PictureRules) -> Seen:
    """Returns what an example in the legacy layout is compared by. Raises RecordError as `components.data.legacy_layout.to_canonical`."""
    return of_pixels(visible_pixels(legacy_picture(example, info), rules.background), legacy_label(example, info, spec), name)


def of_record(data: bytes, info: DataInfo | None, spec: CaptchaSpec, rules: PictureRules) -> Seen | None:
    """Returns what a record of a span is compared by, or None where it is not right.

    Args:
      data: the record.
      info: of the span in the legacy layout; None in the canonical one.
      spec: of the span.
      rules: for pictures.
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
    """Nothing has checked the params yet."""
    with contextlib.suppress(Exception):
        name = str(json.loads(params[0])[FILE])[:_LONGEST]
        name.encode()
        return name
    return ""
