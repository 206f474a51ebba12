import dataclasses
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from PIL import Image

from components.base.features import ATTENTION, CONFIDENCE, LABEL_IDS, PROBABILITIES, SPEC_FILE, TEXT, VALID, WEIGHTS_FILE
from components.data.captcha_spec import CaptchaSpec, LengthRange
from components.data.model_inputs import model_inputs
from components.evaluation.metrics import ReadingCounts, read
from components.serving.signatures import export_model
from components.training.model import PRESETS, build_model
from tests.support.encoded import encode
from tests.support.transform_run import draw, emitted, transform

pytestmark = pytest.mark.slow

# Characters of two and of three bytes, and labels of two lengths.
SPEC = CaptchaSpec(charset="абв漢字", length=LengthRange(min=2, max=3), width=24, height=12, channels=3)
LABELS = ["аб", "漢字в", "в漢", "бба", "字а", "аа"]
MAX_PIXELS = 1000
Exported = tuple[Path, keras.Model, tft.TFTransformOutput]


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [encode(draw(SPEC, label, seed)) for seed, label in enumerate(LABELS)]


@pytest.fixture(scope="module")
def exported(pictures: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    rows = [emitted(picture, label, SPEC) for picture, label in zip(pictures, LABELS, strict=True)]
    output = transform(SPEC, {"train": rows}, folder)
    model = build_model(SPEC, PRESETS["vgg-slim"])
    # The most probable class of each head is blank, and an empty text is not allowed by this spec.
    model.get_layer("head").bias.assign([0.0] * len(SPEC.characters) + [5.0])
    export_model(model, output, SPEC, MAX_PIXELS, {"fingerprint": "f", "preset": "vgg-slim"}, str(folder / "model"))
    return folder / "model", model, output


@pytest.fixture(scope="module")
def signatures(exported: Exported) -> Any:
    return tf.saved_model.load(str(exported[0])).signatures


def _read(signatures: Any, images: list[bytes]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in signatures["serving_default"](image=tf.constant(images, tf.string)).items()}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int) -> bytes:
    """Returns a PNG with the header of an RGB picture of this size, and very little data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(10_000))) + _chunk(b"IEND", b"")


def test_answers_match_the_model(exported: Exported, signatures: Any, pictures: list[bytes]) -> None:
    _, model, output = exported
    answer = _read(signatures, pictures)
    transformed = output.transform_features_layer()({"image": tf.constant(pictures)})
    expected = tf.nn.softmax(model(model_inputs(transformed, SPEC))).numpy()
    np.testing.assert_allclose(answer[PROBABILITIES], expected, atol=1e-5)
    ids, chosen = read(expected, SPEC.min_length)
    np.testing.assert_allclose(answer[CONFIDENCE], chosen.prod(-1), rtol=1e-4)
    assert [text.decode() for text in answer[TEXT]] == [SPEC.decode(ids_of_one) for ids_of_one in ids.tolist()]
    assert answer[VALID].all()


def test_the_description_has_what_an_export_needs(exported: Exported) -> None:
    folder, _, output = exported
    about = json.loads((folder / "assets.extra" / SPEC_FILE).read_text(encoding="utf-8"))
    served = output.transform_features_layer()({"image": tf.constant([b""])})
    assert (about["max_pixels"], about["background"], about["wrong_size"]) == (MAX_PIXELS, [255, 255, 255], "resize")
    assert (about["pixel_mean"], about["pixel_std"]) == (served["pixel_mean"].numpy()[0], served["pixel_std"].numpy()[0])
    assert about["pixel_std"] > 1


def test_served_texts_match_the_spec_and_the_metrics(signatures: Any, pictures: list[bytes]) -> None:
    answer = _read(signatures, pictures)
    texts = [text.decode() for text in answer[TEXT]]
    assert [SPEC.canonical(text) for text in texts] == texts
    counts = ReadingCounts(SPEC.max_length, SPEC.num_classes, SPEC.min_length)
    counts.add(np.array([SPEC.encode(text) for text in texts]), answer[PROBABILITIES])
    assert counts.sequences_right == len(texts)


def test_bad_pictures_do_not_affect_good_pictures(signatures: Any, pictures: list[bytes]) -> None:
    good = pictures[0]
    large = Image.new("RGB", (40, 26))
    bad = {
        "empty": b"",
        "text": b"hello",
        "PNG signature alone": good[:8],
        "PNG header cut": good[:20],
        "PNG cut": good[: len(good) // 2],
        "JPEG cut": encode(draw(SPEC, "аб"), "JPEG")[:-200],
        "GIF": encode(draw(SPEC, "аб"), "GIF"),
        "BMP": encode(draw(SPEC, "аб"), "BMP"),
        "PNG over the limit": encode(large),
        "JPEG over the limit": encode(large, "JPEG"),
        "PNG bomb": _png(20_000, 20_000),
        "PNG whose size overflows": _png(2**31 - 1, 2**31 - 1),
        "PNG without a pixel": _png(0, 5),
    }
    answer = _read(signatures, [good, *bad.values(), pictures[1]])
    assert {name for name, valid in zip(bad, answer[VALID][1:-1], strict=True) if valid} == set()
    assert not answer[PROBABILITIES][1:-1].any()
    assert not answer[CONFIDENCE][1:-1].any()
    assert set(answer[TEXT][1:-1]) == {b""}
    alone = _read(signatures, pictures[:2])
    for name in (TEXT, VALID):
        np.testing.assert_array_equal(answer[name][[0, -1]], alone[name])
    np.testing.assert_allclose(answer[PROBABILITIES][[0, -1]], alone[PROBABILITIES], atol=1e-6)


def test_png_and_jpeg_of_any_size_and_mode_under_the_limit(signatures: Any) -> None:
    picture = draw(SPEC, "аб").resize((30, 20))
    modes = [("RGB", "PNG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("L", "JPEG"), ("RGB", "JPEG")]
    images = [encode(picture.convert(mode), form) for mode, form in modes]
    assert _read(signatures, images)[VALID].all()


@pytest.mark.parametrize(("images", "valid"), [([], []), ([b"not a picture"], [False])])
def test_batches_without_a_good_picture(signatures: Any, images: list[bytes], valid: list[bool]) -> None:
    answer = _read(signatures, images)
    assert answer[VALID].tolist() == valid
    assert answer[PROBABILITIES].shape == (len(images), 3, 6)


def test_serving_examples_reads_tf_examples(signatures: Any, pictures: list[bytes]) -> None:
    answer = signatures["serving_examples"](examples=tf.constant([*(emitted(picture, "аб", SPEC) for picture in pictures), b""]))
    np.testing.assert_allclose(answer[PROBABILITIES][:-1], _read(signatures, pictures)[PROBABILITIES], atol=1e-6)
    assert answer[VALID].numpy().tolist() == [True] * len(pictures) + [False]


def test_explain_reads_the_same_and_says_where_it_looked(exported: Exported, signatures: Any, pictures: list[bytes]) -> None:
    _, model, output = exported
    images = [pictures[0], b"no picture", *pictures[1:]]
    answer = {name: value.numpy() for name, value in signatures["explain"](image=tf.constant(images)).items()}
    attention = answer.pop(ATTENTION)
    plain = _read(signatures, images)
    assert answer.keys() == plain.keys()
    for name, values in plain.items():
        np.testing.assert_array_equal(answer[name], values)
    good = answer[VALID]
    assert not attention[~good].any()
    np.testing.assert_allclose(attention[good].sum(axis=-1), 1, atol=1e-5)

    # What the heads see is the mean of the columns, weighted by the attention.
    columns = keras.Model(model.inputs, [model.get_layer(name).output for name in ("columns", "glimpses")])
    seen, glimpses = columns(model_inputs(output.transform_features_layer()({"image": tf.constant(pictures)}), SPEC))
    np.testing.assert_allclose(attention[good] @ seen.numpy(), glimpses, atol=1e-5)


def test_a_model_with_direct_heads_has_no_explanation(exported: Exported, tmp_path: Path, pictures: list[bytes]) -> None:
    direct = dataclasses.replace(PRESETS["vgg-book"], groups=((4,),), dense=())
    export_model(build_model(SPEC, direct), exported[2], SPEC, MAX_PIXELS, {}, str(tmp_path / "model"))
    signatures = tf.saved_model.load(str(tmp_path / "model")).signatures
    assert set(signatures) == {"serving_default", "serving_examples", "transform_features"}
    assert ATTENTION not in _read(signatures, pictures)


def test_transform_features_gives_the_labels_for_tfma(signatures: Any, pictures: list[bytes]) -> None:
    features = signatures["transform_features"](examples=tf.constant([emitted(pictures[0], label, SPEC) for label in LABELS]))
    assert features[LABEL_IDS].numpy().tolist() == [SPEC.encode(label) for label in LABELS]


def test_the_files_beside_the_graph(exported: Exported) -> None:
    folder, model, _ = exported
    about = json.loads((folder / "assets.extra" / SPEC_FILE).read_text())
    assert CaptchaSpec.model_validate(about["spec"]) == SPEC
    assert about["fingerprint"] == "f"
    other = build_model(SPEC, PRESETS["vgg-slim"])
    other.load_weights(folder / "assets.extra" / WEIGHTS_FILE)
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
