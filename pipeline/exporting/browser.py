"""Opens a page in a headless browser that is installed on this machine. Needs the package playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from components.base.errors import CaptchaPipelineError

if TYPE_CHECKING:
    from playwright.sync_api import Page, Request

COMMANDS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_SECONDS: Final = 120  # for a batch of pictures, on a busy machine


def executable() -> str:
    """Returns the path of an installed Chromium or Chrome.

    Raises:
      CaptchaPipelineError: neither is installed.
    """
    found = next(filter(None, map(shutil.which, COMMANDS)), None)
    if found is None:
        raise CaptchaPipelineError(
            "The page is written only if its readings are proved in a browser, and there is no Chromium on the PATH. Install it, on Debian "
            f"with `apt-get install chromium`. These commands are tried: {', '.join(COMMANDS)}."
        )
    return found


@contextmanager
def opened(path: Path) -> Iterator["Page"]:
    """Opens an HTML file without a network. Gives Playwright's page.

    Raises:
      CaptchaPipelineError: the browser does not start, a script of the page fails, or the page wants to load something.
    """
    from playwright.sync_api import Error, sync_playwright

    faults: list[str] = []
    address = path.resolve().as_uri()

    def note(request: "Request") -> None:
        if request.url != address and not request.url.startswith("blob:"):  # a blob is a picture that the page already has
            faults.append(f"it wants {request.url}")

    with sync_playwright() as playwright:
        try:
            # Chromium's sandbox does not work for root.
            browser = playwright.chromium.launch(executable_path=executable(), chromium_sandbox=os.geteuid() != 0)
            page = browser.new_page(offline=True)
            page.set_default_timeout(1000 * _SECONDS)
            page.on("request", note)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.goto(address)
            yield page
            browser.close()
        except Error as error:
            faults.append(error.message)
    if faults:
        raise CaptchaPipelineError(f"The page does not work in {executable()}: {faults[0]}")
