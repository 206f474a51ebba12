"""From wrong labels to the audit, its page, the correction and the next run, on tiny data with real TFX."""

import csv
import json
from pathlib import Path

import pytest

from components.base.features import IMAGE, LABEL, SPLITS
from components.data.example_proto import Example
from components.data.pictures import visible_picture
from components.data.splits import split_key
from components.data.tfrecords import read_records
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.reporting.results import result_of
from pipeline.runs import history
from tests.support.command import call
from tests.support.paths import tiny_options
from tests.support.recorded_run import last_run

pytestmark = [pytest.mark.slow, pytest.mark.long]

COUNT = 2400
WRONG = 48
Truth = dict[str, tuple[str, str]]  # the split and the label of each picture, by its key


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("audit")
    # Pictures that the models nearly always read right: if they misread many, right labels look wrong too.
    return [*tiny_options(root), "--set", f"synth.count={COUNT}", "--set", "synth.noise_dots=0"]


@pytest.fixture(scope="module")
def config(options: list[str]) -> Config:
    return load_config(options[1], options[3::2])


def labels_of(config: Config, run: history.RunRecord) -> Truth:
    """Returns the split and the label of each picture that a run has read, by its key."""
    found = {}
    for split in SPLITS:
        for path in sorted(Path(str(run.artifact_uri("CaptchaExampleGen", "examples")), f"Split-{split}").glob("*-of-*")):
            for item in read_records(path):
                feature = Example.FromString(item.data).features.feature
                picture = visible_picture(feature[IMAGE].bytes_list.value[0], config.data.picture_rules)
                found[split_key(picture).hex()] = split, feature[LABEL].bytes_list.value[0].decode()
    return found


def table(path: Path, rows: dict[str, str]) -> str:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("key", "label"), *rows.items()])
    return str(path)


@pytest.fixture(scope="module")
def truth(options: list[str], config: Config) -> Truth:
    """Draws pictures, and returns their splits and labels, as a run reads them."""
    call("data", "synth", *options)
    call("run", *options)
    return labels_of(config, last_run(config))


def test_the_plan_names_the_labels_that_an_accuracy_needs(truth: Truth, options: list[str]) -> None:
    printed = call("plan", *options, "--set", "trainer.epochs=2")
    assert f"{COUNT:,} (now)" in printed
    assert f"{2 * COUNT:,} (twice as many)" in printed
    for goal in ("90 %", "95 %", "98 %", "99 %"):
        assert f"For {goal}: " in printed


@pytest.fixture(scope="module")
def wrong(truth: Truth, options: list[str], config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Gives some pictures of each split a wrong label, runs, and returns their right labels by key."""
    keys = [key for split in SPLITS for key in [key for key, (its, _) in truth.items() if its == split][: WRONG // 3]]
    right = {key: truth[key][1] for key in keys}
    worse = {key: f"{(int(label[0]) + 1) % 3}{label[1]}" for key, label in right.items()}
    call("data", "correct", table(tmp_path_factory.mktemp("wrong") / "wrong.csv", worse), *options)
    call("run", *options)
    run = last_run(config)
    assert run.spans == (1, 2)
    read = labels_of(config, run)
    assert read == truth | {key: (truth[key][0], label) for key, label in worse.items()}, "each picture is read once, in its split"
    return right


@pytest.fixture(scope="module")
def audited(wrong: dict[str, str], options: list[str], config: Config) -> list[dict[str, object]]:
    printed = call("audit", *options, "--folds", "3")
    rows = [json.loads(line) for line in Path(config.audit_dir, "suspects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert f"{len(rows)} of {COUNT:,} labels are probably wrong." in printed
    assert f"Page: {config.audit_dir}" in printed
    return rows


def test_the_audit_finds_the_wrong_labels_in_every_split(wrong: dict[str, str], audited: list[dict[str, object]], truth: Truth) -> None:
    found = {str(row["key"]): row for row in audited}
    assert len(found.keys() & wrong.keys()) >= 0.9 * len(wrong)
    assert len(found.keys() & wrong.keys()) >= 0.8 * len(found)
    assert {row["split"] for row in audited} == set(SPLITS)
    for key, row in found.items():
        if key in wrong:
            assert (row["span"], row["split"]) == ("span-000002", truth[key][0])
    assert sum(found[key]["reading"] == label for key, label in wrong.items() if key in found) >= 0.9 * len(wrong)


def test_a_superseded_record_does_not_reach_the_examples_of_the_next_run(
    wrong: dict[str, str],
    audited: list[dict[str, object]],
    truth: Truth,
    options: list[str],
    config: Config,
    tmp_path: Path,
) -> None:
    removed, *corrected = wrong
    rows = {key: wrong[key] for key in corrected} | {removed: ""}
    assert f"corrects {WRONG - 1} labels and removes 1 picture" in call("data", "correct", table(tmp_path / "right.csv", rows), *options)
    call("run", *options)
    run = last_run(config)
    read = labels_of(config, run)
    assert read == {key: it for key, it in truth.items() if key != removed}
    summary = json.loads(Path(str(run.artifact_uri("CaptchaExampleGen", "quarantine")), "summary.json").read_text(encoding="utf-8"))
    assert summary["overlap"]["superseded"]["count"] == 2 * WRONG
    assert "superseded" in result_of(config, run).report.read_text(encoding="utf-8")
    measured = json.loads(call("evaluate", "--json", *options))
    assert measured["example_count"] == sum(split == "test" for split, _ in read.values()), "evaluate reads what the run has read"
