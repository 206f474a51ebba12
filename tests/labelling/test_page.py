"""The page on which a person labels, in a browser: with a real program, which is killed in between."""

import contextlib
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from components.base.features import LABEL, PARAMS
from components.data.example_proto import Example
from components.data.spans import list_spans
from components.data.tfrecords import read_records
from tests.support.contrast import CONTRAST
from tests.support.labelling import Labelling, draw, labelling
from tests.support.served_page import chromium, watched

pytestmark = pytest.mark.slow
COUNT = 40


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("drawn") / "shop"
    labels = draw(folder, COUNT)
    (folder / "broken.png").write_bytes(b"broken")
    return folder, labels


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Path, dict[str, str]]) -> Iterator[Labelling]:
    """A program for tests that label nothing."""
    with labelling(tmp_path_factory.mktemp("running"), drawn[0]) as program:
        yield program


@pytest.fixture
def fresh(tmp_path: Path, drawn: tuple[Path, dict[str, str]]) -> Iterator[Labelling]:
    with labelling(tmp_path, drawn[0]) as program:
        yield program


def ready(page: Page) -> None:
    """Waits until the page shows a picture and takes a text for it."""
    expect(page.locator("#accept:not([disabled]), #done:not([hidden])")).to_have_count(1)


def name(page: Page) -> str:
    ready(page)
    return page.inner_text("#file")


def label(page: Page, text: str, shown: str) -> None:
    """Types a text over the present one and accepts it; waits for the next picture."""
    page.keyboard.press("Control+a")
    page.keyboard.type(text)
    page.keyboard.press("Enter")
    expect(page.locator("#file")).not_to_have_text(shown)
    ready(page)


def stores(text: str) -> Callable[[Response], bool]:
    """Returns whether a response says that this text is stored while it is being typed."""
    return lambda response: response.ok and response.url.endswith("/draft") and f'"text":"{text}"' in (response.request.post_data or "")


def label_all(page: Page, labels: dict[str, str], count: int) -> list[str]:
    """Labels pictures as they are, by keyboard; returns their names."""
    found = []
    for _ in range(count):
        shown = name(page)
        label(page, labels[shown], shown)
        found.append(shown)
    return found


def in_spans(home: Path) -> list[tuple[str, str]]:
    """Returns the file and the label of each record of all spans."""
    found = []
    for span in list_spans(home / "data"):
        for split in ("train", "eval", "test"):
            for record in (record for path in span.files(split) for record in read_records(path)):
                feature = Example.FromString(record.data).features.feature
                params, text = (feature[name].bytes_list.value[0].decode() for name in (PARAMS, LABEL))
                found.append((params.split('"')[3], text))
    return found


@pytest.mark.long
def test_thirty_labels_by_keyboard_survive_a_kill(browser: Browser, tmp_path: Path, drawn: tuple[Path, dict[str, str]]) -> None:
    folder, labels = drawn
    with labelling(tmp_path, folder) as program, watched(browser, program.address) as page:
        port = int(program.address.rsplit(":", 1)[1].strip("/"))
        done = label_all(page, labels, 17)
        begun = name(page)
        with page.expect_response(stores("1")):
            page.keyboard.type("1")
        program.kill()
        page.keyboard.type("0")  # while nothing answers
        expect(page.locator("#trouble")).to_contain_text("does not answer")
        with contextlib.ExitStack() as opened:
            with page.expect_response(stores("10"), timeout=60_000):
                again = opened.enter_context(labelling(tmp_path, folder, port=port))
            expect(page.locator("#trouble")).to_be_hidden(timeout=30_000)
            assert name(page) == begun  # the same picture, with its text
            assert page.input_value("#text") == "10"
            again.kill()
            with labelling(tmp_path, folder, port=port) as last:
                page.reload()
                assert name(page) == begun
                assert page.input_value("#text") == "10"
                expect(page.locator("#reading")).to_contain_text("Your text, not accepted yet.")
                expect(page.locator("#labelled")).to_have_text("17")
                done += label_all(page, labels, 13)
                expect(page.locator("#labelled")).to_have_text("30")
                code, told = last.stop()
    assert code == 0, told
    assert "Ended. 30 labelled" in told
    assert len(set(done)) == 30
    assert sorted(in_spans(tmp_path)) == sorted((file, labels[file]) for file in done)  # all, and none twice


def test_the_keys_and_what_they_do(browser: Browser, fresh: Labelling, drawn: tuple[Path, dict[str, str]]) -> None:
    _, labels = drawn
    with watched(browser, fresh.address) as page:
        expect(page.locator("#back")).to_be_disabled()
        one = name(page)
        page.keyboard.press("Escape")
        expect(page.locator("#file")).not_to_have_text(one)
        two = name(page)
        page.keyboard.press("Alt+u")
        expect(page.locator("#file")).not_to_have_text(two)
        three = name(page)
        label(page, labels[three], three)
        four = name(page)
        expect(page.locator("#skipped")).to_have_text("1")
        expect(page.locator("#unreadables")).to_have_text("1")
        expect(page.locator("#labelled")).to_have_text("1")
        page.keyboard.press("Alt+b")
        expect(page.locator("#file")).to_have_text(three)
        ready(page)
        assert page.input_value("#text") == labels[three]
        page.keyboard.press("Alt+b")
        expect(page.locator("#file")).to_have_text(two)
        expect(page.locator("#reading")).to_contain_text("unreadable")
        ready(page)
        label(page, labels[two], two)  # a correction; then forward again
        assert name(page) == three
        page.keyboard.press("Enter")
        expect(page.locator("#file")).to_have_text(four)
        expect(page.locator("#labelled")).to_have_text("2")
        expect(page.locator("#unreadables")).to_have_text("0")
        assert page.locator("#text").evaluate("field => field === document.activeElement")
    code, told = fresh.stop(signal.SIGTERM)
    assert code == 0
    assert "2 labelled, 1 skipped, 0 unreadable" in told


def test_a_refused_label_is_explained_at_once(browser: Browser, running: Labelling) -> None:
    with watched(browser, running.address) as page:
        shown = name(page)
        page.keyboard.type("0x")
        page.keyboard.press("Enter")
        expect(page.locator("#trouble")).to_have_text("Label '0x' has 'x' at position 2, which is not in the charset.")
        assert name(page) == shown
        assert page.input_value("#text") == "0x"
        expect(page.locator("#text")).to_have_attribute("aria-invalid", "true")
        page.keyboard.press("Backspace")
        expect(page.locator("#trouble")).to_be_hidden()
        expect(page.locator("#labelled")).to_have_text("0")


def test_two_windows_do_not_disturb_each_other(browser: Browser, fresh: Labelling, drawn: tuple[Path, dict[str, str]]) -> None:
    _, labels = drawn
    with watched(browser, fresh.address) as one, watched(browser, fresh.address) as two:
        held = name(two)
        of_one = label_all(one, labels, 6)
        assert name(two) == held
        of_two = label_all(two, labels, 5)
        assert not set(of_one) & set(of_two)
        assert name(one) != name(two)
        one.keyboard.press("Alt+b")
        expect(one.locator("#file")).to_have_text(of_one[-1])
        two.keyboard.press("Alt+b")
        expect(two.locator("#file")).to_have_text(of_two[-1])
        copy = one.context.new_page()  # as a browser duplicates a window, with its storage
        copy.add_init_script(f"sessionStorage.setItem('window', {one.evaluate('sessionStorage.getItem(`window`)')!r})")
        copy.goto(fresh.address)
        assert name(copy) not in (name(one), *of_one, *of_two)


def test_the_picture_has_the_pixels_of_the_file(browser: Browser, running: Labelling, drawn: tuple[Path, dict[str, str]]) -> None:
    with watched(browser, running.address) as page:
        name(page)
        picture = page.locator("#picture")
        assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [40, 24]
        assert picture.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
        box = picture.bounding_box()
        assert box is not None
        assert box["width"] >= 200
        assert box["width"] / box["height"] == pytest.approx(40 / 24, rel=0.01)


def test_broken_files_are_listed(browser: Browser, running: Labelling) -> None:
    with watched(browser, running.address) as page:
        name(page)
        expect(page.locator("#broken summary")).to_have_text("1 file is not a usable picture")
        page.click("#broken summary")
        expect(page.locator("#broken pre")).to_contain_text("broken.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_texts_have_contrast(browser: Browser, running: Labelling, scheme: Any) -> None:
    with watched(browser, running.address, color_scheme=scheme) as page:
        name(page)
        page.keyboard.type("x")
        page.keyboard.press("Enter")
        expect(page.locator("#trouble")).to_be_visible()
        texts = ["h1", "#folder", "#file", "label", "#text", "#reading", "#trouble", "dt", "dd", "#training", "#interval", "summary"]
        texts += ["#accept", "#skip", "#unreadable"]
        contrasts = {text: found.evaluate(CONTRAST) for text in texts for found in page.locator(text).all()}
        assert contrasts.keys() == set(texts)
        assert {text: contrast for text, contrast in contrasts.items() if contrast < 4.5} == {}  # WCAG 2.2, level AA


def test_a_phone_needs_no_scrolling_to_the_side(browser: Browser, tmp_path: Path, drawn: tuple[Path, dict[str, str]]) -> None:
    long = tmp_path / ("a" * 120)
    long.mkdir()
    shutil.copy(drawn[0] / "0000.png", long / f"{'b' * 200}.png")
    with labelling(tmp_path, long) as program, watched(browser, program.address, viewport={"width": 400, "height": 800}) as page:
        name(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 400
