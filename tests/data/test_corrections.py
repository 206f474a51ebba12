"""Corrections: a new span with other labels, whose pictures no old span and no import brings back."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.base.errors import CaptchaPipelineError
from components.base.features import PSEUDO
from components.data.captcha_spec import CaptchaSpec
from components.data.example_proto import Example
from components.data.legacy_layout import DataInfo, legacy_example
from components.data.pictures import PictureRules
from components.data.sources.corrections import Corrected, correct
from components.data.sources.imported import import_folder, import_legacy
from components.data.sources.outcome import NothingNew
from components.data.sources.seen import of_encoded
from components.data.sources.sheet import samples
from components.data.span_writer import ShardWriter, drop_span
from components.data.spans import Span, list_spans
from components.data.window import window
from pipeline.cli.data_output import CONTRADICTED
from tests.support.command import call
from tests.support.imports import picture, plan, records
from tests.support.model_folder import contents
from tests.support.paths import TINY

RULES = PictureRules(10_000, (255, 255, 255), "resize")
EQUAL = {"train": 1, "eval": 1, "test": 1}


def key(seed: int) -> str:
    return of_encoded(picture(seed), "", "", RULES).key.hex()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with a span of twelve pictures, the picture of seed 7 labelled 0007 in a file 0007_a.png, and so on."""
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(12):
        (folder / f"{seed:04d}_a.png").write_bytes(picture(seed))
    import_folder(folder, "{label}_*", plan(tmp_path / "data", splits=EQUAL))
    return tmp_path / "data"


def table(root: Path, *rows: tuple[str, str], column: str = "key") -> Path:
    path = root.parent / "corrections.csv"
    path.write_text("\n".join([f"{column},label", *(",".join(row) for row in rows)]), encoding="utf-8")
    return path


def corrected(root: Path, *rows: tuple[str, str], column: str = "key", **changes: object) -> Corrected:
    return correct(table(root, *rows, column=column), plan(root, splits=EQUAL, source="corrections", **changes))


def labels(span: Span) -> dict[str, tuple[bytes, str, str]]:
    """Returns the picture, the source and the file of each record of a span, by label."""
    found = {}
    for data in records(span):
        feature = {name: feature.bytes_list.value[0] for name, feature in Example.FromString(data).features.feature.items()}
        found[feature["label"].decode()] = feature["image"], feature["source"].decode(), json.loads(feature["params"])["file"]
    return found


def split_of(root: Path, number: int, label: str) -> str:
    span = list_spans(root)[number - 1]
    (split,) = (split for split in EQUAL for it in samples(span, split, window(root, None).only(span), RULES) if it.label == label)
    return split


def read(root: Path) -> list[str]:
    """Returns the labels that a run reads."""
    whole = window(root, None)
    return sorted(sample.label for span in whole.spans for split in EQUAL for sample in samples(span, split, whole, RULES))


def test_a_correction_keeps_everything_but_the_label(root: Path) -> None:
    before = contents(list_spans(root)[0].path)
    splits = {seed: split_of(root, 1, f"{seed:04d}") for seed in range(12)}
    result = corrected(root, (key(3), "3333"), (key(7), "7777"), (key(5), ""))
    assert (dict(result.counts.items()), result.removed) == (result.counts, 1)
    assert result.counts.total() == 2
    assert labels(result.span) == {"3333": (picture(3), "shop", "0003_a.png"), "7777": (picture(7), "shop", "0007_a.png")}
    assert {seed: split_of(root, 2, f"{seed}" * 4) for seed in (3, 7)} == {seed: splits[seed] for seed in (3, 7)}
    assert result.span.manifest.supersedes == tuple(sorted((key(3), key(5), key(7))))
    assert result.span.manifest.source == "corrections"
    assert contents(list_spans(root)[0].path) == before
    assert read(root) == sorted({f"{seed:04d}" for seed in range(12)} - {"0003", "0005", "0007"} | {"3333", "7777"})


def test_the_newest_correction_counts_and_dropping_it_restores_the_one_before(root: Path) -> None:
    corrected(root, (key(3), "3333"), (key(4), ""))
    corrected(root, (key(3), "1111"), (key(4), "4444"))
    assert {"1111", "4444"} <= set(read(root))
    assert not {"0003", "3333", "0004"} & set(read(root))
    drop_span(root, 3)
    assert "3333" in read(root)
    assert not {"0003", "0004", "4444"} & set(read(root))
    drop_span(root, 2)
    assert read(root) == [f"{seed:04d}" for seed in range(12)]


def test_what_is_already_right_needs_no_correction(root: Path) -> None:
    rows = (key(3), "3333"), (key(5), "")
    corrected(root, *rows)
    with pytest.raises(NothingNew) as caught:
        corrected(root, *rows, (key(1), "0001"))
    assert caught.value.result.known == 3
    assert [span.number for span in list_spans(root)] == [1, 2]
    assert corrected(root, *rows, (key(6), "6666")).known == 2


@pytest.mark.slow
@settings(max_examples=12)
@given(
    st.lists(
        st.dictionaries(st.integers(0, 3), st.sampled_from(["", "1111", "2222"]), min_size=1, max_size=3) | st.integers(0, 3),
        min_size=2,
        max_size=6,
    )
)
def test_a_run_reads_the_newest_correction_that_is_there(operations: list[dict[int, str] | int]) -> None:
    """After any corrections and drops of spans. A number drops a span: the first of those that are left, the second, and so on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "in")
        folder.mkdir()
        root = Path(name, "data")
        there: dict[int, dict[int, str]] = {}
        for seed in range(4):
            (folder / f"{seed:04d}.png").write_bytes(picture(seed))
        there[import_folder(folder, "{label}.*", plan(root, splits=EQUAL)).span.number] = {seed: f"{seed:04d}" for seed in range(4)}
        for operation in operations:
            # A span that was made later says more about a picture than those before it.
            wanted = {seed: label for number in sorted(there) for seed, label in there[number].items()}
            if isinstance(operation, int):
                numbers = sorted(there)
                if 0 < operation < len(numbers):
                    drop_span(root, numbers[operation])
                    del there[numbers[operation]]
            else:
                changed = {seed: label for seed, label in operation.items() if wanted[seed] != label}
                rows = [(key(seed), label) for seed, label in operation.items()]
                if changed:
                    there[corrected(root, *rows).span.number] = changed
                else:
                    with pytest.raises(NothingNew):
                        corrected(root, *rows)
            left = {seed: label for number in sorted(there) for seed, label in there[number].items()}
            assert read(root) == sorted(label for label in left.values() if label)


def test_a_span_can_remove_pictures_only(root: Path) -> None:
    span = corrected(root, (key(2), ""), (key(5), "")).span
    assert sum(span.manifest.counts.values()) == len(span.manifest.files) == 0
    assert read(root) == [f"{seed:04d}" for seed in range(12) if seed not in (2, 5)]


def test_no_import_brings_back_a_replaced_label_or_a_removed_picture(root: Path, tmp_path: Path) -> None:
    corrected(root, (key(3), "3333"), (key(5), ""))
    (tmp_path / "in" / "0050_new.png").write_bytes(picture(50))
    (tmp_path / "in" / "1234_other.png").write_bytes(picture(3))
    result = import_folder(tmp_path / "in", "{label}_*", plan(root, splits=EQUAL, only_new=True))
    assert sorted(labels(result.span)) == ["0050"]
    assert result.left_out == {"a correction has removed the picture": 1, "a correction has given the picture another label": 1}
    (line,) = result.contradictions
    assert line.startswith("1234_other.png is labelled '1234'; span-000002/")
    assert line.endswith("is labelled '3333'")
    drop_span(root, 2)
    (tmp_path / "in" / "1234_other.png").unlink()
    again = import_folder(tmp_path / "in", "{label}_*", plan(root, splits=EQUAL))
    assert (again.known, again.left_out) == (13, {})


def test_a_removed_picture_stays_removed_when_its_span_is_dropped(root: Path, tmp_path: Path) -> None:
    corrected(root, (key(5), ""))
    drop_span(root, 1)
    result = import_folder(tmp_path / "in", "{label}_*", plan(root, splits=EQUAL))
    assert result.left_out == {"a correction has removed the picture": 1}
    assert read(root) == [f"{seed:04d}" for seed in range(12) if seed != 5]
    drop_span(root, 3)
    with pytest.raises(CaptchaPipelineError, match="its span is gone; drop the span of that correction, then import the picture"):
        corrected(root, (key(5), "5555"))
    drop_span(root, 2)
    import_folder(tmp_path / "in", "{label}_*", plan(root, splits=EQUAL))
    assert read(root) == [f"{seed:04d}" for seed in range(12)]


def test_an_excluded_span_counts_neither_for_imports_nor_for_corrections(root: Path, tmp_path: Path) -> None:
    corrected(root, (key(3), "3333"), (key(5), ""))
    assert corrected(root, (key(3), "1111"), exclude=(2,)).counts.total() == 1
    (tmp_path / "in" / "0001_a.png").rename(tmp_path / "in" / "1111_a.png")  # the label is mended after the span was excluded
    again = import_folder(tmp_path / "in", "{label}_*", plan(root, splits=EQUAL, only_new=True, exclude=(1, 2, 3)))
    assert (again.known, again.left_out, again.contradictions) == (11, {}, [])
    assert list(labels(again.span)) == ["1111"]
    whole = import_folder(tmp_path / "in", "{label}_*", plan(root, splits=EQUAL, exclude=(1, 2, 3, 4)))
    assert (whole.counts.total(), whole.left_out, whole.contradictions) == (12, {}, [])


def test_corrections_hold_for_the_background_that_they_were_made_with(root: Path) -> None:
    corrected(root, (key(3), "3333"))
    black = PictureRules(10_000, (0, 0, 0), "resize")
    with pytest.raises(CaptchaPipelineError, match=r"span-000002 were made with data.background \[255, 255, 255\]. .*data drop 2"):
        correct(table(root, (key(4), "4444")), plan(root, source="corrections", rules=black))
    assert correct(table(root, (key(4), "4444")), plan(root, source="corrections", rules=black, exclude=(2,))).counts.total() == 1


def test_labels_that_replace_those_of_models_are_not_dropped_for_a_background(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "0001_a.png").write_bytes(picture(1))
    import_folder(folder, "{label}_*", plan(tmp_path / "data", source=PSEUDO))
    import_folder(folder, "{label}_*", plan(tmp_path / "data"))
    with pytest.raises(CaptchaPipelineError, match=r"Change data.background back\.$"):
        import_folder(folder, "{label}_*", plan(tmp_path / "data", rules=PictureRules(10_000, (0, 0, 0), "resize")))


def test_a_corrected_label_of_a_model_is_one_of_a_person(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "0001_a.png").write_bytes(picture(1))
    import_folder(folder, "{label}_*", plan(tmp_path / "data", source=PSEUDO))
    span = corrected(tmp_path / "data", (key(1), "1111")).span
    assert labels(span) == {"1111": (picture(1), "corrections", "0001_a.png")}


def test_rows_can_name_files(root: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = ("in/0003_a.png", "3333"), ("in/gone.png", "1111"), ("broken.png", "2222")
    result = corrected(root, *rows, column="path")
    assert list(labels(result.span)) == ["3333"]
    assert result.left_out == {
        "it does not exist or is not a file": 1,
        "a run refuses the picture, whatever its label: image_undecodable": 1,
    }


def test_rows_that_cannot_be_followed_are_named(root: Path) -> None:
    rows = (key(3), "3333"), (key(3), "4444"), (key(4), "0x04"), (key(5), "12345"), (key(99), "0099"), ("no key", "0001")
    result = corrected(root, *rows)
    assert list(labels(result.span)) == ["3333"]
    assert result.contradictions == [f"{key(3)} is labelled '4444'; {key(3)}, in the same table, is labelled '3333'"]
    text = result.describe()
    assert "no span has the picture; `captcha-pipeline data import` imports new pictures" in text
    assert "the key does not have 32 hexadecimal digits" in text
    assert text.count("left out: label") == 2
    with pytest.raises(CaptchaPipelineError, match=r"Nothing could be corrected\.\n1 left out: no span has the picture"):
        corrected(root, (key(99), "0099"))
    with pytest.raises(CaptchaPipelineError, match="lacks the column key or path; its first row must name key or path and label"):
        corrected(root, column="name")


def test_a_picture_in_two_splits_is_corrected_in_the_one_that_counts(root: Path, tmp_path: Path) -> None:
    """A run leaves the copy in train out, because the test split has the picture."""
    seed = next(seed for seed in range(12) if split_of(root, 1, f"{seed:04d}") == "train")
    (tmp_path / "data" / ".index.sqlite").unlink()
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / f"{seed:04d}.png").write_bytes(picture(seed))
    only_test = plan(tmp_path / "other", splits={"train": 0, "eval": 0, "test": 1})
    import_folder(tmp_path / "one", "{label}.*", only_test).span.path.rename(root / "span-000002")
    corrected(root, (key(seed), "9999"))
    assert split_of(root, 3, "9999") == "test"


def test_legacy_records_become_canonical_ones(tmp_path: Path) -> None:
    spec = CaptchaSpec(width=20, height=10)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 10, 20, 3), np.uint8)
    folder = tmp_path / "in"
    folder.mkdir()
    with ShardWriter(folder, "all", "canonical") as writer:
        for label, image in zip(("0001", "0002"), pixels, strict=True):
            writer.write("train", legacy_example(image, label, spec).SerializeToString())
    DataInfo.for_spec(spec).save(folder / "data_info.csv")
    root = tmp_path / "data"
    span = import_legacy(folder, plan(root, layout="book", splits=EQUAL)).span
    whole = window(root, None)
    pictures = {sample.label: sample.image for split in EQUAL for sample in samples(span, split, whole, RULES)}
    assert pictures["0001"]
    pictures["0001"].save(tmp_path / "a.bmp")
    made = corrected(root, ("a.bmp", "1111"), column="path").span
    assert made.manifest.layout == "canonical"
    assert read(root) == ["0002", "1111"]


def test_the_command(root: Path) -> None:
    options = ["--config", str(TINY), *(word for it in (f"data.root={root}", "captcha.charset=digits") for word in ("--set", it))]
    options += ["--set", "captcha.length=4"]
    arguments = ["data", "correct", *options]
    path = str(table(root, (key(3), "3333"), (key(5), "")))
    printed = call(*arguments, path)
    assert "span-000002 corrects 1 label and removes 1 picture." in printed
    assert "Nothing to correct: 2 pictures already match" in call(*arguments, path)
    path = str(table(root, (key(4), "4444"), (key(4), "5555")))
    assert "in the same table, is labelled '4444'" in call(*arguments, path, exit_code=CONTRADICTED)
    shown = call("data", "show", *options, "--out", f"{root}.png")
    assert "span-000003" in shown
