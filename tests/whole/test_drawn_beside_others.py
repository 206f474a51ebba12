"""Drawn pictures beside few labelled ones: the model learns from both, and only those that people have labelled judge it."""

from pathlib import Path

import pytest

from components.base.features import SPLITS
from components.data.drawing.painting import SynthPlan, painter
from components.data.spans import list_spans
from components.training.batches import count_records
from pipeline.config.loading import load_config
from pipeline.reporting.results import result_of
from pipeline.runs.cross_validation import labelled_by_people
from tests.support.command import call
from tests.support.paths import tiny_options
from tests.support.recorded_run import last_run


@pytest.mark.long
def test_drawn_pictures_train_and_labelled_ones_judge(tmp_path: Path) -> None:
    options = [*tiny_options(tmp_path), "--set", "data.splits={train: 1, eval: 1, test: 1}"]
    config = load_config(options[1], options[3::2])
    folder = tmp_path / "labelled"
    folder.mkdir()
    hand = painter(SynthPlan(config.captcha, config.synth.model_copy(update={"seed": 77}), config.data.splits.model_dump()))
    for number in range(60):
        captcha = hand.paint(number)
        captcha.image.save(folder / f"{captcha.label}_{number}.png")
    call("data", "import", str(folder), "--pattern", "{label}_*", *options)
    assert "The pictures that people have labelled judge" in call("data", "synth", *options, "--count", "600")
    output = call("run", *options, "--set", "trainer.epochs=12")

    labelled, drawn = list_spans(config.data.root)
    counts = labelled.manifest.counts
    assert f"training on {counts['train']} labelled pictures (" in output
    assert ") and 600 drawn ones" in output
    run = last_run(config)
    result = result_of(config, run)
    assert result.evaluation.results.example_count == counts["test"]
    assert result.evaluation.results.sequence_accuracy.value > 0.9, "twenty labels alone are too few for that"
    assert "600 of them drawn" in result.report.read_text(encoding="utf-8")
    people = labelled_by_people(config, run, tmp_path)
    assert {split: count_records(files) for split, files in people.items()} == {split: counts[split] for split in SPLITS[:2]}
    assert sum(drawn.manifest.counts[split] for split in SPLITS[1:]) > 100
