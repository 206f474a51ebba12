"""Ten thousand inputs as a stranger could send them, through import, a whole run and the served model.

    uv run python -m benchmarks.hostile [--seed 1]

Expected, and asserted: nothing crashes; what is not used is counted under a reason, none is lost; every good input is kept, no bad one is.
The served model says the same of a picture as the import does. Some ten minutes on 2 cores.
"""

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

import typer
from typer.testing import CliRunner

from benchmarks import hostile_inputs as inputs
from benchmarks.results import record
from components.errors import CaptchaPipelineError
from components.example_proto import Example
from components.features import PARAMS, SPAN, SPLITS, SUMMARY_FILE
from components.pictures import PictureError, inspect_picture
from components.records import canonical_example
from components.serving_dir import versions
from components.sources.span_writer import ShardWriter, new_span, write_manifest
from components.sources.spans import ShardFile, describe, list_spans
from components.tfrecords import Record, read_records
from pipeline.cli import app
from pipeline.config import Config
from pipeline.config_file import load_config
from pipeline.history import latest_complete_run
from pipeline.quiet import load_tensorflow, silence

_TINY: Final = Path(__file__).parents[1] / "configs" / "tiny.yaml"
_PICTURES: Final = {"every format and mode": 3200, "odd": 1000, "cut": 1000, "bits turned": 1500}
_LABELS, _RECORDS, _SHARDS, _A_SHARD, _TABLES = 800, 1000, 200, 5, 500
_LEFT_OUT: Final = re.compile(r"^([\d,]+) left out: (.+?): ", re.MULTILINE)


@dataclass
class Group:
    """What became of the inputs of one kind.

    `span` is the one that they are in; `expected` has by name what must become of an input; `kept` are the names of those that are used;
    `reasons` counts the others.
    """

    title: str
    count: int
    span: str = ""
    expected: dict[str, inputs.Expectation] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)

    def row(self) -> list[str]:
        """Checks that all is as expected, and returns the row of the table."""
        lost = [name for name, it in self.expected.items() if it == "good" and name not in self.kept]
        taken = [name for name, it in self.expected.items() if it == "bad" and name in self.kept]
        assert not lost, f"{self.title}: good and not kept: {lost[:10]}; reasons: {self.reasons}"
        assert not taken, f"{self.title}: bad and kept: {taken[:10]}"
        known = Counter(self.expected.values())
        refused = self.reasons.total()
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in self.reasons.most_common(8))
        return [
            self.title,
            f"{self.count:,}",
            f"{known['good']:,}",
            f"{known['bad']:,}",
            f"{self.count - refused:,}",
            f"{refused:,}",
            reasons,
        ]


def call(config: Sequence[str], *words: str) -> tuple[bool, str]:
    """Runs a command of captcha-pipeline; returns whether it completed, and what it said. What it does not foresee is raised."""
    result = CliRunner().invoke(app, [*words, *config])
    if result.exception and not isinstance(result.exception, SystemExit | CaptchaPipelineError):
        raise result.exception
    refusal = isinstance(result.exception, CaptchaPipelineError)
    return not refusal and result.exit_code in (0, 3), str(result.exception) if refusal else result.output


def options(folder: Path) -> list[str]:
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
    if kind == "odd":
        return inputs.odd(count, rng)
    return inputs.formats_and_modes(count) if kind.startswith("every") else inputs.damaged(count, kind, rng)


def import_pictures(folder: Path, kind: str, made: Sequence[inputs.Hostile]) -> Group:
    """Imports pictures from a folder, the label in each name."""
    group = Group(f"pictures, {kind}", len(made))
    inbox = folder / kind.replace(" ", "-")
    inbox.mkdir()
    for number, picture in enumerate(made):
        name = f"{number % 1000:03}_{number}.{picture.ending}"
        (inbox / name).write_bytes(picture.data)
        group.expected[name] = picture.expected
    return _imported(group, folder, str(inbox), "--pattern", "{label}_*")


def import_labels(folder: Path, rng: random.Random) -> Group:
    """Imports good pictures by a table, whose labels are not all good."""
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


def write_records(folder: Path, rng: random.Random) -> Group:
    """Makes a span of records that are whole, cut, or have bits turned."""
    group = Group("records", _RECORDS)
    making = new_span(folder / "data")
    with making as draft:
        with ShardWriter(draft, "shard-00000-of-00001", "canonical") as writer:
            for number, (name, data, expected) in enumerate(inputs.records(_RECORDS, rng)):
                writer.write(SPLITS[number % len(SPLITS)], data)
                group.expected[name] = expected
        _write_manifest(draft, writer.files)
    group.span = making.span.path.name
    return group


def write_shards(folder: Path, rng: random.Random) -> Group:
    """Makes a span whose files are cut or have bits turned: in the records, or in the gzip stream around them."""
    group = Group(f"records in {_SHARDS} damaged files", _SHARDS * _A_SHARD)
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
            path, damage = draft / writer.files[0].path, inputs.DAMAGES[rng.choice(sorted(inputs.DAMAGES))]
            if shard % 3 == 1:
                path.write_bytes(damage(path.read_bytes(), rng))
            elif shard % 3 == 2:
                path.write_bytes(gzip.compress(damage(gzip.decompress(path.read_bytes()), rng)))
            files += [describe(draft, file.path, file.records) for file in writer.files]
        _write_manifest(draft, files)
    group.span = making.span.path.name
    return group


def _write_manifest(draft: Path, files: list[ShardFile]) -> None:
    write_manifest(draft, layout="canonical", spec=inputs.SPEC, seed=None, source="hostile", params={}, files=files)


def try_tables(folder: Path, rng: random.Random) -> Group:
    """Imports from tables of all kinds, each into a data folder of its own."""
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
            group.kept.add(name)
        else:
            group.reasons[re.sub(r"line \d+|\d+", "…", said.replace(str(table), "").split("\n")[0])[:50]] += 1
    return group


def judge(groups: Sequence[Group], config: Config) -> None:
    """Notes in each group what the newest run kept and refused of its span."""
    run = latest_complete_run(config.metadata_path)
    examples, quarantine = (Path(str(run.artifact_uri("CaptchaExampleGen", name))) for name in ("examples", "quarantine"))
    summary = json.loads((quarantine / SUMMARY_FILE).read_text(encoding="utf-8"))
    by_span = {group.span: group for group in groups}
    for example in _examples(sorted(examples.glob("Split-*/*"))):
        group = by_span[_text(example, SPAN)]
        name = json.loads(_text(example, PARAMS)).get("file", "")
        group.kept.add(name if name in group.expected else f"changed: {name}")
    for example in _examples(sorted(quarantine.glob("*.gz"))):
        by_span[_text(example, "source_file").partition("/")[0]].reasons[_text(example, "reason")] += 1
    for group in groups:
        if lost := group.count - len(group.kept) - group.reasons.total():
            assert lost > 0, group
            group.reasons["lost with the rest of its file"] = lost
    assert summary["total"] == sum(summary["good"].values()) + summary["bad"], summary


def _examples(files: Sequence[Path]) -> Iterator[Example]:
    for item in itertools.chain.from_iterable(map(read_records, files)):
        assert isinstance(item, Record), item
        yield Example.FromString(item.data)


def _text(example: Example, name: str) -> str:
    text: str = example.features.feature[name].bytes_list.value[0].decode()
    return text


def serve(config: Config, made: Sequence[inputs.Hostile]) -> list[str]:
    """Reads all pictures with the served model, and returns the row of the table: it takes those PNGs and JPEGs that the import takes."""
    load_tensorflow(with_keras=False)
    from pipeline.served_model import ServedModel

    model = ServedModel(versions(config.serving_dir)[0].path)
    count, differ = Counter[bool](), Counter[str]()
    for picture, reading in zip(made, model.read(picture.data for picture in made), strict=True):
        try:
            inspect_picture(picture.data, config.captcha, config.data.picture_rules)
            takes = picture.data.startswith((b"\x89PNG", b"\xff\xd8"))
        except PictureError:
            takes = False
        count[reading.valid] += 1
        if reading.valid != takes:
            differ[f"{picture.kind} ({picture.expected})"] += 1
    assert not [kind for kind in differ if "(either)" not in kind], differ
    reasons = "valid is false" + "".join(f"; unlike the import: {kind} {number}" for kind, number in differ.most_common(4))
    return ["pictures, served", f"{len(made):,}", "", "", f"{count[True]:,}", f"{count[False]:,}", reasons]


def main(seed: Annotated[int, typer.Option(help="Of all inputs.")] = 1) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {kind: list(pictures(kind, count, rng)) for kind, count in _PICTURES.items()}
        groups = [write_records(folder, rng), write_shards(folder, rng)]
        groups += [import_pictures(folder, kind, them) for kind, them in made.items()]
        groups.append(import_labels(folder, rng))
        tables = try_tables(folder, rng)
        command = [sys.executable, "-c", "from pipeline.cli import main; main()", "run", *options(folder)]
        subprocess.run(command, check=True)
        config = load_config(_TINY, [option.removeprefix("--set=") for option in options(folder)[2:]])
        judge(groups, config)
        rows = [group.row() for group in (*groups, tables)]
        rows.append(serve(config, list(itertools.chain.from_iterable(made.values()))))
    record(
        "hostile",
        f"{sum(group.count for group in (*groups, tables)):,} hostile inputs through import, a whole run and the served model",
        ["inputs", "number", "good", "bad", "kept", "refused", "reasons"],
        rows,
        [
            "Good and bad are those of which it is known in advance: every good one was kept, no bad one was.",
            f"Nothing crashed, and none is missing: what is not kept has a reason. Seed {seed}.",
        ],
    )


if __name__ == "__main__":
    silence()
    typer.run(main)
