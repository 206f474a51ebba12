import dataclasses
import io
import random
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from captcha.image import ImageCaptcha
from PIL import Image

from components.evaluation.gate import SetResult
from components.evaluation.metrics import ReadingCounts, wilson_interval
from pipeline.reporting import content, filters, report
from tests.support.html_page import Page, read_page

DIGITS = tuple("0123456789")
CJK = tuple(chr(0x4E00 + i) for i in range(60))


def picture(text: str) -> bytes:
    captcha = ImageCaptcha(width=100, height=30, font_sizes=(22, 24, 26))
    return captcha.generate(text).getvalue()


def evaluation(classes: tuple[str, ...], positions: int, count: int, error_rate: float, production: bool = True) -> content.Evaluation:
    """Returns an evaluation with `error_rate` mistakes a character, most of them of a class as its neighbour; "" is the blank class."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, len(classes), (count, positions))
    wrong = rng.random(truth.shape) < error_rate * np.where(truth % 3 == 1, 2.0, 0.5)
    shift = rng.choice([1, 1, 1, 6, 2], truth.shape)
    confidence = np.where(wrong.any(axis=1), rng.beta(4, 2, count), rng.beta(60, 1, count))
    counts = ReadingCounts(positions, len(classes), min_length=positions - ("" in classes))
    counts.add_readings(truth, np.where(wrong, (truth + shift) % len(classes), truth), confidence)
    results = counts.results(0.95)
    slices = [
        content.Slice(group, name, n, wilson_interval(round(n * share), n, 0.95))
        for group, name, n, share in [
            ("difficulty", "low contrast", count // 4, 0.966),
            ("difficulty", "medium contrast", count // 3, 0.99),
            ("difficulty", "high contrast", count - count // 4 - count // 3, 0.995),
            ("source", "synthetic", count, 0.985),
        ]
    ]
    return content.Evaluation(results, classes, slices, wilson_interval(round(count * 0.979), count, 0.95) if production else None)


def statistics(classes: tuple[str, ...]) -> list[content.SplitStatistics]:
    rng = random.Random(1)
    numbers = {"brightness": content.Summary(221.4, 7.9, 190.2, 243.0), "contrast": content.Summary(46.1, 5.2, 28.8, 66.3)}
    return [
        content.SplitStatistics(split, count, 0, {c: round(count * rng.uniform(0.9, 1.1)) for c in classes if c}, numbers)
        for split, count in [("train", 20_011), ("eval", 1_989), ("test", 2_000)]
    ]


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def digits() -> content.ReportInputs:
    """Returns the results of a good run of the digits configuration: 2,000 test pictures of 4 positions."""
    rng = random.Random(2)
    texts = ["".join(rng.choices("0123456789", k=4)) for _ in range(30)]
    misread = [
        content.Misread(picture(text), text, text[:2] + str((int(text[2]) + 1) % 10) + text[3:], rng.uniform(0.35, 0.99)) for text in texts
    ]
    example = content.QuarantineExample
    reasons = [
        content.QuarantineReason(
            "label_charset",
            14,
            [
                example(
                    f"span-000002/train/shard-0000{i}-of-00006.tfrecord.gz", 77 * i, "label '12a4' has 'a' at position 3", picture("1204")
                )
                for i in range(5)
            ],
        ),
        content.QuarantineReason(
            "image_too_large",
            2,
            [example("span-000002/eval/shard-00000-of-00001.tfrecord.gz", 3, "the picture is 20000x20000 pixels", bomb())],
        ),
        content.QuarantineReason(
            "record_checksum", 41, [example("span-000001/train/shard-00004-of-00006.tfrecord.gz", 901, "wrong checksum", None)]
        ),
    ]
    overlap = example("span-000004/train/shard-00000-of-00001.tfrecord.gz", 17, "the test split has the same picture", None)
    curve = [0.725, 0.882, 0.963, 0.969, 0.974, 0.981, 0.985, 0.986]
    return content.ReportInputs(
        title="digits",
        run_id="2025-05-04T12:30:11.123456",
        started=datetime(2025, 5, 4, 12, 30, tzinfo=timezone.utc),
        blessed=True,
        pushed_version="7",
        steps=[
            content.Step("CaptchaExampleGen", "cached", 0.1),
            content.Step("StatisticsGen", "done", 6.8),
            content.Step("Transform", "done", 31.0),
            content.Step("Trainer", "done", 263.4),
            content.Step("Evaluator", "done", 11.2),
            content.Step("Pusher", "done", 0.4),
        ],
        evaluation=evaluation(DIGITS, positions=4, count=2000, error_rate=0.004),
        history=[
            {"loss": 2.1 / (i + 1), "val_loss": 0.9 / (i + 1), "sequence_accuracy": a - 0.05, "val_sequence_accuracy": a, "seconds": 33 - i}
            for i, a in enumerate(curve)
        ],
        misread=misread,
        quarantine=content.Quarantine(24_057, 57, reasons, [content.QuarantineReason("also_in_test", 1204, [overlap])]),
        splits=statistics(DIGITS),
        config="name: digits\nroot: output\ncaptcha:\n  charset: digits\n  length: 4\n  width: 100\n  height: 30\ntrainer:\n  epochs: 8\n",
        versions={
            "captcha-pipeline": "0.1.0",
            "Python": "3.11.9",
            "TensorFlow": "2.21.0",
            "TFX": "1.21.0",
            "Beam": "2.74.0",
            "Keras": "3.12.0",
        },
    )


def render(inputs: content.ReportInputs, folder: Path) -> Page:
    path = folder / "reports" / "report.html"
    report.write_report(inputs, path)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    page = read_page(path)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    return page


def test_the_report_of_a_good_run(digits: content.ReportInputs, tmp_path: Path) -> None:
    page = render(digits, tmp_path)
    assert digits.evaluation is not None
    rate = digits.evaluation.results.sequence_accuracy
    assert "Blessed, and pushed as version 7" in page.text
    assert f"{rate.value:.2%}".replace("%", " %") in page.text
    assert f"95 % interval {rate.lower:.2%} to {rate.upper:.2%}".replace("%", " %").replace("95  %", "95 %") in page.text
    for words in (
        "position 4",
        "low contrast",
        "medium contrast",
        "label_charset 14 records",
        "57 of 24,057 records",
        "also_in_test: 1,204 records",
        "TFX 1.21.0",
    ):
        assert words in page.text
    assert "charset: digits" in page.text
    assert "4 min 23 s" in page.text
    assert "97.90 % by the production model" in page.text
    # 30 misread pictures, and three of one reason; the decompression bomb and the record without a picture are not shown.
    assert page.tags.count("img") == 33
    assert "cannot be shown" in page.text
    assert "no picture" in page.text


def test_the_report_of_a_run_without_mistakes(digits: content.ReportInputs, tmp_path: Path) -> None:
    assert digits.evaluation is not None
    perfect = dataclasses.replace(evaluation(DIGITS, 4, 2000, 0.0, production=False), slices=())
    page = render(dataclasses.replace(digits, evaluation=perfect, misread=(), quarantine=content.Quarantine(24_000, 0, ())), tmp_path)
    assert "every picture of the test split was read right" in page.text
    assert "No character was misread." in page.text
    assert "Empty: all 24,000 records were valid." in page.text
    assert "no model was in production" in page.text
    assert "img" not in page.tags


def test_the_report_of_a_model_that_was_not_blessed(digits: content.ReportInputs, tmp_path: Path) -> None:
    failure = "the full-sequence accuracy is 91.00% (89.10% to 92.50%), under the floor of 98.00%"
    page = render(dataclasses.replace(digits, blessed=False, pushed_version=None, failures=(failure,)), tmp_path)
    assert f"Not blessed: nothing was pushed {failure}" in page.text


def test_warnings_are_shown_with_the_verdict(digits: content.ReportInputs, tmp_path: Path) -> None:
    warning = "the golden set has only 12 test pictures, fewer than evaluator.min_pictures (50): it is not used to judge the model"
    page = render(dataclasses.replace(digits, warnings=(warning,)), tmp_path)
    assert f"Blessed, and pushed as version 7 Warning: {warning}" in page.text


def test_a_run_that_stopped_early_has_a_report(tmp_path: Path) -> None:
    inputs = content.ReportInputs("digits", "run", datetime(2025, 5, 4, tzinfo=timezone.utc), None, ("Transform failed",))
    page = render(inputs, tmp_path)
    assert "Not evaluated: nothing was pushed Transform failed" in page.text
    assert "There is no training history." in page.text


def test_the_blank_class_has_a_sign_and_an_explanation(digits: content.ReportInputs, tmp_path: Path) -> None:
    inputs = dataclasses.replace(
        digits,
        evaluation=evaluation((*DIGITS, ""), positions=8, count=500, error_rate=0.05),
        misread=[
            content.Misread(picture("12345"), "12345", "1234", 0.8),
            content.Misread(picture("1234"), "1234", "12347", 0.7),
        ],
    )
    page = render(inputs, tmp_path)
    assert "Row ∅ counts characters that were read after the end of the label, as a share of all pictures." in page.text
    assert "The accuracy of a position counts only pictures whose label has a character there" in page.text
    assert inputs.evaluation is not None
    results = inputs.evaluation.results
    assert f"{results.character_accuracy:.2%}".replace("%", " %") + " character accuracy" in page.text
    assert f"position 8 {results.position_count[7]} {results.position_accuracy[7].value:.2%}".replace("%", " %") in page.text
    assert "truth 12345 read 1234∅" in page.text
    assert "truth 1234 read 12347" in page.text


def test_a_large_charset_stays_legible(digits: content.ReportInputs, tmp_path: Path) -> None:
    large = evaluation(CJK, positions=2, count=3000, error_rate=0.08)
    inputs = dataclasses.replace(digits, evaluation=large, splits=statistics(CJK), misread=[])
    page = render(inputs, tmp_path)
    assert "The map shows the 40 characters with the most mistakes; 20 others are left out." in page.text
    assert "By character: the 40 with the lowest recall" in page.text
    assert "the most common and the rarest; 20 others are left out" in page.text
    # The most frequent mistake is in the table of pairs, even if the map leaves it out.
    wrong = large.results.confusion_matrix.toarray()
    np.fill_diagonal(wrong, 0)
    truth, reading = np.unravel_index(wrong.argmax(), wrong.shape)
    assert f"{CJK[truth]} {CJK[reading]} {wrong.max()} " in page.text


def test_untrusted_text_is_escaped(digits: content.ReportInputs, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    example = content.QuarantineExample(evil + "\udcff", 1, evil, b"<svg onload='alert(1)'/>")
    inputs = dataclasses.replace(
        digits,
        title=evil,
        failures=(evil,),
        misread=[content.Misread(b"GIF89a not a picture", evil, evil[::-1], 0.5)],
        quarantine=content.Quarantine(2, 1, [content.QuarantineReason(evil, 1, [example])]),
        config=evil,
        evaluation=evaluation(("<", "&", '"', "'"), positions=4, count=100, error_rate=0.3),
        splits=statistics(("<", "&", '"', "'")),
    )
    page = render(inputs, tmp_path)  # checks the tags, too
    assert page.tags.count("img") == 0
    assert page.text.count("<script>alert(1)</script>") >= 5
    assert r"\udcff" in page.text


def test_the_number_of_pictures_is_limited(digits: content.ReportInputs, tmp_path: Path) -> None:
    misread = [content.Misread(b"", f"{i:04}", "0000", i / 1000) for i in range(1, 301)]
    page = render(dataclasses.replace(digits, misread=misread, quarantine=None), tmp_path)
    assert page.text.count(" sure") == report.MAX_MISREAD
    # The most confident mistakes come first.
    assert page.text.index("truth 0300") < page.text.index("truth 0299") < page.text.index("truth 0253")
    assert "truth 0252" not in page.text


def test_an_epoch_with_an_infinite_loss_leaves_a_gap(digits: content.ReportInputs, tmp_path: Path) -> None:
    history = [{"loss": 2.0, "val_loss": 1.5}, {"loss": float("inf"), "val_loss": 1.0}]
    page = render(dataclasses.replace(digits, history=history), tmp_path)
    assert "inf" in page.text
    assert render(dataclasses.replace(digits, history=history[:1]), tmp_path).tags.count("svg") > 5


def test_the_comparison_with_the_model_in_production(digits: content.ReportInputs, tmp_path: Path) -> None:
    ours, theirs = (wilson_interval(right, 1000, 0.95) for right in (991, 985))
    sets = {"golden set": SetResult(ours, theirs, 0.031, 1000), "newest span": SetResult(ours, None, None, 90)}
    assert digits.evaluation
    page = render(dataclasses.replace(digits, evaluation=dataclasses.replace(digits.evaluation, sets=sets)), tmp_path)
    assert "golden set 1,000 99.10 % 98.50 % +0.60 0.031" in page.text
    assert "newest span" not in page.text, "there was nothing to compare with"
    assert "so far" not in page.text
    sets["golden set, best so far"] = SetResult(ours, wilson_interval(997, 1000, 0.95), 0.11, 1000)
    page = render(dataclasses.replace(digits, evaluation=dataclasses.replace(digits.evaluation, sets=sets)), tmp_path)
    assert "Comparison with the production model and the best model so far" in page.text
    assert "golden set, best so far 1,000 99.10 % 99.70 % -0.60 0.11" in page.text
    alone = dataclasses.replace(digits.evaluation, sets={"all": sets["newest span"]})
    assert "Comparison with the production model" not in render(dataclasses.replace(digits, evaluation=alone), tmp_path).text


def test_the_reason_for_a_missing_warm_start_is_shown(digits: content.ReportInputs, tmp_path: Path) -> None:
    problem = "The production model cannot be read (<no> weights): the fit starts from scratch."
    assert problem not in render(digits, tmp_path).text
    assert problem in render(dataclasses.replace(digits, base_problem=problem), tmp_path).text


def test_drift_is_drawn_and_drifted_measures_are_marked(digits: content.ReportInputs, tmp_path: Path) -> None:
    newest, others = ([0.0] * start + [0.25] * 4 + [0.0] * (252 - start) for start in (100, 98))
    distances = {"brightness": (0.5, 0.05), "contrast": (0.05, 0.05), "size": (0.9, None)}
    plain = render(digits, tmp_path)
    assert "There was no other span in the window to compare with." in plain.text
    drift = content.Drift("span-000007", distances, {"brightness": (newest, others)})
    page = render(dataclasses.replace(digits, drift=drift), tmp_path)
    assert "brightness drifted 0.500 0.05" in page.text
    assert "contrast 0.050 0.05" in page.text
    assert "size 0.900 –" in page.text
    assert page.text.count("drifted") == 1
    assert page.tags.count("svg") > plain.tags.count("svg") + 3


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100.0 %"), (0.9996, "99.9 %"), (0.9985, "99.9 %"), (0.0, "0.0 %"), (None, "–"), (float("nan"), "–")]
)
def test_a_share_below_one_is_never_shown_as_100_percent(share: float | None, text: str) -> None:
    assert filters.percent(share).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (59.94, "59.9 s"), (59.97, "1 min 00 s"), (3725, "1 h 02 min"), (None, "–")]
)
def test_durations_are_shown_in_hours_minutes_and_seconds(seconds: float | None, text: str) -> None:
    assert filters.duration(seconds).replace("\u00a0", " ") == text
