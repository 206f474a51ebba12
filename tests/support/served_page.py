"""A server in its own process, and a browser for its page."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from components.base.errors import CaptchaPipelineError
from pipeline.exporting.browser import executable
from tests.support.server_process import served


@contextlib.contextmanager
def serve(folder: Path, **settings: object) -> Iterator[str]:
    """Serves the versions in `folder`/serving during the block; yields the address of the page, which ends with a slash."""
    options = [f"server.{key}={value}" for key, value in settings.items()]
    with served(folder / "serving", folder / "log", "name=letters", "server.poll_seconds=0.2", *options) as server:
        yield f"{server.url}/"


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Starts a browser; skips the test if there is none."""
    try:
        program = executable()
    except CaptchaPipelineError:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Browser, address: str, **options: object) -> Iterator[Page]:
    """Opens the page of the server, as `watched`, and waits for its model."""
    with watched(browser, address, **options) as page:
        page.locator("#about:not([hidden]), #trouble:not([hidden])").wait_for(timeout=60_000)
        yield page


@contextlib.contextmanager
def watched(browser: Browser, address: str, **options: object) -> Iterator[Page]:
    """Opens a page. After the block, checks that it has broken no policy, raised no error and asked no other server."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    page = context.new_page()
    messages, foreign = list[str](), list[str]()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(f"uncaught: {error}"))
    page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith((address, "blob:", "data:")) else None)
    try:
        page.goto(address)
        yield page
        assert [message for message in messages if "Security Policy" in message or message.startswith("uncaught")] == []
        assert foreign == []
    finally:
        context.close()
