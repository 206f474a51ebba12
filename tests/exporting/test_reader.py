"""captcha-read sees the pixels, refuses the pictures and reads the texts of the SavedModel."""

import dataclasses
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks import hostile_inputs
from captcha_read.cli import main
from captcha_read.manifest import ExportError, Manifest, load_manifest
from captcha_read.model import Model, readings
from captcha_read.pictures import PictureError, pixels_of, visible_pixels
from components.base.features import CONFIDENCE, TEXT, VALID
from components.data.captcha_spec import CaptchaSpec, LengthRange
from components.data.decoding import decode_picture
from components.evaluation.metrics import read
from components.serving.signatures import export_model
from tests.support import encoded, odd_pictures
from tests.support.encoded import encode
from tests.support.exported_model import PICTURES, SPEC, random_model, transform_graph
from tests.support.exported_onnx import write_export

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving")
    about = {"fingerprint": "f", "preset": "vgg-slim"}
    graph = transform_graph(folder / "transform")
    export_model(random_model(), graph, SPEC, hostile_inputs.MAX_PIXELS, about, str(folder / "7"))
    return folder / "7"


@pytest.fixture(scope="module")
def model(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(write_export(version, tmp_path_factory.mktemp("export") / "onnx"))


@pytest.fixture
def copied(model: Model, version: Path, tmp_path: Path) -> Path:
    """Returns the model of an export that a test may change."""
    return write_export(version, tmp_path / "export")


def hostile() -> list[tuple[str, bytes, bool]]:
    """Returns kind, data, and whether the file was damaged at random."""
    rng = random.Random(5)
    whole = [*hostile_inputs.formats_and_modes(200), *hostile_inputs.odd(72, rng)]
    damaged = [picture for damage in ("cut", "bits flipped", "chunks") for picture in hostile_inputs.damaged(120, damage, rng)]
    known = {
        **{kind: data for kind, (_, data) in (encoded.REFUSED | odd_pictures.REFUSED).items()},
        **{kind: data for kind, (data, _) in odd_pictures.WHOLE.items()},
    }
    return [
        *((kind, data, False) for kind, data in known.items()),
        *((picture.kind, picture.data, False) for picture in whole),
        *((picture.kind, picture.data, True) for picture in damaged),
        *((f"good {number}", data, False) for number, data in enumerate(PICTURES)),
    ]


def test_hostile_pictures_are_read_or_refused_like_by_the_saved_model(version: Path, model: Model) -> None:
    made = hostile()
    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    theirs = {name: value.numpy() for name, value in signature(image=tf.constant([data for _, data, _ in made])).items()}
    ours = list(model.read(data for _, data, _ in made))
    read_by_both = 0
    for (kind, _, damaged), reading, text, confidence, valid in zip(
        made, ours, theirs[TEXT], theirs[CONFIDENCE], theirs[VALID], strict=True
    ):
        if reading.error:
            assert not valid or damaged, (kind, reading.error)  # Pillow refuses more damaged files than TensorFlow
            assert (reading.text, reading.confidence, reading.position_confidence) == ("", 0.0, ())
        else:
            assert valid, kind
            assert reading.text == text.decode(), kind
            assert reading.confidence == pytest.approx(confidence, abs=1e-5), kind
            assert np.prod(reading.position_confidence) == pytest.approx(reading.confidence, rel=1e-5)
            read_by_both += 1
    assert read_by_both > 140
    assert sum(bool(reading.error) for reading in ours) > 200
    assert len({round(reading.confidence, 6) for reading in ours}) > 20  # the model tells pictures apart


def manifest(spec: CaptchaSpec, background: tuple[int, int, int] = (255, 255, 255), wrong_size: str = "resize") -> Manifest:
    return Manifest(
        file="model.onnx",
        sha256="",
        characters=tuple(spec.characters),
        min_length=spec.min_length,
        max_length=spec.max_length,
        width=spec.width,
        height=spec.height,
        channels=spec.channels,
        fit=spec.fit,
        wrong_size=wrong_size,  # type: ignore[arg-type]
        max_pixels=10_000_000,
        background=background,
        content={},
    )


@settings(max_examples=150)
@given(case=st.one_of(odd_pictures.saved(), odd_pictures.odd_pngs()))
def test_any_picture_is_decoded_as_a_viewer_shows_it(case: tuple[bytes, np.ndarray]) -> None:
    data, shown = case
    np.testing.assert_array_equal(visible_pixels(data, 1000, (255, 255, 255)), shown)


@settings(max_examples=200)
@given(
    own=st.tuples(st.integers(1, 90), st.integers(1, 300)),
    size=st.tuples(st.integers(8, 60), st.integers(8, 200)),
    fit=st.sampled_from(["pad", "stretch"]),
    channels=st.sampled_from([1, 3]),
    mode=st.sampled_from(["L", "RGB", "RGBA", "LA"]),
    background=st.tuples(*[st.integers(0, 255)] * 3),
    seed=st.integers(0, 2**32 - 1),
)
@example((2000, 3), (8, 200), "pad", 3, "RGB", (0, 0, 0), 1)
@example((3, 2000), (8, 200), "stretch", 1, "RGB", (0, 0, 0), 1)
@example((30, 100), (30, 100), "pad", 1, "RGB", (0, 0, 0), 1)
def test_pixels_are_exactly_those_of_the_saved_model(
    own: tuple[int, int], size: tuple[int, int], fit: str, channels: int, mode: str, background: tuple[int, int, int], seed: int
) -> None:
    spec = CaptchaSpec(height=size[0], width=size[1], fit=fit, channels=channels)
    bands = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*own, *bands), np.uint8)
    data = encode(Image.fromarray(pixels, mode))
    ours = pixels_of(data, manifest(spec, background))
    np.testing.assert_array_equal(ours, decode_picture(tf.constant(data), spec, background).numpy())


def test_another_size_is_refused_if_the_model_refuses_it() -> None:
    rules = manifest(CaptchaSpec(height=8, width=12), wrong_size="refuse")
    assert pixels_of(encode(Image.new("RGB", (12, 8))), rules).shape == (8, 12, 3)
    with pytest.raises(PictureError, match="8x12 pixels, not 12x8"):
        pixels_of(encode(Image.new("RGB", (8, 12))), rules)


def test_a_large_picture_is_refused_before_it_is_decoded() -> None:
    rules = dataclasses.replace(manifest(CaptchaSpec()), max_pixels=1000)
    # Its pixels are missing, so that decoding it would fail with another message.
    with pytest.raises(PictureError, match="20000x20000 pixels, more than the limit of 1000"):
        pixels_of(encoded.png(20_000, 20_000, 8, 2, b""), rules)


@given(
    seed=st.integers(0, 2**32 - 1), lengths=st.sampled_from([(1, 5), (3, 5), (5, 5), (4, 5)]), sharpness=st.sampled_from([0.1, 3.0, 60.0])
)
def test_probabilities_are_read_like_by_the_metrics(seed: int, lengths: tuple[int, int], sharpness: float) -> None:
    least, most = lengths
    spec = CaptchaSpec(charset="abc", length=most if least == most else LengthRange(min=least, max=most))
    logits = np.random.default_rng(seed).normal(0, sharpness, (6, most, spec.num_classes)).astype(np.float32)
    probabilities = tf.nn.softmax(logits).numpy()
    ids, chosen = read(probabilities, least)
    found = readings(probabilities, manifest(spec))
    assert [reading.text for reading in found] == [spec.decode(row) for row in ids.tolist()]
    np.testing.assert_array_equal([reading.position_confidence for reading in found], chosen)


def test_a_changed_model_is_refused(copied: Path) -> None:
    data = bytearray(copied.read_bytes())
    data[len(data) // 2] ^= 1
    copied.write_bytes(data)
    with pytest.raises(ExportError, match="has changed: its SHA-256"):
        Model(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format_version=2), "has the format version 2"),
        (lambda content: content.pop("text"), "is damaged \\(KeyError: 'text'\\)"),
        (lambda content: content["picture"].update(width=48), "by its manifest"),
        (lambda content: content["text"].update(characters=["a"]), "by its manifest"),
        (lambda content: content["picture"].update(fit="crop"), "fit is 'crop'"),
        (lambda content: content.update(file="../model.onnx"), "is not the name of a file"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(copied: Path, change: object, message: str) -> None:
    path = copied.parent / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)  # type: ignore[operator]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ExportError, match=message):
        Model(copied)


def test_a_manifest_that_is_no_json_is_refused(copied: Path) -> None:
    (copied.parent / "manifest.json").write_bytes(b"\xff{")
    with pytest.raises(ExportError, match=r"manifest\.json is damaged"):
        load_manifest(copied.parent)


def test_the_command_reads_good_files_and_reports_bad_files(
    copied: Path, version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, text, name = tmp_path / "good.png", tmp_path / "text.png", Path(str(tmp_path / "caf") + "\udce9.png")
    good.write_bytes(PICTURES[0])
    text.write_text("no picture")
    signature = tf.saved_model.load(str(version)).signatures["serving_default"]
    wanted = signature(image=tf.constant([PICTURES[0]]))
    assert main([str(copied), str(good), str(text), str(name), "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0].keys() == {"file", "text", "confidence", "position_confidence", "error"}
    assert (lines[0]["file"], lines[0]["text"], lines[0]["error"]) == (str(good), wanted[TEXT].numpy()[0].decode(), None)
    assert lines[1] == {
        "file": str(text),
        "text": None,
        "confidence": None,
        "position_confidence": [],
        "error": "the file is neither a PNG nor a JPEG",
    }
    assert (lines[2]["file"], lines[2]["error"]) == (f"{tmp_path}/caf\\xe9.png", "No such file or directory")
    assert main([str(copied), str(good)]) == 0
    assert capsys.readouterr().out == f"{good}\t{lines[0]['text']}\t{lines[0]['confidence']:.4f}\n"


def test_the_command_says_what_is_wrong_with_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "model.onnx"), "a.png"]) == 1
    assert capsys.readouterr().err == (
        f"Error: Cannot read {tmp_path}/manifest.json: No such file or directory. The manifest must be in the folder of the model.\n"
    )


def test_the_command_needs_neither_tensorflow_nor_the_pipeline(copied: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(PICTURES[0])
    program = (
        "import sys; sys.modules |= dict.fromkeys(('tensorflow', 'keras', 'components', 'pipeline', 'scipy', 'onnx', 'pydantic'))\n"
        "from captcha_read.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", program, copied, picture], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{picture}\t")
