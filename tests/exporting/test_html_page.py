"""The page of the HTML export, in a headless browser: it reads like the SavedModel, offline, with mouse and keyboard."""

import base64
import shutil
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras import ops
from onnx import TensorProto, helper
from PIL import Image
from playwright.sync_api import Page, expect

from benchmarks.hostile_inputs import MAX_PIXELS as HOSTILE_PIXELS
from benchmarks.hostile_inputs import SPEC as HOSTILE_SPEC
from benchmarks.hostile_inputs import damaged, formats_and_modes, odd
from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.decoding import decode_picture
from components.training.model import PRESETS, Preset
from pipeline.config.config import Config
from pipeline.exporting import browser, html_page
from pipeline.exporting.export import export
from pipeline.exporting.onnx_graph import onnx_graph
from pipeline.exporting.program import program
from pipeline.inference.served_model import ServedModel
from tests.support import odd_pictures
from tests.support.encoded import REFUSED, encode
from tests.support.exported_model import PICTURES, SPEC, random_model
from tests.support.exported_version import make_version

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not any(map(shutil.which, browser.COMMANDS)), reason="no Chromium is installed"),
]

RNG = np.random.default_rng(3)
DESIGNS = {
    "counted heads": PRESETS["vgg-slim"],
    "counted heads without patches": Preset(groups=((8, 8), (12,)), heads="counted", context=16),
    "direct heads on patches": Preset(groups=((8,), (16, 8)), patches=True),
    "dense layers": Preset(groups=((8, 7), (9, 8), (6,)), dense=(32, 16)),
    "without batch norm": Preset(groups=((8, 8), (12,)), dense=(16,), batch_norm=False),
}


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    return make_version(tmp_path_factory.mktemp("version"))


@pytest.fixture(scope="module")
def file(version: tuple[Config, Path]) -> Path:
    config, folder = version
    done = export(config, folder, "html")
    assert (done.proof.pictures, done.proof.same_texts) == (len(PICTURES), len(PICTURES))
    return done.folder / "reader.html"


@pytest.fixture(scope="module")
def shared(file: Path) -> Iterator[Page]:
    with browser.opened(file) as page:
        yield page


@pytest.fixture
def page(shared: Page) -> Page:
    """Returns the page as it opens."""
    shared.reload()
    return shared


def pictures() -> dict[str, bytes]:
    """Returns PNGs of many kinds and sizes."""
    rgba = Image.fromarray(RNG.integers(0, 256, (19, 31, 4), np.uint8), "RGBA")
    grey = rgba.getchannel(0)
    sixteen = Image.fromarray(RNG.integers(0, 65536, (12, 24), np.uint16))
    return {
        "alpha": encode(rgba),
        "grey and alpha": encode(rgba.convert("LA")),
        "grey": encode(grey),
        "black and white": encode(grey.convert("1")),
        "16 bits": encode(sixteen),
        "palette": encode(rgba.convert("RGB").quantize(7)),
        "palette of 200": encode(rgba.convert("RGB").quantize(200)),
        "palette, transparent": encode(rgba.convert("RGB").quantize(16), transparency=bytes(range(0, 256, 16))),
        "transparent colour": encode(rgba.convert("RGB"), transparency=rgba.convert("RGB").getpixel((3, 3))),
        "transparent grey": encode(grey, transparency=grey.getpixel((3, 3))),
        "one pixel": encode(grey.crop((0, 0, 1, 1))),
        "one row": encode(rgba.crop((0, 0, 31, 1))),
        "tall": encode(rgba.convert("RGB").resize((5, 190))),
        "wide": encode(rgba.convert("RGB").resize((190, 5))),
        "exact size": encode(rgba.convert("RGB").resize((SPEC.width, SPEC.height))),
    }


def test_the_page_reads_like_the_saved_model(version: tuple[Config, Path], page: Page) -> None:
    served, data = ServedModel(version[1]), [*PICTURES, *pictures().values()]
    found = html_page.read_with(page, data)
    for (ours, probabilities), theirs in zip(found, served.read(data), strict=True):
        assert (ours.text, ours.error) == (theirs.text, "")
        np.testing.assert_allclose(probabilities, theirs.probabilities, atol=1e-6)
        assert ours.confidence == pytest.approx(theirs.confidence, abs=1e-6)
    assert len({ours.text for ours, _ in found}) > 1


def test_the_page_refuses_what_the_saved_model_refuses(page: Page) -> None:
    refused = REFUSED | odd_pictures.REFUSED
    for kind, (reading, _) in zip(refused, html_page.read_with(page, [data for _, data in refused.values()]), strict=True):
        assert reading.error, kind
        assert reading.text == "", kind


_PIXELS = """async ([pictures, rules]) => {
  const found = [];
  for (const picture of pictures) {
    const bytes = Uint8Array.from(atob(picture), (it) => it.charCodeAt(0));
    found.push(await pixelsOf(bytes, rules).then((pixels) => [...pixels], (error) => error.message));
  }
  return found;
}"""


def pixels_in(page: Page, pictures: Sequence[bytes], spec: CaptchaSpec, background: tuple[int, int, int]) -> list[Any]:
    """Returns the pixels that the page makes of each picture, as a list of numbers, or the message of a refusal."""
    rules = spec.model_dump(include={"width", "height", "channels", "fit"})
    rules |= {"wrong_size": "resize", "max_pixels": HOSTILE_PIXELS, "background": background}
    return page.evaluate(_PIXELS, [[base64.b64encode(one).decode() for one in pictures], rules])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_hostile_pngs_are_decoded_or_refused_like_by_the_saved_model(page: Page, fit: str, channels: int) -> None:
    spec = CaptchaSpec.model_validate(HOSTILE_SPEC.model_dump() | {"fit": fit, "channels": channels})
    rng, background = Random(1), (250, 3, 120)
    made = [*formats_and_modes(40, kinds=("PNG",)), *odd(72, rng)]
    made += [it for damage in ("cut", "bits flipped", "chunks") for it in damaged(100, damage, rng)]
    data = [(it.kind, it.data) for it in made] + [*pictures().items()] + [(name, one) for name, (one, _) in odd_pictures.WHOLE.items()]
    data = [(name, one) for name, one in data if not one.startswith(b"\xff")]  # JPEGs are decoded by the browser
    read = 0
    for (name, picture), pixels in zip(data, pixels_in(page, [one for _, one in data], spec, background), strict=True):
        try:
            wanted = decode_picture(tf.constant(picture), spec, background).numpy()
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError):  # the second if TensorFlow cannot quote the bytes in its message
            assert isinstance(pixels, str), name
            continue
        if isinstance(pixels, str):
            # The SavedModel checks the size before it decodes. Like Pillow, the page refuses some damaged files that TensorFlow reads.
            assert "The limit is" in pixels or name.startswith(("cut", "bits flipped", "chunks")), (name, pixels)
        else:
            np.testing.assert_array_equal(np.array(pixels).reshape(wanted.shape), wanted, name)
            read += 1
    assert read > 60


@settings(max_examples=60, deadline=None)
@given(case=st.one_of(odd_pictures.saved(), odd_pictures.odd_pngs()), seed=st.integers(8, 40), fit=st.sampled_from(["pad", "stretch"]))
def test_any_png_becomes_the_pixels_that_the_model_was_trained_with(shared: Page, case: tuple[bytes, Any], seed: int, fit: str) -> None:
    data, _ = case
    assume(data.startswith(b"\x89PNG"))
    spec = CaptchaSpec.model_validate({"width": 48 - seed, "height": seed, "fit": fit, "channels": 1 + 2 * (seed % 2)})
    (pixels,) = pixels_in(shared, [data], spec, (255, 255, 255))
    wanted = decode_picture(tf.constant(data), spec).numpy()
    np.testing.assert_array_equal(np.array(pixels).reshape(wanted.shape), wanted)


def test_jpegs_are_read_with_few_differences(page: Page) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (6, 10, 3), np.uint8)).resize((60, 24), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[274] = 6
    spec = CaptchaSpec(width=60, height=24)
    for data in (encode(image, "JPEG"), encode(image, "JPEG", exif=exif), encode(image.convert("L"), "JPEG", progressive=True)):
        (found,) = pixels_in(page, [data], spec, (0, 0, 0))
        wanted = decode_picture(tf.constant(data), spec).numpy()
        np.testing.assert_allclose(np.array(found).reshape(wanted.shape), wanted, atol=8)


@pytest.mark.parametrize("name", DESIGNS)
def test_the_page_computes_any_network(page: Page, name: str) -> None:
    model = random_model(DESIGNS[name])
    pixels = RNG.integers(0, 256, (SPEC.height, SPEC.width, SPEC.channels), np.uint8)
    made = program(onnx_graph(model, 120.5, 60.25))
    found = page.evaluate(
        "([steps, weights, pixels]) => [...prepare(steps, Float32Array.from(weights))(pixels)]",
        [made.content, made.weights.tolist(), pixels.ravel().tolist()],
    )
    wanted = ops.convert_to_numpy(ops.softmax(model(((pixels.astype(np.float32) - 120.5) / 60.25)[None], training=False)))
    np.testing.assert_allclose(np.array(found), wanted.ravel(), atol=1e-5)


def test_an_operation_that_the_page_does_not_know_is_an_error() -> None:
    node = helper.make_node("Erf", ["x"], ["y"], "curve")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model)
    with pytest.raises(CaptchaPipelineError, match=r"cannot run the operation Erf \(curve\)"):
        program(model)


def files(*data: bytes) -> list[Any]:
    return [{"name": f"{number}.png", "mimeType": "image/png", "buffer": one} for number, one in enumerate(data)]


def test_chosen_pictures_are_shown_newest_first(page: Page, version: tuple[Config, Path]) -> None:
    page.set_input_files("#files", files(PICTURES[0], b"no picture", PICTURES[1]))
    cards = page.locator("#readings > li")
    expect(cards).to_have_count(3)
    served = [reading.text for reading in ServedModel(version[1]).read(PICTURES[:2])]
    expect(cards.locator(".text")).to_have_text([served[1], "The file is neither a PNG nor a JPEG.", served[0]])
    shares = cards.first.locator(".share").all_inner_texts()
    assert len(shares) == len(served[1])
    assert all(0 < float(share.removesuffix("%")) <= 100 for share in shares)
    expect(cards.first.locator(".about")).to_contain_text(" ms · 2.png")
    expect(cards.nth(1).locator("img")).to_have_count(0)
    expect(cards.first.locator("img")).to_have_js_property("naturalWidth", SPEC.width)
    expect(page.locator("#summary")).to_have_text("2 read, 1 not read")
    page.get_by_role("button", name="Clear").click()
    expect(cards).to_have_count(0)
    expect(page.locator(".bar")).to_be_hidden()


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_dropped_and_pasted_pictures_are_read(page: Page, way: str) -> None:
    page.evaluate(
        """([way, data]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([Uint8Array.from(atob(data), (it) => it.charCodeAt(0))], "a.png", { type: "image/png" }));
          const event = way === "drop" ? new DragEvent("drop", { dataTransfer: transfer, cancelable: true, bubbles: true })
            : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
          document.body.dispatchEvent(event);
          if (way === "drop" && !event.defaultPrevented) throw new Error("the browser would leave the page");
        }""",
        [way, base64.b64encode(PICTURES[0]).decode()],
    )
    expect(page.locator("#readings > li:not(.refused)")).to_have_count(1)


def test_the_keyboard_is_enough(page: Page) -> None:
    with page.expect_file_chooser() as chooser:  # from here, because Chromium takes a moment to pass choosers on
        page.keyboard.press("Tab")
        expect(page.locator("#files")).to_be_focused()
        page.keyboard.press("Enter")
    chooser.value.set_files(files(PICTURES[0]))
    expect(page.locator("#readings > li")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Clear")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#readings > li")).to_have_count(0)
    expect(page.locator("#files")).to_be_focused()


def test_names_of_files_are_shown_as_text(page: Page) -> None:
    page.set_input_files("#files", {"name": "<img src=x onerror=alert(1)>.png", "mimeType": "image/png", "buffer": b"?"})
    expect(page.locator(".about")).to_have_text("<img src=x onerror=alert(1)>.png")


def test_the_page_cannot_use_the_network(shared: Page, file: Path) -> None:
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert shared.context.browser is not None
        with shared.context.browser.new_context() as context:
            page = context.new_page()
            page.goto(file.as_uri())
            page.set_input_files("#files", files(PICTURES[0]))
            expect(page.locator("#readings > li")).to_have_count(1)
            blocked = page.evaluate(
                """async (address) => {
                  const image = new Image();
                  const shown = new Promise((done) => { image.onload = () => done("image"); image.onerror = () => done("") });
                  image.src = `${address}/image`;
                  const script = document.body.appendChild(Object.assign(document.createElement("script"), { src: `${address}/script` }));
                  return [await fetch(`${address}/fetch`).then(() => "fetch", () => ""), await shown];
                }""",
                address,
            )
            context.new_page().goto(f"{address}/reachable")
    finally:
        server.shutdown()
    assert blocked == ["", ""]
    assert [path for path in asked if path != "/favicon.ico"] == ["/reachable"]
