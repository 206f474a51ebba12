"""A server in its own process, and a browser for its page."""

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.exported_model import MAX_PIXELS, SPEC
from tests.support.paths import ROOT


@contextlib.contextmanager
def serve(folder: Path, **settings: object) -> Iterator[str]:
    """Serves the versions in `folder`/serving during the block; yields the address of the page, which ends with a slash."""
    config = {
        "name": "letters",
        "root": str(folder),
        "captcha": SPEC.model_dump(mode="json"),
        "data": {"root": str(folder), "max_pixels": MAX_PIXELS},
        "pusher": {"serving_dir": str(folder / "serving")},
        "server": {"port": 0, "poll_seconds": 0.2, "access_log": False, **settings},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [str(Path(sys.executable).with_name("captcha-pipeline")), "serve", "--config", str(folder / "config.yaml")]
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as server:
        assert server.stdout is not None
        try:
            found = re.search(r"http://[\w.:]+/", server.stdout.readline())
            assert found, (folder / "log").read_text()
            for line in server.stdout:
                if "answers requests now" in line or "can be served yet" in line:
                    break
            yield found[0]
        finally:
            server.terminate()
            server.communicate(timeout=60)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Starts a browser; skips the test if there is none."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Browser, address: str, **options: object) -> Iterator[Page]:
    """Opens the page. After the block, checks that it has broken no policy, raised no error and asked no other server."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    page = context.new_page()
    messages, foreign = list[str](), list[str]()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(f"uncaught: {error}"))
    page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith((address, "blob:", "data:")) else None)
    try:
        page.goto(address)
        page.locator("#about:not([hidden]), #trouble:not([hidden])").wait_for(timeout=60_000)
        yield page
        assert [message for message in messages if "Security Policy" in message or message.startswith("uncaught")] == []
        assert foreign == []
    finally:
        context.close()
