"""Checks records: a shard goes in, examples, quarantined records, a tally and a profile come out."""

import collections
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
from google.protobuf.message import DecodeError

from components import features
from components.captcha import CaptchaSpec, LabelError
from components.drift import Profile
from components.example_proto import Example, bytes_example
from components.pictures import PictureError, PictureRules, inspect_picture
from components.records import DataInfo, RecordError, to_canonical
from components.tfrecords import Damage, Record, read_records

# The tags of what CheckShard emits besides the splits.
BAD: Final = "bad"
SUMMARY: Final = "summary"
PROFILE: Final = "profile"

_CANONICAL: Final = (features.IMAGE, features.LABEL, features.SOURCE, features.PARAMS)
_EXAMPLES_PER_REASON: Final = 3
_MAX_DETAIL: Final = 300  # characters: a detail quotes the record, whose label may have megabytes


@dataclass(frozen=True)
class Shard:
    """A file to read.

    Attributes:
      name: relative to the data folder.
      records: how many the manifest says it holds.
      info: describes the book's layout, None for a canonical one.
      share: of its records that is used, above 0.
    """

    split: str
    path: str
    name: str
    records: int
    source: str
    info: DataInfo | None
    share: float = 1.0

    @property
    def span(self) -> str:
        """The name of its span, such as span-000001."""
        return self.name.partition("/")[0]


def check_record(data: bytes, shard: Shard, spec: CaptchaSpec, rules: PictureRules) -> Example:
    """Returns the tf.Example that CaptchaExampleGen emits for a record; components/features.py describes it.

    Raises:
      RecordError: the record cannot be parsed, or a feature is missing or of a wrong type or shape.
      LabelError: the spec does not allow the label.
      PictureError: the picture is not used.
    """
    try:
        example = Example.FromString(data)
    except DecodeError:
        raise RecordError("record_unparseable", "the record is not a tf.Example") from None
    if shard.info is not None:
        example = to_canonical(example, shard.info, spec, shard.source)
    feature = example.features.feature
    image, label_bytes, source, params = (_only_value(feature, name) for name in _CANONICAL)
    label = spec.canonical(_text(label_bytes, "label_charset", features.LABEL))
    _text(source, "feature_type", features.SOURCE)
    _text(params, "feature_type", features.PARAMS)
    picture = inspect_picture(image, spec, rules)

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
    return example


def _only_value(feature: Any, name: str) -> bytes:
    stored = feature.get(name)
    kind = stored.WhichOneof("kind") if stored is not None else None
    if kind is None:
        raise RecordError("feature_missing", f"the feature {name} is missing")
    values = getattr(stored, kind).value
    if not values:
        raise RecordError("feature_missing", f"the feature {name} has no value")
    if kind != "bytes_list" or len(values) > 1:
        raise RecordError("feature_type", f"the feature {name} must hold one byte string; it holds {len(values)} in a {kind}")
    return values[0]


def _text(value: bytes, reason: str, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RecordError(reason, f"the {name} {value[:40]!r} is not UTF-8") from None


class Tally:
    """Counts the records of one or more shards, in the form of the quarantine's summary."""

    def __init__(self) -> None:
        self.total = 0
        self.good: collections.Counter[str] = collections.Counter()
        self.reasons: dict[str, dict[str, Any]] = {}

    def add_bad(self, reason: str, count: int, examples: list[dict[str, Any]]) -> None:
        entry = self.reasons.setdefault(reason, {"count": 0, "examples": []})
        entry["count"] += count
        entry["examples"] = (entry["examples"] + examples)[:_EXAMPLES_PER_REASON]

    def to_json(self) -> bytes:
        reasons = dict(sorted(self.reasons.items(), key=lambda item: (-item[1]["count"], item[0])))
        bad = sum(entry["count"] for entry in reasons.values())
        return json.dumps({"total": self.total, "bad": bad, "good": self.good, "reasons": reasons}, indent=1, ensure_ascii=False).encode()

    @classmethod
    def merge(cls, parts: list[bytes]) -> bytes:
        """Merges what `to_json` returned."""
        merged = cls()
        for part in sorted(parts):
            tally = json.loads(part)
            merged.total += tally["total"]
            merged.good.update(tally["good"])
            for reason, entry in tally["reasons"].items():
                merged.add_bad(reason, entry["count"], entry["examples"])
        return merged.to_json()


@beam.typehints.with_input_types(Shard)
@beam.typehints.with_output_types(bytes)
class CheckShard(beam.DoFn):
    """Emits a shard's good records under the name of their split, its bad ones under BAD, one tally under SUMMARY and one profile of the
    good ones under PROFILE: JSON, `{span: Profile}`.
    """

    def __init__(self, spec: CaptchaSpec, rules: PictureRules):
        self._spec = spec
        self._rules = rules

    def process(self, shard: Shard) -> Iterator[Any]:
        tally, profile = Tally(), Profile()
        broken_by, seen = "record_missing", 0
        for item in read_records(shard.path):
            seen += 1
            if isinstance(item, Record) and not _is_used(item.data, shard.share):
                continue
            tally.total += 1
            try:
                checked = self._check(item, shard)
            except (RecordError, LabelError, PictureError) as error:
                detail = str(error)[:_MAX_DETAIL]
                broken_by = error.reason if isinstance(item, Damage) else "record_missing"
                tally.add_bad(error.reason, 1, [{"file": shard.name, "index": item.index, "detail": detail}])
                yield beam.pvalue.TaggedOutput(BAD, _quarantined(error.reason, detail, shard.name, item))
            else:
                tally.good[shard.split] += 1
                profile.add(checked)
                yield beam.pvalue.TaggedOutput(shard.split, checked.SerializeToString(deterministic=True))
        lost = shard.records - seen
        if lost > 0:
            detail = f"the file ends after {seen} records; the manifest says {shard.records}"
            tally.add_bad(broken_by, lost, [{"file": shard.name, "index": seen, "detail": detail}])
            tally.total += lost
        yield beam.pvalue.TaggedOutput(SUMMARY, tally.to_json())
        yield beam.pvalue.TaggedOutput(PROFILE, json.dumps({shard.span: profile.to_json()}, ensure_ascii=False).encode())

    def _check(self, item: Record | Damage, shard: Shard) -> Example:
        if isinstance(item, Damage):
            raise RecordError(item.reason, item.detail)
        return check_record(item.data, shard, self._spec, self._rules)


def _is_used(record: bytes, share: float) -> bool:
    """Whether a record is among the share of its shard that is used: by its content, so that it is so in every run."""
    return share >= 1 or int.from_bytes(hashlib.blake2b(record, digest_size=8).digest(), "big") < share * 2**64


def _quarantined(reason: str, detail: str, file: str, item: Record | Damage) -> bytes:
    texts = {"reason": reason.encode(), "detail": detail.encode(), "source_file": file.encode(), "record": item.data}
    example = bytes_example(texts)
    example.features.feature["index"].int64_list.value.append(item.index)
    return example.SerializeToString(deterministic=True)
