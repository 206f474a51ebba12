"""Sends ten thousand inputs, as a stranger could make them, through import, a whole run and the served model.

    uv run python -m benchmarks.hostile [--seed 1]

Expected, and asserted: nothing crashes. Every unused input is counted under a reason, and no input is lost. Every good input is kept, and
no bad input is. The served model accepts the same pictures as the import. About fifteen minutes on 2 cores with other load.
"""

import contextlib
import gzip
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from typer.testing import CliRunner

from benchmarks import hostile_inputs as inputs
from benchmarks.hostile_served import serve
from benchmarks.results import record
from components.base.errors import CaptchaPipelineError
from components.base.features import DATA_INFO, LABEL, PARAMS, SPAN, SPLITS, SUMMARY_FILE
from components.data.example_proto import Example
from components.data.legacy_layout import DataInfo, legacy_example
from components.data.records import canonical_example
from components.data.span_writer import ShardWriter, new_span, write_manifest
from components.data.spans import ShardFile, describe, list_spans
from components.data.tfrecords import Record, read_records
from pipeline.cli.main import app
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.logs import silence
from pipeline.runs.history import latest_complete_run

_TINY: Final = Path(__file__).parents[1] / "configs" / "tiny.yaml"
_PICTURES: Final = {"every format and mode": 3000, "odd": 900, "cut": 900, "bits flipped": 1400, "chunks changed": 500}
_LABELS, _RECORDS, _SHARDS, _LEGACY_FILES, _A_SHARD, _TABLES = 800, 1000, 140, 60, 5, 500
_LEFT_OUT: Final = re.compile(r"^([\d,]+) left out: (.+?)(?:: |:$)", re.MULTILINE)


@dataclass
class Group:
    """The outcome of the inputs of one kind.

    Attributes:
      title: the kind, as the table names it.
      count: number of inputs.
      span: name of the span that contains them.
      uncounted: whether the number of records lost in a broken file is unknown.
      beyond: number of files that are broken after their last record.
      expected: required outcome of each input, by name.
      kept: number of used inputs, by name.
      reasons: number of refused inputs, by reason.
    """

    title: str
    count: int
    span: str = ""
    uncounted: bool = False
    beyond: int = 0
    expected: dict[str, inputs.Expectation] = field(default_factory=dict)
    kept: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def row(self) -> list[str]:
        """Checks that every outcome is as expected, and returns the row of the table."""
        silent = self.count - self.kept.total() - self.reasons.total()
        assert silent >= 0 if self.uncounted else silent == 0, f"{self.title}: {silent} neither kept nor refused. Reasons: {self.reasons}."
        if silent:
            self.reasons["lost with the rest of its file"] = silent
        lost = [name for name, it in self.expected.items() if it == "good" and name not in self.kept]
        taken = [name for name, it in self.expected.items() if it == "bad" and name in self.kept]
        assert not lost, f"{self.title}: good inputs were refused: {lost[:10]}. Reasons: {self.reasons}."
        assert not taken, f"{self.title}: bad inputs were kept: {taken[:10]}."
        known = Counter(self.expected.values())
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in self.reasons.most_common(8))
        return [
            self.title,
            f"{self.count:,}",
            f"{known['good']:,}",
            f"{known['bad']:,}",
            f"{self.kept.total():,}",
            f"{self.reasons.total():,}",
            reasons,
        ]


def call(config: Sequence[str], *words: str) -> tuple[bool, str]:
    """Runs a captcha-pipeline command. Returns whether it completed, and its output or error. Raises unexpected exceptions."""
    result = CliRunner().invoke(app, [*words, *config])
    if result.exception and not isinstance(result.exception, SystemExit | CaptchaPipelineError):
        raise result.exception
    refusal = isinstance(result.exception, CaptchaPipelineError)
    return not refusal and result.exit_code in (0, 3), str(result.exception) if refusal else result.output


def options(folder: Path) -> list[str]:
    """Returns the command-line options for data and output in a folder."""
    spec = inputs.SPEC.model_dump(mode="json", exclude={"channels"})
    changes = {
        "root": str(folder / "output"),
        "data.root": str(folder / "data"),
        "captcha": json.dumps(spec, ensure_ascii=False),
        "data.max_bad_fraction": "1",
        "data.max_pixels": str(inputs.MAX_PIXELS),
        "trainer.epochs": "1",
        "evaluator.min_sequence_accuracy": "0",
    }
    return ["--config", str(_TINY), *(f"--set={key}={value}" for key, value in changes.items())]


def pictures(kind: str, count: int, rng: random.Random) -> Iterator[inputs.Hostile]:
    """Yields pictures of a kind of _PICTURES."""
    if kind == "odd":
        return inputs.odd(count, rng)
    return inputs.formats_and_modes(count) if kind == "every format and mode" else inputs.damaged(count, kind, rng)


def import_pictures(folder: Path, kind: str, made: Sequence[inputs.Hostile]) -> Group:
    """Imports pictures from a folder. Each file name contains the label."""
    group = Group(f"pictures, {kind}", len(made))
    inbox = folder / kind.replace(" ", "-")
    inbox.mkdir()
    for number, picture in enumerate(made):
        name = f"{number % 1000:03}_{number}.{picture.ending}"
        (inbox / name).write_bytes(picture.data)
        group.expected[name] = picture.expected
    return _imported(group, folder, str(inbox), "--pattern", "{label}_*")


def import_labels(folder: Path, rng: random.Random) -> Group:
    """Imports good pictures from a table with good and bad labels."""
    group = Group("labels of any script", _LABELS)
    place = folder / "labels"
    place.mkdir()
    rows = []
    for number, (label, expected) in enumerate(inputs.labels(_LABELS, rng)):
        name = f"label-{number}.png"
        (place / name).write_bytes(inputs.encoded(inputs.noise(400_000 + number), "PNG"))
        rows.append(json.dumps({"path": name, "label": label}))
        group.expected[name] = expected
    (place / "labels.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return _imported(group, folder, str(place / "labels.jsonl"))


def _imported(group: Group, folder: Path, *words: str) -> Group:
    done, said = call(options(folder), "data", "import", *words)
    assert done, said
    group.reasons.update({why: int(count.replace(",", "")) for count, why in _LEFT_OUT.findall(said)})
    group.span = list_spans(folder / "data")[-1].path.name
    return group


def write_records(folder: Path, made: Sequence[tuple[str, bytes, inputs.Expectation]]) -> Group:
    """Writes a span of records that are whole, cut, or have flipped bits."""
    group = Group("records", len(made))
    making = new_span(folder / "data")
    with making as draft:
        with ShardWriter(draft, "shard-00000-of-00001", "canonical") as writer:
            for number, (name, data, expected) in enumerate(made):
                writer.write(SPLITS[number % len(SPLITS)], data)
                group.expected[name] = expected
        _write_manifest(draft, writer.files)
    group.span = making.span.path.name
    return group


def write_shards(folder: Path, rng: random.Random) -> Group:
    """Writes a span whose files are cut or have flipped bits: in the records, or in the gzip stream around them."""
    group = Group(f"records in {_SHARDS} files, two thirds damaged", _SHARDS * _A_SHARD)
    making = new_span(folder / "data")
    with making as draft:
        files: list[ShardFile] = []
        for shard in range(_SHARDS):
            with ShardWriter(draft, f"shard-{shard:05}-of-{_SHARDS:05}", "canonical") as writer:
                for number in range(_A_SHARD):
                    name = f"shard-{shard}-{number}"
                    picture = inputs.encoded(inputs.noise(500_000 + shard * _A_SHARD + number), "PNG")
                    writer.write(SPLITS[0], canonical_example(picture, str(number), "shards", {"file": name}).SerializeToString())
                    group.expected[name] = "either" if shard % 3 else "good"
            _damage_file(draft / writer.files[0].path, shard, rng)
            files += [describe(draft, file.path, file.records) for file in writer.files]
        _write_manifest(draft, files)
    group.span = making.span.path.name
    return group


def import_legacy_files(folder: Path, rng: random.Random) -> Group:
    """Imports files in the legacy layout that are cut or have flipped bits."""
    group = Group(f"records in {_LEGACY_FILES} files in the legacy layout, two thirds damaged", _LEGACY_FILES * _A_SHARD, uncounted=True)
    place = folder / "book"
    place.mkdir()
    DataInfo.for_spec(inputs.SPEC).save(place / DATA_INFO)
    for file in range(_LEGACY_FILES):
        with ShardWriter(place, f"file-{file}", "book") as writer:
            for number in range(file * _A_SHARD, (file + 1) * _A_SHARD):
                label = f"{number:06}"
                writer.write(SPLITS[0], legacy_example(np.asarray(inputs.noise(600_000 + number)), label, inputs.SPEC).SerializeToString())
                group.expected[label] = "either" if file % 3 else "good"
        _damage_file(place / writer.files[0].path, file, rng)
    return _imported(group, folder, str(place))


def _damage_file(path: Path, number: int, rng: random.Random) -> None:
    """Damages two of three files: one in its gzip stream, one in the records inside it."""
    damage = inputs.DAMAGES[rng.choice(sorted(inputs.DAMAGES))]
    if number % 3 == 1:
        path.write_bytes(damage(path.read_bytes(), rng))
    elif number % 3 == 2:
        path.write_bytes(gzip.compress(damage(gzip.decompress(path.read_bytes()), rng)))


def _write_manifest(draft: Path, files: list[ShardFile]) -> None:
    write_manifest(draft, layout="canonical", spec=inputs.SPEC, seed=None, source="hostile", params={}, files=files)


def try_tables(folder: Path, rng: random.Random) -> Group:
    """Imports from tables of all kinds, each into its own data folder."""
    group = Group("tables, CSV and JSONL", _TABLES)
    for number, (ending, content, expected) in enumerate(inputs.tables(_TABLES, "picture.png", rng)):
        place = folder / f"table-{number}"
        place.mkdir()
        (place / "picture.png").write_bytes(inputs.encoded(inputs.noise(number), "PNG"))
        table = place / f"table.{ending}"
        table.write_bytes(content)
        name = f"{number}: {content[:60]!r}"
        group.expected[name] = expected
        done, said = call(options(place), "data", "import", str(table))
        if done and list_spans(place / "data"):
            group.kept[name] += 1
        else:
            reason = re.split(r"\n|\. | such as", re.sub(r"line \d+|(?<!-)\b\d[\d,]*", "…", said.replace(str(table), "")))[0]
            group.reasons[reason.strip(" ,:.…")] += 1
    return group


def judge(groups: Sequence[Group], config: Config) -> None:
    """Adds to each group the records of its span that the newest run kept and refused."""
    run = latest_complete_run(config.metadata_path)
    examples, quarantine = (Path(str(run.artifact_uri("CaptchaExampleGen", name))) for name in ("examples", "quarantine"))
    spans = json.loads((quarantine / SUMMARY_FILE).read_text(encoding="utf-8"))["spans"]
    by_span = {group.span: group for group in groups}
    for example in _examples(sorted(examples.glob("Split-*/*"))):
        group = by_span[_text(example, SPAN)]
        name = _name(example)
        group.kept[name if name in group.expected else f"changed: {name}"] += 1
    for group in groups:
        for counted in (spans[group.span]["reasons"], spans[group.span]["overlap"]):
            group.reasons.update({reason: entry["count"] for reason, entry in counted.items()})
    # A file whose gzip stream is broken after the last record has one quarantine entry more than refused records.
    records = {f"{span.path.name}/{file.path}": file.records for span in list_spans(config.data.root) for file in span.manifest.files}
    for example in _examples(sorted(quarantine.glob("*.gz"))):
        file = _text(example, "source_file")
        if example.features.feature["index"].int64_list.value[0] >= records[file]:
            group = by_span[file.partition("/")[0]]
            group.reasons[_text(example, "reason")] -= 1
            group.beyond += 1


def _examples(paths: Sequence[Path]) -> Iterator[Example]:
    for item in itertools.chain.from_iterable(map(read_records, paths)):
        assert isinstance(item, Record), item
        yield Example.FromString(item.data)


def _name(example: Example) -> str:
    """Returns the name of a record's file, or its label if the name is missing: in the legacy layout, or after bit flips."""
    with contextlib.suppress(ValueError, AttributeError):
        if name := json.loads(_text(example, PARAMS)).get("file"):
            return str(name)
    return _text(example, LABEL)


def _text(example: Example, name: str) -> str:
    text: str = example.features.feature[name].bytes_list.value[0].decode()
    return text


def main(seed: Annotated[int, typer.Option(help="Seed of all inputs.")] = 1) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {kind: list(pictures(kind, count, rng)) for kind, count in _PICTURES.items()}
        records = list(inputs.records(_RECORDS, rng))
        groups = [write_records(folder, records), write_shards(folder, rng), import_legacy_files(folder, rng)]
        groups += [import_pictures(folder, kind, them) for kind, them in made.items()]
        groups.append(import_labels(folder, rng))
        tables = try_tables(folder, rng)
        command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "run", *options(folder)]
        subprocess.run(command, check=True)
        config = load_config(_TINY, [option.removeprefix("--set=") for option in options(folder)[2:]])
        judge(groups, config)
        rows = [group.row() for group in (*groups, tables)]
        rows += serve(config, list(itertools.chain.from_iterable(made.values())), records)
    record(
        "hostile",
        f"{sum(group.count for group in (*groups, tables)):,} hostile inputs through import, a whole run and the served model",
        ["inputs", "number", "good", "bad", "kept", "refused", "reasons"],
        rows,
        [
            "Good and bad inputs have an outcome that is known in advance. Every good input was kept, and no bad input was.",
            f"Nothing crashed, and no input is missing: every refused input has a reason. Seed {seed}.",
            f"The quarantine also names {sum(group.beyond for group in groups)} files that are broken after their last record.",
            "The served model accepts every PNG and JPEG that the import accepts. It also reads some damaged ones that the import refuses.",
        ],
    )


if __name__ == "__main__":
    silence()
    typer.run(main)
