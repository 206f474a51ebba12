"""Transform's graph, run with TFT on Beam and as the layer of a served model, compared with NumPy and Pillow."""

import ast
import functools
import io
import tempfile
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from PIL import Image
from tensorflow_transform.tf_metadata import schema_utils
from tfx_bsl.public import tfxio

from components.base.features import SPLITS
from components.data.captcha_spec import CaptchaSpec
from components.data.decoding import decode_picture
from components.data.pictures import PictureRules, inspect_picture
from components.data.record_check import Shard, check_record
from components.data.records import canonical_example
from components.schema_gate import captcha_schema
from components.training.preprocessing import preprocessing_fn
from tests.support.encoded import encode, png
from tests.support.example_gen_run import RULES

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(1)
RGB = RNG.integers(0, 256, (20, 40, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (20, 40), np.uint8)
WORDS = RNG.integers(0, 65536, (20, 40, 3)).astype(">u2")
BACKGROUND = (250, 120, 10)
SHARD = Shard("train", "", "", 0, "", "", None)

PNGS = {
    "colour": encode(Image.fromarray(RGB)),
    "grey": encode(Image.fromarray(RGB[..., 0])),
    "alpha": encode(Image.fromarray(np.dstack([RGB, ALPHA]))),
    "grey, alpha": encode(Image.fromarray(np.dstack([RGB[..., 0], ALPHA]), "LA")),
    "palette": encode(Image.fromarray(RGB).quantize(16)),
    "transparent palette": encode(Image.fromarray(RGB).quantize(16), transparency=3),
    "transparent colour": encode(Image.fromarray(RGB // 200 * 200), transparency=(200, 200, 0)),
    "transparent grey": encode(Image.fromarray(RGB[..., 0] // 200 * 200), transparency=200),
    "transparent bit": encode(Image.fromarray(RGB[..., 0]).convert("1"), transparency=1),
    "small palette": encode(Image.fromarray(RGB).quantize(3)),
    "one bit": encode(Image.fromarray(RGB[..., 0]).convert("1")),
    "16 bits": encode(Image.fromarray(WORDS[..., 0].astype(np.uint16))),
    "16 bits, colour": png(40, 20, 16, 2, b"".join(b"\0" + row.tobytes() for row in WORDS)),
}
SMOOTH = Image.fromarray(RGB[:4, :5]).resize((40, 20), Image.Resampling.BICUBIC)
JPEGS = {mode: encode(SMOOTH.convert(mode), "JPEG", quality=95) for mode in ("RGB", "L")}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", PNGS)
def test_pngs_are_decoded_like_in_example_gen(kind: str, channels: int) -> None:
    spec = CaptchaSpec(width=40, height=20, channels=channels)
    rules = PictureRules(max_pixels=10_000, background=BACKGROUND, wrong_size="refuse")
    converted = inspect_picture(PNGS[kind], spec, rules).encoded
    expected = np.asarray(Image.open(io.BytesIO(converted)).convert("RGB" if channels == 3 else "L")).reshape(20, 40, channels)
    assert (decode_picture(tf.constant(PNGS[kind]), spec, BACKGROUND).numpy() == expected).all()
    assert (decode_picture(tf.constant(converted), spec, BACKGROUND).numpy() == expected).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", JPEGS)
def test_jpegs_are_decoded_like_in_example_gen(mode: str, channels: int) -> None:
    spec = CaptchaSpec(width=40, height=20, channels=channels)
    expected = np.asarray(Image.open(io.BytesIO(JPEGS[mode])).convert("RGB").convert("RGB" if channels == 3 else "L"))
    assert (decode_picture(tf.constant(JPEGS[mode]), spec).numpy() == expected.reshape(20, 40, channels)).all()


@pytest.mark.parametrize("size", [(80, 40), (20, 10), (33, 57)])
def test_stretched_pictures_have_the_configured_size(size: tuple[int, int]) -> None:
    image = SMOOTH.resize(size, Image.Resampling.BICUBIC)
    found = decode_picture(tf.constant(encode(image)), CaptchaSpec(width=40, height=20, fit="stretch")).numpy()
    assert np.abs(found.astype(int) - shrunk(image, 40, 20)).max() <= 2


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((80, 40), (40, 20)), ((20, 10), (40, 20)), ((160, 20), (40, 5)), ((33, 57), (12, 20)), ((400, 2), (40, 1)), ((1, 90), (1, 20))],
)
def test_padded_pictures_keep_their_shape(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    image = SMOOTH.resize(size, Image.Resampling.BICUBIC)
    found = decode_picture(tf.constant(encode(image)), CaptchaSpec(width=40, height=20)).numpy().astype(int)
    left, top = (40 - fitted[0]) // 2, (20 - fitted[1]) // 2
    inside = np.s_[top : top + fitted[1], left : left + fitted[0]]
    expected = shrunk(image, *fitted)
    assert np.abs(found[inside] - expected).max() <= 2
    border = np.concatenate([expected[0], expected[-1], expected[:, 0], expected[:, -1]]).mean(axis=0)
    found[inside] = border.round()
    assert np.abs(found - border).max() <= 2


def shrunk(image: Image.Image, width: int, height: int) -> np.ndarray:
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), int)


def test_data_that_cannot_be_decoded_is_an_error() -> None:
    for data in (b"", b"text", PNGS["colour"][:-600]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_picture(tf.constant(data), CaptchaSpec())


def example(image: Image.Image, label: str, spec: CaptchaSpec) -> bytes:
    record = canonical_example(encode(image), label, "test", {}).SerializeToString()
    return check_record(record, SHARD, spec, RULES).example.SerializeToString()


def transform(folder: Path, records: dict[str, list[bytes]], spec: CaptchaSpec) -> tuple[tft.TFTransformOutput, dict[str, list[Any]]]:
    """Analyses the train split and transforms every split, as TFX's Transform does."""
    schema = captcha_schema(spec)
    config = {"spec": spec.model_dump_json(), "background": list(BACKGROUND)}
    found = {}
    with (
        beam.Pipeline(argv=["--runner=FnApiRunner"]) as pipeline,
        tft_beam.Context(temp_dir=tempfile.mkdtemp(dir=folder), use_deep_copy_optimization=True),
    ):
        data = {}
        for split, serialized in records.items():
            path = str(folder / f"{split}.gz")
            with tf.io.TFRecordWriter(path, "GZIP") as writer:
                for item in serialized:
                    writer.write(item)
            source = tfxio.TFExampleRecord(path, schema=schema, telemetry_descriptors=["test"])
            data[split] = (pipeline | f"Read {split}" >> source.BeamSource(), source.TensorAdapterConfig())
        transform_fn = data["train"] | tft_beam.AnalyzeDataset(functools.partial(preprocessing_fn, custom_config=config))
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "graph"))
        for split in records:
            batches, _ = (data[split], transform_fn) | f"Transform {split}" >> tft_beam.TransformDataset(output_record_batches=True)
            rows = batches | f"Rows {split}" >> beam.FlatMap(lambda batch: batch[0].to_pylist())
            _ = rows | f"JSON {split}" >> beam.Map(repr) | f"Write {split}" >> beam.io.WriteToText(str(folder / f"{split}.rows"))
    for split in records:
        lines = "".join(path.read_text() for path in sorted(folder.glob(f"{split}.rows*"))).splitlines()
        found[split] = [ast.literal_eval(line) for line in lines]
    return tft.TFTransformOutput(str(folder / "graph")), found


@pytest.mark.parametrize("channels", [1, 3])
def test_every_split_is_transformed(tmp_path: Path, channels: int) -> None:
    spec = CaptchaSpec(charset="いあう", length={"min": 2, "max": 4}, width=24, height=12, channels=channels)
    labels = ["いあ", "うううう", "あいう"] * 5
    images = [Image.fromarray(RNG.integers(low, 256, (12, 24, 3), np.uint8)) for low in range(len(labels))]
    records = {
        split: [example(image, label, spec) for image, label in zip(images, labels, strict=True)][:: step + 1]
        for step, split in enumerate(SPLITS)
    }
    output, found = transform(tmp_path, records, spec)

    pixels = np.stack([np.asarray(image.convert("RGB" if channels == 3 else "L")).reshape(12, 24, channels) for image in images])
    mean, std = found["train"][0]["pixel_mean"][0], found["train"][0]["pixel_std"][0]
    assert (mean, std) == (pytest.approx(pixels.mean(), rel=1e-6), pytest.approx(pixels.std(), rel=1e-5))
    for step, split in enumerate(SPLITS):
        assert [row["pixels"][0] for row in found[split]] == [p.tobytes() for p in pixels[:: step + 1]]
        assert [row["label_ids"] for row in found[split][:3]] == [[*spec.encode(label)] for label in labels[:: step + 1][:3]]
        # Every split has the statistics of the train split.
        assert {tuple(row["pixel_mean"] + row["pixel_std"]) for row in found[split]} == {(mean, std)}

    # The served model gets only the picture, TFMA's request for labels only the characters.
    layer = output.transform_features_layer()
    batch = tf.constant([encode(image) for image in images[:3]])
    served = layer({"image": batch})
    assert [p.numpy() for p in served["pixels"]] == [p.tobytes() for p in pixels[:3]]
    assert served["pixel_mean"].numpy().tolist() == [mean] * 3
    assert served["pixel_std"].numpy().tolist() == [std] * 3
    raw = schema_utils.schema_as_feature_spec(captcha_schema(spec)).feature_spec
    parsed = tf.io.parse_example(records["train"][:3], {name: raw[name] for name in raw if name != "image"})
    assert layer(parsed)["label_ids"].numpy().tolist() == [spec.encode(label) for label in labels[:3]]
    assert layer(parsed)["label_ids"].dtype == tf.int64


def test_labels_of_fixed_length_and_pictures_of_one_colour(tmp_path: Path) -> None:
    spec = CaptchaSpec(charset="digits", length=3, width=24, height=12)
    records = [example(Image.new("RGB", (24, 12), (7, 7, 7)), label, spec) for label in ("907", "123")]
    output, found = transform(tmp_path, {"train": records}, spec)
    assert [row["label_ids"] for row in found["train"]] == [[9, 0, 7], [1, 2, 3]]
    # A deviation of 0 would lead to a division by 0.
    assert [(row["pixel_mean"], row["pixel_std"]) for row in found["train"]] == [([7.0], [1.0])] * 2
    assert output.transformed_feature_spec()["label_ids"].shape == [3]
