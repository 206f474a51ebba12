"""Checks the records of a shard. The results are examples, quarantined records, a tally and a profile."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apache_beam as beam
from google.protobuf.message import DecodeError

from components.base import features
from components.data.captcha_spec import CaptchaSpec, LabelError
from components.data.drift import Profile
from components.data.example_proto import Example, bytes_example
from components.data.legacy_layout import DataInfo, to_canonical
from components.data.pictures import PictureError, PictureRules, inspect_picture
from components.data.records import RecordError
from components.data.splits import holds, split_key
from components.data.tally import Tally
from components.data.tfrecords import ChangedFileError, Damage, Record, read_records

# The tags of CheckShard's outputs besides the splits.
BAD: Final = "bad"
SUMMARY: Final = "summary"
PROFILE: Final = "profile"
KEYS: Final = "keys"

_CANONICAL: Final = (features.IMAGE, features.LABEL, features.SOURCE, features.PARAMS)
_MAX_DETAIL: Final = 300  # characters; a detail quotes the record, and a label may have megabytes


@dataclass(frozen=True)
class Shard:
    """A file to read.

    Attributes:
      split: the split of its records.
      path: of the file.
      name: the path relative to the data folder.
      records: the number of records in the manifest.
      sha256: the hash of the file in the manifest, hexadecimal.
      source: the source of records in the legacy layout.
      info: the description of the legacy layout; None for the canonical layout.
      share: the share of its records that is used, above 0.
      superseded: the keys of the pictures whose records are left out, because a later span corrects or removes them.
    """

    split: str
    path: str
    name: str
    records: int
    sha256: str
    source: str
    info: DataInfo | None
    share: float = 1.0
    superseded: frozenset[bytes] = frozenset()

    @property
    def span(self) -> str:
        """The name of the span, such as span-000001."""
        return self.name.partition("/")[0]


class Checked(NamedTuple):
    """A good record: the example that CaptchaExampleGen emits (components/base/features.py), and the picture's `split_key`."""

    example: Example
    key: bytes


class Superseded(Exception):
    """A record of a picture that a later span corrects or removes."""


def check_record(data: bytes, shard: Shard, spec: CaptchaSpec, rules: PictureRules) -> Checked:
    """Checks a record and returns its example.

    Raises:
      Superseded: the shard says that the picture is superseded. So a correction also replaces a label that the spec does not allow.
      RecordError: the record cannot be parsed, or a feature is missing or has a wrong type or shape.
      LabelError: the spec does not allow the label.
      PictureError: the picture is refused.
    """
    try:
        example = Example.FromString(data)
    except DecodeError:
        raise RecordError("record_unparseable", "the record is not a tf.Example") from None
    if shard.info is not None:
        example = to_canonical(example, shard.info, spec, shard.source)
    feature = example.features.feature
    image, label_bytes, source, params = (_only_value(feature, name) for name in _CANONICAL)
    picture = inspect_picture(image, spec, rules)
    key = split_key(picture.pixels)
    if key in shard.superseded:
        raise Superseded
    label = spec.canonical(_text(label_bytes, "label_charset", features.LABEL))
    _text(source, "feature_type", features.SOURCE)
    _text(params, "feature_type", features.PARAMS)

    for name in set(feature).difference(_CANONICAL):
        del feature[name]
    feature[features.IMAGE].bytes_list.value[0] = picture.encoded
    feature[features.LABEL].bytes_list.value[0] = label.encode()
    feature[features.CHARACTERS].bytes_list.value.extend(character.encode() for character in label)
    feature[features.WIDTH].int64_list.value.append(picture.width)
    feature[features.HEIGHT].int64_list.value.append(picture.height)
    feature[features.BRIGHTNESS].float_list.value.append(picture.brightness)
    feature[features.CONTRAST].float_list.value.append(picture.contrast)
    feature[features.SHARPNESS].float_list.value.append(picture.sharpness)
    feature[features.DIFFICULTY].bytes_list.value.append(picture.difficulty.encode())
    feature[features.SPAN].bytes_list.value.append(shard.span.encode())
    return Checked(example, key)


def _only_value(feature: Any, name: str) -> bytes:
    stored = feature.get(name)
    kind = stored.WhichOneof("kind") if stored is not None else None
    if kind is None:
        raise RecordError("feature_missing", f"the feature {name} is missing")
    values = getattr(stored, kind).value
    if not values:
        raise RecordError("feature_missing", f"the feature {name} has no value")
    if kind != "bytes_list" or len(values) > 1:
        raise RecordError("feature_type", f"the feature {name} must have one byte string; it has {len(values)} values in a {kind}")
    return values[0]


def _text(value: bytes, reason: str, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RecordError(reason, f"the {name} {value[:40]!r} is not UTF-8") from None


@beam.typehints.with_input_types(Shard)
@beam.typehints.with_output_types(bytes)
class CheckShard(beam.DoFn):
    """Checks shards.

    Emits the good records of a shard under the name of their split, and the bad records under BAD. Emits one element for each shard under
    SUMMARY (its tally, JSON for `summarise`), PROFILE (the profile of its good records, JSON `{span: Profile}`) and KEYS (the concatenated
    split keys of its good records).
    """

    def __init__(self, spec: CaptchaSpec, rules: PictureRules):
        self._spec = spec
        self._rules = rules

    def process(self, shard: Shard, test_keys: bytes = b"", eval_keys: bytes = b"") -> Iterator[Any]:
        """Checks a shard.

        Args:
          shard: the file.
          test_keys: the keys of the test split, from `merge_keys`. A record whose key is among them is left out.
          eval_keys: the keys of the eval split, used like `test_keys`.
        """
        tally, profile, keys, changed = Tally(), Profile(), [], []
        held_out = {"test": test_keys, "eval": eval_keys}
        broken_by, seen = "record_missing", 0
        try:
            for item in read_records(shard.path, shard.sha256):
                seen += 1
                if isinstance(item, Record) and not _is_used(item.data, shard.share):
                    continue
                tally.total += 1
                try:
                    checked = self._check(item, shard)
                except Superseded:
                    tally.add_overlap("superseded", _where(shard, item.index, "a later span corrects or removes the picture"))
                    continue
                except (RecordError, LabelError, PictureError) as error:
                    detail = str(error)[:_MAX_DETAIL]
                    broken_by = error.reason if isinstance(item, Damage) else "record_missing"
                    tally.add_bad(error.reason, 1, _where(shard, item.index, detail))
                    yield beam.pvalue.TaggedOutput(BAD, _quarantined(error.reason, detail, shard.name, item))
                    continue
                if split := next((split for split, there in held_out.items() if holds(there, checked.key)), None):
                    tally.add_overlap(f"also_in_{split}", _where(shard, item.index, f"the {split} split has the same picture"))
                    continue
                tally.good[shard.split] += 1
                profile.add(checked.example)
                keys.append(checked.key)
                yield beam.pvalue.TaggedOutput(shard.split, checked.example.SerializeToString(deterministic=True))
        except ChangedFileError as error:
            changed = [str(error)]
        lost = shard.records - seen
        if lost > 0:
            tally.add_bad(broken_by, lost, _where(shard, seen, f"the file ends after {seen} records; the manifest has {shard.records}"))
            tally.total += lost
        summary = {"span": shard.span, "changed": changed, "tally": tally.to_json()}
        yield beam.pvalue.TaggedOutput(SUMMARY, json.dumps(summary, ensure_ascii=False).encode())
        yield beam.pvalue.TaggedOutput(PROFILE, json.dumps({shard.span: profile.to_json()}, ensure_ascii=False).encode())
        yield beam.pvalue.TaggedOutput(KEYS, b"".join(keys))

    def _check(self, item: Record | Damage, shard: Shard) -> Checked:
        if isinstance(item, Damage):
            raise RecordError(item.reason, item.detail)
        return check_record(item.data, shard, self._spec, self._rules)


def _where(shard: Shard, index: int, detail: str) -> dict[str, Any]:
    return {"file": shard.name, "index": index, "detail": detail}


def _is_used(record: bytes, share: float) -> bool:
    """Returns whether a record is in the used share of its shard. Its content decides, so that every run uses the same records."""
    return share >= 1 or int.from_bytes(hashlib.blake2b(record, digest_size=8).digest(), "big") < share * 2**64


def _quarantined(reason: str, detail: str, file: str, item: Record | Damage) -> bytes:
    texts = {"reason": reason.encode(), "detail": detail.encode(), "source_file": file.encode(), "record": item.data}
    example = bytes_example(texts)
    example.features.feature["index"].int64_list.value.append(item.index)
    return example.SerializeToString(deterministic=True)
