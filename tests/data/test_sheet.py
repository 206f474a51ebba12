import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.synthetic import synthesise
from components.data.pictures import PictureRules
from components.data.records import canonical_example, encode_png
from components.data.sources.sheet import contact_sheet, samples, span_statistics
from components.data.span_writer import ShardWriter, new_span, write_manifest
from components.data.window import Window
from pipeline.cli.data import data_app
from tests.support.drawing import synth_plan

WEIGHTS = {"train": 2, "eval": 1, "test": 1}
SPEC = CaptchaSpec(length={"min": 2, "max": 5}, width=60, height=24)
RULES = PictureRules(10_000, (255, 255, 255), "resize")


def synthetic(root, layout="canonical", seed=1):
    return synthesise(synth_plan(SPEC, 30, seed, 30, WEIGHTS, layout=layout), root)


def strangers(root, spec, records):
    making = new_span(root)
    with making as draft:
        with ShardWriter(draft, "shard-00000-of-00001", "canonical") as writer:
            for record in records:
                writer.write("train", record)
        write_manifest(draft, layout="canonical", spec=spec, seed=None, source="s", params={}, files=writer.files)
    return making.span


def draw(window, path, per_split, spec=SPEC):
    """Draws a contact sheet; returns the statistics."""
    statistics = span_statistics(window, spec, RULES)
    contact_sheet(window, statistics, path, per_split, spec, RULES)
    return statistics


@pytest.mark.parametrize("layout", ["canonical", "book"])
def test_statistics_count_every_record(tmp_path, layout):
    span = synthetic(tmp_path, layout)
    window = Window((span,), None)
    statistics = span_statistics(window, SPEC, RULES)
    assert {counts.split: counts.records for counts in statistics} == span.manifest.counts
    labels = [sample.label for sample in samples(span, "train", window, RULES)]
    train = statistics[0]
    assert train.broken == 0
    assert sum(length * count for length, count in train.lengths.items()) == train.characters.total() == len("".join(labels))
    assert train.characters["7"] == "".join(labels).count("7")
    assert dict(train.sizes) == {(60, 24): len(labels)}
    low, mean, high = train.share_of_characters()
    assert low <= mean <= high
    assert mean == pytest.approx(0.1)
    assert (train.stored_bytes == 60 * 24 * 3 * len(labels)) == (layout == "book")


@pytest.mark.slow
def test_drawn_pictures_beside_others_are_shown_as_training_pictures(tmp_path):
    drawn = synthetic(tmp_path)
    assert drawn.manifest.counts["test"] > 0
    alone = Window((drawn,), None)
    assert {counts.split: counts.records for counts in span_statistics(alone, SPEC, RULES)} == drawn.manifest.counts
    labelled = strangers(tmp_path, SPEC, [canonical_example(encode_png(Image.new("L", (9, 9))), "12", "s", {}).SerializeToString()])
    both = span_statistics(Window((drawn, labelled), None), SPEC, RULES)
    assert [counts.records for counts in both] == [31, 0, 0]


def test_both_layouts_give_the_same_samples(tmp_path):
    window = Window((synthetic(tmp_path), synthetic(tmp_path, "book")), None)
    for one, other in zip(*(samples(span, "train", window, RULES) for span in window.spans), strict=True):
        assert one.label == other.label
        assert one.image.tobytes() == other.image.tobytes()


@pytest.mark.slow
def test_a_sheet_shows_pictures_of_every_span_and_split(tmp_path):
    window = Window((synthetic(tmp_path), synthetic(tmp_path, "book", seed=2)), None)
    draw(window, tmp_path / "few.png", 2)
    draw(window, tmp_path / "many.png", 20)
    with Image.open(tmp_path / "few.png") as few, Image.open(tmp_path / "many.png") as many:
        assert few.format == "PNG"
        assert few.width == many.width
        assert few.height < many.height
        assert np.asarray(few).std() > 10


def test_pictures_that_cannot_be_shown_are_counted_as_broken(tmp_path):
    whole = encode_png(Image.effect_noise((50, 20), 80))
    records = [
        canonical_example(whole, "12", "s", {}).SerializeToString(),
        canonical_example(whole[: len(whole) // 2], "34", "s", {}).SerializeToString(),
        canonical_example(b"text", "56", "s", {}).SerializeToString(),
        canonical_example(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "56", "s", {}).SerializeToString(),
        b"\xff no example",
    ]
    span = strangers(tmp_path, SPEC, records)
    train, *_ = draw(Window((span,), None), tmp_path / "sheet.png", 10)
    assert (train.records, train.broken) == (5, 3)


def test_labels_of_any_alphabet_and_length_are_drawn(tmp_path):
    spec = CaptchaSpec(charset="あいلا", length=2)
    picture = encode_png(Image.new("L", (60, 24)))
    records = [canonical_example(picture, label, "s", {}).SerializeToString() for label in ("あい", "لا", "😀\n\t", "x" * 10_000)]
    draw(Window((strangers(tmp_path, spec, records),), None), tmp_path / "sheet.png", 10, spec)
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def show(tmp_path, *arguments):
    settings = ["captcha.width=60", f"data.root={tmp_path}"]
    sets = [part for setting in settings for part in ("--set", setting)]
    return CliRunner().invoke(data_app, ["show", "--out", str(tmp_path / "sheet.png"), *sets, *arguments])


@pytest.mark.slow
def test_the_command_shows_all_spans_or_one(tmp_path):
    assert isinstance(show(tmp_path).exception, CaptchaPipelineError)
    spans = [synthetic(tmp_path), synthetic(tmp_path, "book", seed=2)]
    result = show(tmp_path)
    assert result.exit_code == 0, result.output
    assert "span-000001" in result.output
    assert "span-000002" in result.output
    assert (tmp_path / "sheet.png").exists()
    assert "span-000001" not in show(tmp_path, "--span", "2").output
    assert "Choose one of: 1, 2" in str(show(tmp_path, "--span", "3").exception)
    spans[0].files("test")[0].write_bytes(b"")
    assert "has changed" in str(show(tmp_path).exception)
