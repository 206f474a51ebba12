"""Spans with given records, and CaptchaExampleGen run on them with Beam."""

import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tensorflow as tf
from PIL import Image
from tfx.types import artifact_utils, standard_artifacts

from components.base.features import CORRECTIONS, MANIFEST, SPLITS
from components.data.captcha_spec import CaptchaSpec
from components.data.pictures import PictureRules
from components.data.records import canonical_example, encode_png
from components.data.span_writer import ShardWriter, new_span, write_manifest
from components.data.spans import Layout, Span, describe
from components.data.splits import split_key
from components.example_gen import Executor, Quarantine
from pipeline.config.engines import Engine

SPEC = CaptchaSpec(charset="ABCDEF", length=4, width=24, height=12)
RULES = PictureRules(max_pixels=10_000, background=(255, 255, 255), wrong_size="refuse")


def encoded_picture(seed: int, spec: CaptchaSpec = SPEC) -> bytes:
    image = Image.new("RGB", (spec.width, spec.height), (seed % 256, seed // 256 % 256, 128))
    image.putpixel((0, 0), (255, 255, 255))
    return encode_png(image)


def key_of(seed: int, spec: CaptchaSpec = SPEC) -> str:
    """Returns the hexadecimal key of `encoded_picture`."""
    return split_key(Image.open(io.BytesIO(encoded_picture(seed, spec)))).hex()


def record(seed: int, **changed: bytes | None) -> bytes:
    """Returns a good record with the given features changed; None leaves a feature out."""
    example = canonical_example(encoded_picture(seed), "ABCD", "test", {"seed": seed})
    for name, value in changed.items():
        if value is None:
            del example.features.feature[name]
        else:
            example.features.feature[name].bytes_list.value[:] = [value]
    return example.SerializeToString()


def make_span(
    root: Path,
    records: dict[str, list[bytes]],
    *,
    spec: CaptchaSpec = SPEC,
    layout: Layout = "canonical",
    prepare: Callable[[Path], None] = lambda draft: None,
    supersedes: Sequence[str] = (),
    source: str = "test",
) -> Span:
    """Makes a span with one shard for each split; `prepare` may write further files into it."""
    making = new_span(root)
    with making as draft:
        with ShardWriter(draft, "shard-00000-of-00001", layout) as writer:
            for split in SPLITS:
                for data in records.get(split, []):
                    writer.write(split, data)
        prepare(draft)
        about: dict[str, Any] = {
            "layout": layout,
            "spec": spec,
            "seed": None,
            "source": CORRECTIONS if supersedes else source,
            "params": {},
        }
        write_manifest(draft, **about, files=writer.files, supersedes=supersedes)
    return making.span


def damage(span: Span, split: str, change: Callable[[bytearray], Any]) -> None:
    """Changes the uncompressed content of a split's first shard, and updates the manifest to match."""
    path = span.files(split)[0]
    content = bytearray(gzip.decompress(path.read_bytes()))
    change(content)
    path.write_bytes(gzip.compress(content))
    say_what_lies_in(span)


def say_what_lies_in(span: Span) -> None:
    """Writes the manifest of a span again, with the current hashes of its files."""
    files = tuple(describe(span.path, file.path, file.records) for file in span.manifest.files)
    (span.path / MANIFEST).write_text(span.manifest.model_copy(update={"files": files}).model_dump_json())


class Outcome:
    """The output of a run in the folder `path`, which must be unused."""

    def __init__(self, path: Path):
        self.examples = standard_artifacts.Examples()
        self.examples.uri = str(path / "examples")
        self.quarantine = Quarantine()
        self.quarantine.uri = str(path / "quarantine")
        self.statistics = standard_artifacts.ExampleStatistics()
        self.statistics.uri = str(path / "profiles")
        self.rejects_dir = path / "rejects"

    def files(self, split: str) -> list[Path]:
        return sorted(Path(artifact_utils.get_split_uri([self.examples], split)).iterdir())

    def split(self, split: str) -> list[tf.train.Example]:
        return parse(self.files(split))

    @property
    def bad(self) -> list[tf.train.Example]:
        return parse(sorted(Path(self.quarantine.uri).glob("*.gz")), "GZIP")

    @property
    def profiles(self) -> dict[str, dict[str, dict[str, int]]]:
        return json.loads(Path(self.statistics.uri, "profiles.json").read_text())

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(Path(self.quarantine.uri, "summary.json").read_text())


def run(
    outcome: Outcome,
    data_root: Path,
    *,
    window: int = 0,
    exclude: Sequence[int] = (),
    golden: int = 0,
    half_life: float = 0.0,
    spec: CaptchaSpec = SPEC,
    rules: PictureRules = RULES,
    max_bad: float = 1.0,
    as_of: str = "",
    engine: Engine = Engine(),
) -> Outcome:
    executor = Executor(Executor.Context(beam_pipeline_args=engine.beam_args()))
    properties = {
        "as_of": as_of,
        "data_root": str(data_root),
        "window": window,
        "exclude": json.dumps(list(exclude)),
        "golden": golden,
        "half_life": half_life,
        "spec": spec.model_dump_json(),
        "rules": json.dumps(asdict(rules)),
        "max_bad_fraction": max_bad,
        "quarantine_dir": str(outcome.rejects_dir),
    }
    outputs = {"examples": [outcome.examples], "quarantine": [outcome.quarantine], "profiles": [outcome.statistics]}
    executor.Do({}, outputs, properties)
    return outcome


def parse(files: list[Path], compression: str = "") -> list[tf.train.Example]:
    dataset = tf.data.TFRecordDataset([str(file) for file in files], compression)
    return [tf.train.Example.FromString(data) for data in dataset.as_numpy_iterator()]


def value(example: tf.train.Example, name: str) -> Any:
    feature = example.features.feature[name]
    (found,) = getattr(feature, feature.WhichOneof("kind")).value
    return found


GOOD = {
    split: [record(first + i) for i in range(count)] for split, count, first in (("train", 6, 0), ("eval", 2, 60_000), ("test", 2, 61_000))
}
