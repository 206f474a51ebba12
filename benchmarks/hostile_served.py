"""The served model's answers to the inputs of benchmarks/hostile.py."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.hostile_inputs import Expectation, Hostile
from components.base.features import TEXT, VALID
from components.data.exif import JPEG_SIGNATURE, PNG_SIGNATURE
from components.data.pictures import PictureError, inspect_picture
from components.data.records import canonical_example
from components.serving.serving_dir import versions
from pipeline.config.config import Config
from pipeline.logs import load_tensorflow

_BATCH: Final = 64


def serve(config: Config, made: Sequence[Hostile], records: Sequence[tuple[str, bytes, Expectation]]) -> Iterator[list[str]]:
    """Reads all pictures and records with the served model, and yields rows of the table.

    The model must accept every PNG and JPEG that the import accepts. It may also read damaged ones that the import refuses.
    """
    load_tensorflow(with_keras=False)
    import tensorflow as tf

    signatures = tf.saved_model.load(str(versions(config.serving_dir)[0].path)).signatures
    valid: list[bool] = []
    for start in range(0, len(made), _BATCH):
        batch = [picture.data for picture in made[start : start + _BATCH]]
        read = signatures["serving_default"](image=tf.constant(batch, tf.string))
        wrapped = [canonical_example(data, "1", "served", {}).SerializeToString() for data in batch]
        same = signatures["serving_examples"](examples=tf.constant(wrapped, tf.string))
        for name in (VALID, TEXT):
            assert (read[name].numpy() == same[name].numpy()).all(), (start, name)
        valid += read[VALID].numpy().tolist()
    differ = Counter[str]()
    for picture, read_it in zip(made, valid, strict=True):
        takes = _import_takes(picture.data, config)
        assert read_it or not takes, f"Imported, but not served: {picture}."
        if read_it and not takes:
            assert picture.expected == "either", f"Served, but not imported: {picture}."
            differ[picture.kind.partition(":")[0]] += 1
    also = ", ".join(f"{kind} {number}" for kind, number in differ.most_common()) or "none"
    yield [
        "pictures, served",
        f"{len(made):,}",
        "",
        "",
        f"{sum(valid):,}",
        f"{len(made) - sum(valid):,}",
        f"{VALID} is false; kept here, but refused by the import: {also}",
    ]

    answers = Counter[str]()
    for name, data, expected in records:
        try:
            answer = str(bool(signatures["serving_examples"](examples=tf.constant([data]))[VALID][0]))
        # The error message quotes the record, which TensorFlow's Python binding may fail to decode.
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError):
            answer = "INVALID_ARGUMENT"
        assert expected != "good" or answer == "True", (name, answer)
        answers[answer] += 1
    taken = answers.pop("True")
    reasons = f"{VALID} is false {answers['False']}, INVALID_ARGUMENT {answers['INVALID_ARGUMENT']}"
    good = [expected for *_, expected in records].count("good")
    yield ["records, served one by one", f"{len(records):,}", f"{good:,}", "0", f"{taken:,}", f"{answers.total():,}", reasons]


def _import_takes(data: bytes, config: Config) -> bool:
    """Returns whether the import accepts the data and it is a PNG or JPEG, the only formats that are served."""
    try:
        inspect_picture(data, config.captcha, config.data.picture_rules)
    except PictureError:
        return False
    return data.startswith((PNG_SIGNATURE, JPEG_SIGNATURE))
