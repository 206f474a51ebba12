"""A season in the life of a deployment: ten spans, each followed by `captcha-pipeline retrain`, some of them not as they should be.

    uv run python -m benchmarks.season

Span 4 is drawn in another font, 6 with more noise and on a darker background as well; the labels of 8 are shuffled, 30 % of the records
of 9 are broken. The retraining at 5 is killed in its fit, with SIGKILL. After 9 its operator leaves 8 and 9 out.

Expected, and asserted: at 4 and 6 a model is pushed that reads the new style within a point of one that was trained on that style alone,
and the warm start, after at most half of a cold start's steps, reads the eval split as well as the cold start at its end, but for the
standard error; 8 is not blessed, 9 stops at the quarantine's limit, and both leave the serving folder as it was; after the kill the next
`retrain` completes; where nothing is wrong a model is pushed, or the one in production reads better; and what is in production never
reads the golden set below the floor. Some forty minutes on 2 cores.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import matplotlib
import typer

from benchmarks.results import record
from components.base.features import HISTORY_FILE, IMAGE, LABEL, SPLITS
from components.data.example_proto import Example
from components.data.span_writer import ShardWriter, new_span, write_manifest
from components.data.spans import list_spans
from components.data.tfrecords import Record, read_records
from components.evaluation.gate import GOLDEN, NEWEST
from components.serving import serving_dir
from pipeline.cli.terminal import NOT_PUSHED
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.runs import history
from pipeline.runs.outcomes import retrainings
from pipeline.runs.retraining import Retraining

CONFIG: Final = Path(__file__).with_name("season.yaml")
_FONT: Final = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSerif-Bold.ttf")
PLAIN: Final = ()
FONT: Final = (f"synth.fonts=[{_FONT}]",)
NOISE: Final = (*FONT, "synth.noise_dots=16", "synth.background=[200, 225]")
STYLES: Final = (PLAIN, PLAIN, PLAIN, FONT, FONT, NOISE, NOISE, NOISE, NOISE, NOISE)  # of spans 1 to 10
FIRST_SPAN: Final = 10_000  # pictures
KILLED, POISONED, BROKEN = 5, 8, 9
_BROKEN_SHARE: Final = 0.3
_STYLE_PICTURES: Final = 12_000
_A_POINT: Final = 0.01
_FINE: Final = (0, NOT_PUSHED)


@dataclass(frozen=True)
class Root:
    """A deployment: a folder with data and output."""

    folder: Path

    def options(self, *changes: str) -> list[str]:
        changes = (f"root={self.folder}/output", f"data.root={self.folder}/data", *changes)
        return ["--config", str(CONFIG), *(word for change in changes for word in ("--set", change))]

    def config(self, *changes: str) -> Config:
        return load_config(CONFIG, self.options(*changes)[3::2])

    def start(self, *words: str, changes: Sequence[str] = ()) -> "subprocess.Popen[str]":
        # -u: the lines that tell how far a fit is must come at once.
        program = [sys.executable, "-u", "-c", "from pipeline.cli.main import main; main()"]
        return subprocess.Popen([*program, *words, *self.options(*changes)], stdout=subprocess.PIPE, text=True, start_new_session=True)

    def call(self, *words: str, changes: Sequence[str] = (), exit_codes: Sequence[int] = (0,)) -> str:
        """Runs `captcha-pipeline`, and returns what it printed."""
        process = self.start(*words, changes=changes)
        printed, _ = process.communicate()
        assert process.returncode in exit_codes, f"{words} ended with {process.returncode}, not {exit_codes}:\n{printed}"
        return printed

    @property
    def served(self) -> list[int]:
        return [pushed.version for pushed in serving_dir.versions(self.config().serving_dir)]


def rewrite(root: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Puts another span in the place of the newest: the same, but for what `change` makes of the records of each split."""
    old = list_spans(root)[-1]
    with new_span(root) as draft:
        with ShardWriter(draft, "shard-00000-of-00001", "canonical") as writer:
            for split in SPLITS:
                records = [item.data for path in old.files(split) for item in read_records(str(path)) if isinstance(item, Record)]
                for data in change(records):
                    writer.write(split, data)
        manifest = old.manifest
        write_manifest(draft, layout="canonical", spec=manifest.spec, seed=None, source=manifest.source, params={}, files=writer.files)
    made = list_spans(root)[-1]
    aside = old.path.with_name(f"replaced-{old.path.name}")
    old.path.rename(aside)
    made.path.rename(old.path)


def shuffle_labels(records: list[bytes]) -> list[bytes]:
    examples = [Example.FromString(data) for data in records]
    labels = [example.features.feature[LABEL].bytes_list.value[0] for example in examples]
    random.Random(1).shuffle(labels)
    for example, label in zip(examples, labels, strict=True):
        example.features.feature[LABEL].bytes_list.value[0] = label
    return [example.SerializeToString() for example in examples]


def break_pictures(records: list[bytes]) -> list[bytes]:
    examples = [Example.FromString(data) for data in records]
    for example in random.Random(1).sample(examples, round(_BROKEN_SHARE * len(examples))):
        values = example.features.feature[IMAGE].bytes_list.value
        values[0] = values[0][: len(values[0]) // 2]
    return [example.SerializeToString() for example in examples]


def fit_of(config: Config) -> list[dict[str, float]]:
    """Returns the history of the newest complete run's fit, a row an epoch."""
    run = history.latest_complete_run(config.metadata_path)
    return json.loads((Path(str(run.artifact_uri("Trainer", "model_run"))) / HISTORY_FILE).read_text(encoding="utf-8"))


def kill_in_fit(root: Root) -> None:
    """Starts `retrain`, and kills it and all its processes after the first epoch of its fit."""
    with root.start("retrain") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 1/" in line:
                break
        else:
            raise SystemExit("the retraining ended before its second epoch")
        os.killpg(process.pid, signal.SIGKILL)


def retrained(root: Root, number: int) -> Retraining:
    """Adds the span with this number, has the deployment retrained, and returns what came of it."""
    count = FIRST_SPAN if number == 1 else root.config().synth.count
    root.call("data", "synth", "--count", str(count), changes=STYLES[number - 1])
    before = root.served
    if number == POISONED:
        rewrite(root.folder / "data", shuffle_labels)
        root.call("retrain", exit_codes=[NOT_PUSHED])
        assert root.served == before, "a poisoned span must not change what is served"
    elif number == BROKEN:
        rewrite(root.folder / "data", break_pictures)
        root.call("retrain", exit_codes=[1])
        assert root.served == before, "a broken span must not change what is served"
    elif number == KILLED:
        kill_in_fit(root)
        assert root.served == before
        printed = root.call("retrain", exit_codes=_FINE)
        assert "did not come to its end" in printed, printed
        assert "going on after epoch 1 of" in printed, printed
    else:
        root.call("retrain", changes=[f"data.exclude=[{POISONED}, {BROKEN}]"] if number > BROKEN else (), exit_codes=_FINE)
    states = {step.state for run in history.runs(root.config().metadata_path) for step in run.steps}
    assert "running" not in states, states
    return retrainings(root.config())[-1]


def accuracy(root: Root, model: Path) -> float:
    """Returns how a model reads the test split of another deployment's data."""
    measured = json.loads(root.call("evaluate", "--json", "--model", str(model)))
    return float(measured["sequence_accuracy"]["value"])


def style_root(folder: Path, style: Sequence[str]) -> Root:
    """Makes a deployment that has seen this style alone, and a lot of it."""
    root = Root(folder)
    root.call("data", "synth", "--count", str(_STYLE_PICTURES), "--seed", "99", changes=style)
    root.call("run", changes=["evaluator.min_sequence_accuracy=0"])
    return root


def compare_starts(root: Root, folder: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Returns the fits on the spans that are there now: the warm one, which has been, and a cold one."""
    cold = Root(folder)
    folder.mkdir()
    (folder / "data").symlink_to(root.folder / "data")
    cold.call("run", changes=["evaluator.min_sequence_accuracy=0"])
    return fit_of(root.config()), fit_of(cold.config())


def main(keep: Annotated[Path | None, typer.Option(help="An empty folder to leave data and output in.")] = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows, starts = season(keep or Path(folder))
    record(
        "season",
        "Ten spans, each followed by `captcha-pipeline retrain`",
        ["span", "what", "drift", "newest span, in brackets by the model until then", "golden set", "decision"],
        rows,
        starts,
    )


def season(folder: Path) -> tuple[list[list[str]], list[str]]:
    """Runs it in an empty folder; returns a row a span, and what there is to say of warm and cold starts."""
    root = Root(folder / "deployment")
    floor = root.config().evaluator.min_sequence_accuracy
    rows, starts = [], []
    for number in range(1, len(STYLES) + 1):
        outcome = retrained(root, number)
        rows.append(_row(number, outcome))
        print(rows[-1], flush=True)
        changed = number > 1 and STYLES[number - 1] != STYLES[number - 2]
        if number == 1 or changed:
            assert outcome.decision == "pushed", outcome
        if golden := outcome.sets.get(GOLDEN):
            served = golden.candidate if outcome.decision == "pushed" else golden.production
            assert served is not None
            assert served.value >= floor, outcome
        if changed:
            starts += _after_a_change(root, folder, number)
            print(*starts, sep="\n", flush=True)
    return rows, starts


def _after_a_change(root: Root, folder: Path, number: int) -> list[str]:
    style = style_root(folder / f"style-{number}", STYLES[number - 1])
    ours, theirs = (accuracy(style, serving_dir.versions(one.config().serving_dir)[0].path) for one in (root, style))
    assert ours >= theirs - _A_POINT, (ours, theirs)
    warm, cold = compare_starts(root, folder / f"cold-{number}")
    judged = "val_sequence_accuracy"
    goal, count = cold[-1][judged], sum(span.manifest.counts["eval"] for span in list_spans(root.folder / "data"))
    by_chance = (2 * goal * (1 - goal) / count) ** 0.5  # the standard error of the difference of two such shares
    reached = next((epoch for epoch, row in enumerate(warm, start=1) if row[judged] >= goal - by_chance), None)
    assert reached is not None, (warm, cold)
    assert 2 * reached <= len(cold), (warm, cold)
    curves = [", ".join(f"{row[judged]:.2%}" for row in fit) for fit in (warm, cold)]
    of_the_style = f"{_STYLE_PICTURES:,} other pictures of the style are made, and those of their test split read"
    starts = f"the eval split, {count:,} pictures, epoch by epoch: warm {curves[0]}; cold {curves[1]}"
    return [
        f"Span {number}: {of_the_style} to {ours:.2%}; by a model that was trained on the others of them alone, to {theirs:.2%}.",
        f"Span {number}: {starts}. Warm takes {reached} to be where cold is after {len(cold)}, give or take {by_chance:.2%}.",
    ]


def _row(number: int, outcome: Retraining) -> list[str]:
    style = {PLAIN: "plain", FONT: "another font", NOISE: "more noise, darker background"}[STYLES[number - 1]]
    what = {POISONED: "labels shuffled", BROKEN: "30 % of the records broken", KILLED: f"{style}; killed in its fit"}.get(number, style)
    cells = []
    for name in (NEWEST, GOLDEN):
        part = outcome.sets.get(name)
        production = f" ({part.production.value:.2%})" if part and part.production else ""
        cells.append(f"{part.candidate.value:.2%}{production}" if part else "")
    drift = ", ".join(f"{measure} {outcome.drift[measure][0]:.2f}" for measure in outcome.drifted)
    decision = outcome.decision if outcome.decision == "pushed" else "; ".join((outcome.decision, *outcome.why))
    return [str(number), what, drift, *cells, decision]


if __name__ == "__main__":
    typer.run(main)
