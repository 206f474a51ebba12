"""The page of an audit, in a browser: choices by keyboard, which survive a reload, become a table that `data correct` understands."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from components.data.captcha_spec import CaptchaSpec
from components.data.sources.corrections import correct
from components.data.sources.imported import import_folder
from components.data.sources.seen import of_encoded
from components.data.spans import list_spans
from pipeline.reporting import audit_page
from pipeline.reporting.audit_page import write_audit
from pipeline.runs.audit import Audit, Suspect
from tests.support.imports import labelled, picture, plan
from tests.support.served_page import chromium

SPEC = CaptchaSpec(charset="alnum", case_sensitive=False, length=4, width=20, height=10)
HOSTILE = '"><script>alert(1)</script>'


def suspect(number: int, **changed: object) -> Suspect:
    key = of_encoded(picture(number), "", "", plan(Path()).rules).key.hex()
    fields: dict[str, object] = {
        "key": key,
        "span": "span-000001",
        "split": "train",
        "shard": "train/shard-00000-of-00001.tfrecord.gz",
        "record": number,
        "file": f"{number}.png",
        "label": f"AB{number:02d}",
        "reading": f"AC{number:02d}",
        "confidence": 0.99,
        "label_confidence": 0.001,
        "score": 0.001,
        "picture": picture(number),
    }
    return Suspect(**fields | changed)  # type: ignore[arg-type]


AUDIT = Audit("2026-11-29T10:00:00", 300, 0.97, (*map(suspect, range(5)), suspect(5, file=HOSTILE, label="</a>", reading="")))


def test_all_suspects_are_written_as_json(tmp_path: Path) -> None:
    write_audit("shop", AUDIT, SPEC, tmp_path / "audit")
    rows = [json.loads(line) for line in (tmp_path / "audit" / "suspects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 6
    assert rows[1] == {name: value for name, value in vars(AUDIT.suspects[1]).items() if name != "picture"}


def test_a_page_shows_a_bounded_number_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_page, "MAX_SHOWN", 2)
    html = write_audit("shop", AUDIT, SPEC, tmp_path).read_text(encoding="utf-8")
    assert html.count("<article") == 2
    assert "6 of 300 labels are probably wrong" in html
    assert "This page shows the first 2" in html
    assert len((tmp_path / "suspects.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("as_labelled", "words"),
    [
        (0.92, "6 of 300 labels are probably wrong. The models read 92 % of the pictures as labelled. No model"),
        (0.67, "6 of 300 labels may be wrong. The models read 67 % of the pictures as labelled. Either many labels are wrong, or"),
    ],
)
def test_the_page_says_how_far_the_models_can_be_trusted(tmp_path: Path, as_labelled: float, words: str) -> None:
    page = write_audit("shop", replace(AUDIT, as_labelled=as_labelled), SPEC, tmp_path)
    assert words in page.read_text(encoding="utf-8")


def test_without_suspects_the_page_says_so(tmp_path: Path) -> None:
    html = write_audit("shop", Audit("run", 300, 0.97, ()), SPEC, tmp_path).read_text(encoding="utf-8")
    assert "No label looks wrong." in html
    assert (tmp_path / "suspects.jsonl").read_text() == ""


def test_the_page_loads_nothing_and_escapes_what_strangers_wrote(tmp_path: Path) -> None:
    html = write_audit(HOSTILE, AUDIT, SPEC, tmp_path).read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert all(address.startswith("data:image/png;base64,") for address in re.findall(r'(?:src|href|action)="([^"]*)"', html))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    path = write_audit("shop", AUDIT, SPEC, tmp_path / "audit")
    context = browser.new_context()
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(path.as_uri())
    yield page
    assert faults == []
    context.close()


def saved(page: Page) -> str:
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "corrections.csv"
    return Path(download.value.path()).read_text(encoding="utf-8")


def focused(page: Page) -> str | None:
    return page.evaluate("document.activeElement.closest('article')?.dataset.key")


def key(number: int) -> str:
    return AUDIT.suspects[number].key


@pytest.mark.slow
def test_choices_by_keyboard_become_a_table(page: Page) -> None:
    expect(page.locator("#download")).to_be_disabled()
    assert focused(page) == key(0)
    page.keyboard.press("Enter")  # correct to what was read
    page.keyboard.press("r")
    page.keyboard.press("k")
    page.keyboard.press("e")
    page.keyboard.type("xy9z")
    page.keyboard.press("Enter")
    assert focused(page) == key(4)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("c")
    page.keyboard.press("u")  # of the last picture, which stays undecided
    expect(page.locator("#summary")).to_have_text("3 to correct, 1 to remove, 1 to keep, 1 undecided")
    assert saved(page) == f'key,label\n{key(0)},"AC00"\n{key(1)},\n{key(3)},"xy9z"\n{key(4)},"AC04"\n'


@pytest.mark.slow
def test_choices_survive_a_reload_and_do_not_apply_to_another_audit(page: Page, tmp_path: Path) -> None:
    page.keyboard.press("r")
    page.locator("article").nth(2).get_by_label("Right label").fill("QQQQ")
    page.reload()
    expect(page.locator("#summary")).to_have_text("1 to correct, 1 to remove, 0 to keep, 4 undecided")
    expect(page.locator("article").nth(2).get_by_label("Right label")).to_have_value("QQQQ")
    other = Audit("another", 300, 0.97, (suspect(0, label="ZZZZ"), *AUDIT.suspects[1:]))
    page.goto(write_audit("shop", other, SPEC, tmp_path / "audit").as_uri())
    expect(page.locator("#summary")).to_have_text("0 to correct, 0 to remove, 0 to keep, 6 undecided")


@pytest.mark.slow
def test_a_text_that_is_no_label_is_not_taken(page: Page) -> None:
    card = page.locator("article").first
    field = card.get_by_label("Right label")
    for text in ("ABC", "ABCDE", "AB?D", ""):
        field.fill(text)
        expect(field).to_have_attribute("aria-invalid", "true")
        field.press("Enter")
        assert focused(page) == key(0)
        card.get_by_label("correct to").click()
    expect(page.locator("#summary")).to_have_text("0 to correct, 0 to remove, 0 to keep, 6 undecided")
    field.fill("ab12")  # the configuration does not tell cases apart
    expect(page.locator("#summary")).to_have_text("1 to correct, 0 to remove, 0 to keep, 5 undecided")


@pytest.mark.slow
def test_the_table_of_the_page_corrects_the_spans(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        (folder / f"AB{number:02d}_a.png").write_bytes(picture(number))
    target = plan(tmp_path / "data", spec=SPEC)
    import_folder(folder, "{label}_*", target)
    page.keyboard.press("c")
    page.keyboard.press("r")
    (tmp_path / "corrections.csv").write_text(saved(page), encoding="utf-8")
    result = correct(tmp_path / "corrections.csv", target)
    assert (list(labelled(result.span)), result.removed) == (["AC00"], 1)
    assert set(list_spans(target.root)[1].manifest.supersedes) == {key(0), key(1)}
