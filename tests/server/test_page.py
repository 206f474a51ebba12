"""The page of the server, in a browser: with a real server and a real model."""

import base64
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_transform as tft
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect

from components.base.features import ATTENTION, CONFIDENCE, PROBABILITIES, TEXT
from components.data.placement import on_picture, place
from components.serving.serving_dir import push
from components.training.model import PRESETS
from tests.support import exported_model
from tests.support.contrast import CONTRAST
from tests.support.encoded import encode
from tests.support.exported_model import MAX_PIXELS, PICTURES, SPEC
from tests.support.served_page import chromium, opened, serve

pytestmark = pytest.mark.slow

SIZES = [Image.new("RGB", (40, 10)), Image.new("RGB", (10, 30)), Image.new("RGB", (24, 12))]
BROKEN = PICTURES[0][:60]
# Text and its background in the light and in the dark page.
TEXTS = ["h1", "dt", "#charset", ".product", "#choose", "#formats", "#clear", "figcaption", ".text", ".facts", ".glyph", ".number"]


@pytest.fixture(scope="module")
def answer(model: Path) -> dict[str, np.ndarray]:
    """The answer of the model itself to PICTURES."""
    return exported_model.answers_in_python(model, {"explain": PICTURES})["explain"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    push(model, folder / "serving", keep=5)
    with serve(folder, max_body_mib=0.02) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with opened(browser, address) as page:
        yield page


def file(data: bytes, name: str = "a.png", kind: str = "image/png") -> FilePayload:
    return {"name": name, "mimeType": kind, "buffer": data}


def choose(page: Page, *files: FilePayload) -> None:
    page.set_input_files("#files", list(files))
    settle(page)


def settle(page: Page) -> None:
    expect(page.locator(".card").first).to_be_visible()
    expect(page.locator(".busy")).to_have_count(0, timeout=30_000)


def texts(page: Page) -> list[str]:
    return page.locator(".card .text").all_inner_texts()


def read(page: Page, address: str, data: bytes, kind: str = "image/png") -> Any:
    return page.request.post(f"{address}read", data=data, headers={"Content-Type": kind})


def test_chosen_pictures_are_read_and_a_broken_one_does_not_stop_them(page: Page, answer: dict[str, np.ndarray]) -> None:
    choose(page, file(PICTURES[0]), file(BROKEN, "broken.png"), *(file(picture) for picture in PICTURES[1:]))
    expected = [text.decode() for text in answer[TEXT]]
    assert texts(page) == [expected[0], "Not read", *expected[1:]]
    assert page.locator(".facts").nth(1).inner_text() == "The file is broken, or it is neither a PNG nor a JPEG."
    assert page.inner_text("#status") == "7 pictures, 6 read, 1 not read."
    assert [image.get_attribute("alt") for image in page.locator(".card img").all()][:2] == ["a.png", "broken.png"]

    confidence = np.floor(1000 * answer[CONFIDENCE][0]) / 10
    assert page.locator(".facts").first.inner_text().startswith(f"{confidence:.1f} % confident · ")
    assert page.locator(".facts").first.inner_text().endswith(" ms")
    first = page.locator(".card").first
    assert first.locator(".glyph").all_inner_texts()[: len(expected[0])] == list(expected[0])
    best = answer[PROBABILITIES][0][0, :-1].max()  # of the characters; the last class is the blank
    assert first.locator(".number").first.inner_text() == f"{np.floor(1000 * best) / 10:.1f} %"
    assert first.locator(".fill").first.evaluate("bar => bar.style.width").startswith(f"{100 * best:.3f}"[:4])


def test_later_pictures_come_first_and_clear_removes_all(page: Page) -> None:
    choose(page, file(PICTURES[0], "one.png"))
    choose(page, file(PICTURES[1], "two.png"), file(PICTURES[2], "three.png"))
    assert [text.split(" ")[0] for text in page.locator("figcaption").all_inner_texts()] == ["two.png", "three.png", "one.png"]
    page.click("#clear")
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#choose")).to_be_focused()


def test_the_model_is_described(page: Page) -> None:
    assert page.title() == "letters – captcha-pipeline"
    assert page.inner_text("h1") == "letters"
    shown = [page.inner_text(f"#{name}") for name in ("length", "charset", "size")]
    assert shown == ["2 to 3", SPEC.characters, "24 × 12"]
    assert page.inner_text("#version").isdigit()
    assert page.inner_text("#formats") == "PNG or JPEG, up to 20 KiB each"


def test_pictures_can_be_dropped(page: Page, answer: dict[str, np.ndarray], tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path, picture in zip(paths, PICTURES, strict=False):
        path.write_bytes(picture)
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for event in ("dragEnter", "dragOver"):
        devtools.send("Input.dispatchDragEvent", {"type": event, "x": 300, "y": 300, "data": data})
    expect(page.locator("#drop.over")).to_have_count(1)
    devtools.send("Input.dispatchDragEvent", {"type": "drop", "x": 300, "y": 300, "data": data})
    settle(page)
    assert texts(page) == [text.decode() for text in answer[TEXT][:2]]
    expect(page.locator("#drop.over")).to_have_count(0)


def test_a_picture_can_be_pasted(browser: Browser, address: str, answer: dict[str, np.ndarray]) -> None:
    with opened(browser, address, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.bring_to_front()
        page.evaluate(
            """async (picture) => {
              const bytes = Uint8Array.from(atob(picture), (byte) => byte.charCodeAt(0));
              await navigator.clipboard.write([new ClipboardItem({ "image/png": new Blob([bytes], { type: "image/png" }) })]);
            }""",
            base64.b64encode(PICTURES[3]).decode(),
        )
        page.keyboard.press("Control+v")
        settle(page)
        assert texts(page) == [answer[TEXT][3].decode()]
        assert page.inner_text("#status").startswith(f"image.png: {answer[TEXT][3].decode()}. ")


def test_the_keyboard_is_enough(page: Page) -> None:
    choose_button = page.locator("#choose")
    with page.expect_file_chooser() as chooser:  # from here, because Chromium takes a moment to pass choosers on
        page.keyboard.press("Tab")
        expect(choose_button).to_be_focused()
        assert choose_button.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
        page.keyboard.press("Enter")
    chooser.value.set_files([file(PICTURES[0]), file(PICTURES[1])])
    settle(page)
    page.keyboard.press("Tab")
    expect(page.locator("#clear")).to_be_focused()
    page.keyboard.press("Tab")
    characters = page.locator(".card").first.locator(".character")
    expect(characters.first).to_be_focused()
    assert characters.first.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")
    expect(characters.nth(1)).to_be_focused()
    expect(page.locator(".card").first.locator("path.chosen")).to_have_class("odd chosen")
    page.keyboard.press("Home")
    expect(characters.first).to_be_focused()
    page.keyboard.press("Tab")  # past the other characters
    expect(page.locator(".card").nth(1).locator(".character").first).to_be_focused()


@pytest.mark.parametrize("image", SIZES, ids=lambda image: f"{image.width}x{image.height}")
def test_the_answer_has_the_attention_of_the_model(page: Page, address: str, model: Path, image: Image.Image) -> None:
    picture = encode(image)
    reading = read(page, address, picture).json()
    answer = {name: value[0] for name, value in exported_model.answers_in_python(model, {"explain": [picture]})["explain"].items()}
    assert reading["text"] == answer[TEXT].decode() == "".join(found["character"] for found in reading["characters"])
    edges, attention = on_picture(answer[ATTENTION], place(image.width, image.height, SPEC), SPEC)
    np.testing.assert_allclose(reading["edges"], edges, atol=1e-4)
    for found, expected in zip(reading["characters"], attention, strict=False):
        np.testing.assert_allclose(found["attention"], expected, atol=1e-4)
    product = np.prod([found["confidence"] for found in reading["characters"]]) * reading["end"]
    assert product == pytest.approx(reading["confidence"], rel=1e-4)


def test_a_character_that_is_pointed_at_shows_where_the_model_looked(page: Page, answer: dict[str, np.ndarray]) -> None:
    choose(page, file(PICTURES[0]))
    length = len(answer[TEXT][0].decode())
    expect(page.locator(".curves path")).to_have_count(length)
    expect(page.locator(".veil rect")).to_have_count(0)
    page.locator(".character").nth(1).hover()
    # The picture is as large as the canvas. It is the clearest where the attention is the largest.
    stops = page.locator(".veil stop")
    opacities = [float(stop.get_attribute("stop-opacity") or "nan") for stop in stops.all()]
    attention = answer[ATTENTION][0][1]
    np.testing.assert_allclose(opacities, 0.88 * (1 - attention / attention.max()), atol=0.01)
    widest, left = page.locator(".picture").bounding_box(), page.locator(".curves").bounding_box()
    assert widest is not None
    assert left is not None
    assert (left["x"], left["width"]) == (widest["x"], widest["width"])
    page.mouse.move(0, 0)
    expect(page.locator(".veil rect")).to_have_count(0)


def test_the_message_says_why_a_picture_is_not_read(page: Page, address: str) -> None:
    too_large = encode(Image.new("RGB", (MAX_PIXELS, 2)))
    choose(
        page,
        file(b"", "empty.png"),
        file(b"path,label\n", "labels.csv", "text/csv"),
        file(encode(Image.new("RGB", (24, 12)), "GIF"), "a.gif", "image/gif"),
        file(too_large, "large.png"),
        file(bytes(30_000), "heavy.png"),
    )
    assert page.locator(".facts").all_inner_texts() == [
        "The picture has no bytes.",
        "The file is broken, or it is neither a PNG nor a JPEG.",
        "The model reads only PNG and JPEG.",
        "The picture has more than 1,000 pixels, which is the limit.",
        "The file has 29 KiB. The server takes up to 20 KiB.",
    ]
    expect(page.locator(".blank")).to_have_count(3)  # the browser shows the others
    assert read(page, address, bytes(30_000)).status == 413


def test_a_busy_server_can_be_asked_again(page: Page, answer: dict[str, np.ndarray]) -> None:
    message = "The server is busy: its queue is full."
    page.route("**/read", lambda route: route.fulfill(status=429, json={"error": message}))
    choose(page, file(PICTURES[0]))
    assert page.inner_text("#status") == f"a.png: Not read. {message}"
    page.unroute("**/read")
    page.click(".again")
    expect(page.locator(".card .text")).to_have_text(answer[TEXT][0].decode())
    expect(page.locator(".again")).to_be_hidden()


def test_texts_are_never_markup(page: Page) -> None:
    markup = "<img src=x onerror=alert(1)>"
    character = {"character": "<b>", "confidence": 0.5, "attention": []}
    reading = {"text": markup, "confidence": 0.5, "valid": True, "milliseconds": 1, "version": 1, "edges": [], "end": None}
    page.route("**/read", lambda route: route.fulfill(json=reading | {"characters": [character]}))
    choose(page, file(PICTURES[0], f"{markup}.png"))
    assert texts(page) == [markup]
    assert page.locator(".glyph").all_inner_texts() == ["<b>"]
    assert page.locator("figcaption").inner_text().startswith(f"{markup}.png · ")
    expect(page.locator("img")).to_have_count(1)


def test_other_sites_cannot_send_a_form(page: Page, address: str) -> None:
    for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded"):
        assert read(page, address, PICTURES[0], kind).status == 415


def test_the_files_have_a_strict_policy_and_are_kept_until_they_change(page: Page, address: str) -> None:
    for name in ("", "page/page.js", "page/style.css"):
        response = page.request.get(address + name)
        assert response.status == 200
        policy = {part.split(" ", 1)[0]: part.split(" ", 1)[1] for part in response.headers["content-security-policy"].split("; ")}
        assert policy["default-src"] == "'none'"
        assert {policy["script-src"], policy["style-src"], policy["connect-src"]} == {"'self'"}
        assert policy["img-src"] == "'self' blob: data:"
        assert (response.headers["x-content-type-options"], response.headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert response.headers["cache-control"] == "no-cache"
        assert page.request.get(address + name, headers={"If-None-Match": response.headers["etag"]}).status == 304
    for name in ("page/web_page.py", "page/..%2fweb_page.py", "page/"):
        assert page.request.get(address + name).status == 404


def test_the_policy_stops_scripts_and_requests_of_a_stranger(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    refused = page.evaluate(
        """() => new Promise((done) => {
          const found = new Set();
          document.addEventListener("securitypolicyviolation", (event) => {
            found.add(event.effectiveDirective);
            if (found.size === 4) done([...found].sort());
          });
          document.body.insertAdjacentHTML("beforeend",
            "<img src='http://localhost:9/x.png'><p style='color: red' onclick='1'>x</p><iframe src='http://localhost:9/'></iframe>");
          fetch("http://localhost:9/").catch(() => 0);
        })"""
    )
    assert {directive.removesuffix("-attr").removesuffix("-elem") for directive in refused} >= {"connect-src", "img-src"}
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_texts_have_contrast(browser: Browser, address: str, scheme: Any) -> None:
    with opened(browser, address, color_scheme=scheme) as page:
        choose(page, file(PICTURES[0]), file(BROKEN))
        background = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (max(background) < 60) == (scheme == "dark")
        contrasts = {f"{text} {i}": found.evaluate(CONTRAST) for text in TEXTS for i, found in enumerate(page.locator(text).all())}
        assert len(contrasts) > len(TEXTS)
        assert {text: contrast for text, contrast in contrasts.items() if contrast < 4.5} == {}  # WCAG 2.2, level AA


def test_a_phone_needs_no_scrolling_to_the_side(browser: Browser, address: str) -> None:
    options: dict[str, Any] = {"viewport": {"width": 390, "height": 800}, "is_mobile": True, "has_touch": True}
    with opened(browser, address, **options) as page:
        choose(page, file(PICTURES[0], "a" * 200 + ".png"), file(encode(Image.new("RGB", (200, 4))), "wide.png"), file(BROKEN))
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.locator(".character").first.tap()
        expect(page.locator(".veil rect")).to_have_count(1)


def test_the_page_follows_the_versions_and_does_without_attention(browser: Browser, tmp_path: Path, graph: tft.TFTransformOutput) -> None:
    design = dataclasses.replace(PRESETS["vgg-book"], groups=((4,),), dense=())
    direct = exported_model.export(tmp_path / "model", exported_model.random_model(design), graph)
    with serve(tmp_path) as address, opened(browser, address) as page:
        assert page.inner_text("#trouble") == "No version of the model is loaded yet."
        choose(page, file(PICTURES[0]))
        assert page.locator(".facts").all_inner_texts() == ["No version of the model is loaded yet."]
        pushed = push(direct, tmp_path / "serving", keep=5)
        expected = exported_model.answers_in_python(direct, {"serving_default": PICTURES})["serving_default"][TEXT][0].decode()
        while page.locator(".again").is_visible():
            page.click(".again")
            settle(page)
        assert texts(page) == [expected]
        expect(page.locator("#version")).to_have_text(str(pushed.version), timeout=30_000)
        expect(page.locator("#trouble")).to_be_hidden()
        expect(page.locator(".curves path")).to_have_count(0)
        assert page.locator(".glyph").all_inner_texts()[: len(expected)] == list(expected)
