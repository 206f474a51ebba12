"""A deployment over a season: ten spans, some of them faulty, each followed by `captcha-pipeline retrain`.

    uv run python -m benchmarks.season

Span 4 is drawn in another font. Span 6 also has more noise and a darker background. The labels of span 8 are shuffled, and 30 % of the
records of span 9 are broken. The retraining on span 5 is killed during its fit, with SIGKILL. After span 9 the operator excludes 8 and 9.

Expected, and asserted:

- On spans 4 and 6 a model is pushed. It reads the new style within one percentage point of a model trained on that style alone. After at
  most half of the epochs of a cold start, the warm start reads the eval split as well as the cold start at its end, within the standard
  error.
- Span 8 is not blessed, and span 9 stops at the limit of the quarantine. Both leave the serving folder unchanged.
- After the kill the next `retrain` completes.
- On a faultless span a model is pushed, or the production model reads better.
- The production model never reads the golden set below the floor.

About forty minutes on 2 cores.
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
        """Returns the command-line options for this deployment."""
        changes = (f"root={self.folder}/output", f"data.root={self.folder}/data", *changes)
        return ["--config", str(CONFIG), *(word for change in changes for word in ("--set", change))]

    def config(self, *changes: str) -> Config:
        return load_config(CONFIG, self.options(*changes)[3::2])

    def start(self, *words: str, changes: Sequence[str] = ()) -> "subprocess.Popen[str]":
        """Starts `captcha-pipeline` in a new session, with its output in a pipe."""
        # -u: the printed lines show the progress of a fit, so they must not be buffered.
        program = [sys.executable, "-u", "-c", "from pipeline.cli.main import main; main()"]
        return subprocess.Popen([*program, *words, *self.options(*changes)], stdout=subprocess.PIPE, text=True, start_new_session=True)

    def call(self, *words: str, changes: Sequence[str] = (), exit_codes: Sequence[int] = (0,)) -> str:
        """Runs `captcha-pipeline`, and returns its output."""
        process = self.start(*words, changes=changes)
        printed, _ = process.communicate()
        assert process.returncode in exit_codes, f"{words} exited with code {process.returncode}, not {exit_codes}:\n{printed}"
        return printed

    @property
    def served(self) -> list[int]:
        """The pushed versions, the newest first."""
        return [pushed.version for pushed in serving_dir.versions(self.config().serving_dir)]


def rewrite(root: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Replaces the newest span by a copy in which `change` has edited the serialized records of each split."""
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
    """Shuffles the labels among the records."""
    examples = [Example.FromString(data) for data in records]
    labels = [example.features.feature[LABEL].bytes_list.value[0] for example in examples]
    random.Random(1).shuffle(labels)
    for example, label in zip(examples, labels, strict=True):
        example.features.feature[LABEL].bytes_list.value[0] = label
    return [example.SerializeToString() for example in examples]


def break_pictures(records: list[bytes]) -> list[bytes]:
    """Cuts the pictures of a share of the records, _BROKEN_SHARE, in half."""
    examples = [Example.FromString(data) for data in records]
    for example in random.Random(1).sample(examples, round(_BROKEN_SHARE * len(examples))):
        values = example.features.feature[IMAGE].bytes_list.value
        values[0] = values[0][: len(values[0]) // 2]
    return [example.SerializeToString() for example in examples]


def fit_of(config: Config) -> list[dict[str, float]]:
    """Returns the fit history of the newest complete run, one row per epoch."""
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
            raise SystemExit("The retraining ended before its second epoch.")
        os.killpg(process.pid, signal.SIGKILL)


def retrained(root: Root, number: int) -> Retraining:
    """Adds span `number`, retrains the deployment, and returns the outcome."""
    count = FIRST_SPAN if number == 1 else root.config().synth.count
    root.call("data", "synth", "--count", str(count), changes=STYLES[number - 1])
    before = root.served
    if number == POISONED:
        rewrite(root.folder / "data", shuffle_labels)
        root.call("retrain", exit_codes=[NOT_PUSHED])
        assert root.served == before, "A poisoned span must not change the served models."
    elif number == BROKEN:
        rewrite(root.folder / "data", break_pictures)
        root.call("retrain", exit_codes=[1])
        assert root.served == before, "A broken span must not change the served models."
    elif number == KILLED:
        kill_in_fit(root)
        assert root.served == before
        printed = root.call("retrain", exit_codes=_FINE)
        assert "did not finish" in printed, printed
        assert "resuming after epoch 1 of" in printed, printed
    else:
        root.call("retrain", changes=[f"data.exclude=[{POISONED}, {BROKEN}]"] if number > BROKEN else (), exit_codes=_FINE)
    states = {step.state for run in history.runs(root.config().metadata_path) for step in run.steps}
    assert "running" not in states, states
    return retrainings(root.config())[-1]


def accuracy(root: Root, model: Path) -> float:
    """Returns the full-sequence accuracy of a model on the test split of a deployment's data."""
    measured = json.loads(root.call("evaluate", "--json", "--model", str(model)))
    return float(measured["sequence_accuracy"]["value"])


def style_root(folder: Path, style: Sequence[str]) -> Root:
    """Makes a deployment that is trained on many pictures of one style only."""
    root = Root(folder)
    root.call("data", "synth", "--count", str(_STYLE_PICTURES), "--seed", "99", changes=style)
    root.call("run", changes=["evaluator.min_sequence_accuracy=0"])
    return root


def compare_starts(root: Root, folder: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Returns the fit histories on the current spans: of the warm start, which has already run, and of a cold start."""
    cold = Root(folder)
    folder.mkdir()
    (folder / "data").symlink_to(root.folder / "data")
    cold.call("run", changes=["evaluator.min_sequence_accuracy=0"])
    return fit_of(root.config()), fit_of(cold.config())


def main(keep: Annotated[Path | None, typer.Option(help="An empty folder that keeps data and output.")] = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows, starts = season(keep or Path(folder))
    record(
        "season",
        "Ten spans, each followed by `captcha-pipeline retrain`",
        ["span", "content", "drift", "newest span (previous model)", "golden set (previous model)", "decision"],
        rows,
        starts,
    )


def season(folder: Path) -> tuple[list[list[str]], list[str]]:
    """Runs all spans in an empty folder. Returns one row per span, and the notes on warm and cold starts."""
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
    of_the_style = f"{_STYLE_PICTURES:,} additional pictures of the style. On their test split, the pushed model reads"
    starts = f"accuracy on the eval split ({count:,} pictures) per epoch: warm start {curves[0]}; cold start {curves[1]}"
    return [
        f"Span {number}: {of_the_style} {ours:.2%}, and a model trained on their other splits alone reads {theirs:.2%}.",
        f"Span {number}: {starts}. After {reached} epochs the warm start matches the cold start after {len(cold)}, within {by_chance:.2%}.",
    ]


def _row(number: int, outcome: Retraining) -> list[str]:
    style = {PLAIN: "plain", FONT: "another font", NOISE: "more noise, darker background"}[STYLES[number - 1]]
    what = {POISONED: "labels shuffled", BROKEN: "30 % of the records broken", KILLED: f"{style}; killed during the fit"}.get(number, style)
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
