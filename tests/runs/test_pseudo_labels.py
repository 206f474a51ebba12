"""Pictures without labels: models that agree on them label them, and nobody is judged by these labels."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.base.features import PSEUDO, SPLITS
from components.data.drawing.painting import SynthPlan, painter
from components.data.sources.listing import Entry
from components.data.spans import list_spans
from components.data.splits import split_key
from components.data.window import window
from components.training.batches import count_records
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.runs.cross_validation import labelled_by_people
from pipeline.runs.pseudo_labels import Vote, moved
from tests.support.command import call
from tests.support.paths import tiny_options
from tests.support.recorded_run import last_run


@given(st.integers(5, 9), st.integers(5, 9), st.integers(1, 3))
def test_a_picture_moves_by_two_pixels_in_each_direction(height: int, width: int, channels: int) -> None:
    images = np.random.default_rng(0).normal(size=(3, height, width, channels)).astype(np.float32)
    still, left, right, up, down = moved(images)
    np.testing.assert_array_equal(still, images)
    np.testing.assert_array_equal(left[:, :, :-2], images[:, :, 2:])
    np.testing.assert_array_equal(right[:, :, 2:], images[:, :, :-2])
    np.testing.assert_array_equal(up[:, :-2], images[:, 2:])
    np.testing.assert_array_equal(down[:, 2:], images[:, :-2])


@pytest.mark.parametrize(("share", "agreed"), [(1.0, True), (0.8, True), (0.79, False)])
def test_four_of_five_readings_are_an_agreement(share: float, agreed: bool) -> None:
    assert Vote(Entry(Path("a"), "a", "12"), share).agreed is agreed


def counts_of(config: Config, folder: Path) -> dict[str, int]:
    """Returns the number of examples of the last run that people have labelled, by split."""
    directory = folder / "labelled"
    directory.mkdir(exist_ok=True)
    return {split: count_records(files) for split, files in labelled_by_people(config, last_run(config), directory).items()}


@pytest.mark.long
def test_models_label_what_they_agree_on_and_a_person_has_the_last_word(tmp_path: Path) -> None:
    options = tiny_options(tmp_path)
    config = load_config(options[1], options[3::2])
    call("data", "synth", *options)
    call("run", *options)
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    hand = painter(SynthPlan(config.captcha, config.synth.model_copy(update={"seed": 77}), config.data.splits.model_dump()))
    drawn = [hand.paint(index) for index in range(60)]
    for number, captcha in enumerate(drawn):
        captcha.image.save(folder / f"{number:02d}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    output = call("data", "pseudo", str(folder), *options, "--folds", "2")
    assert "image_undecodable" in output
    labelled = list_spans(config.data.root)[-1]
    assert labelled.manifest.source == PSEUDO
    assert {split for split, count in labelled.manifest.counts.items() if count} == {"train"}
    assert 20 <= labelled.manifest.counts["train"] <= 60
    # Their own labels replace those of the models, whether these are right or not.
    for number, captcha in enumerate(drawn):
        (folder / f"{number:02d}.png").rename(folder / f"{captcha.label}_{number:02d}.png")
    call("data", "import", str(folder), "--pattern", "{label}_*.png", *options)
    assert len(window(config.data.root, None).superseded(labelled)) == labelled.manifest.counts["train"]
    assert {split_key(captcha.image) for captcha in drawn} >= window(config.data.root, None).superseded(labelled)
    # The members of a second round are fitted to the labels of people only: there is a run with pseudo-labels now.
    call("data", "drop", str(labelled.number + 1), *options)
    call("run", *options)
    people = list_spans(config.data.root)[0].manifest.counts
    assert counts_of(config, tmp_path) == {split: people[split] for split in SPLITS[:2]}
    again = call("data", "pseudo", str(folder), *options, "--folds", "2")
    assert re.findall(r"([\d,]+) pictures read", again) == re.findall(r"([\d,]+) pictures read", output)
    # Also if the span is gone: each example says where its label comes from.
    for span in list_spans(config.data.root)[1:]:
        call("data", "drop", str(span.number), *options)
    assert counts_of(config, tmp_path) == {split: people[split] for split in SPLITS[:2]}
