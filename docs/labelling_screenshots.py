"""Makes the screenshots of docs/labelling.md: `python docs/labelling_screenshots.py FOLDER`, with Chromium.

Draws pictures into the folder and labels them by keyboard, as they are, while models are trained: some ten minutes on a free machine. With
the same folder, a second call only takes the screenshots.
"""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, sync_playwright

from components.data.drawing.painting import SynthPlan, painter
from pipeline.config.loading import load_config
from pipeline.exporting.browser import executable

_ROOT: Final = Path(__file__).parents[1]
_IMAGES: Final = _ROOT / "docs" / "images"
_CONFIG: Final = _ROOT / "configs" / "digits.yaml"
_PICTURES: Final = 1_500
_EVERY: Final = 40
_LABELS: Final = (60, 105, 150, 160)  # a model is trained before each of the last three
_SECONDS: Final = 1_800.0  # for a training
_SIZES: Final = {"label": (1100, "light"), "label-dark": (1100, "dark"), "label-phone": (400, "light")}


def draw(folder: Path) -> dict[str, str]:
    """Draws the pictures that are not there yet. Returns their labels by file name."""
    config = load_config(_CONFIG)
    brush = painter(SynthPlan(config.captcha, config.synth, config.data.splits.model_dump()))
    folder.mkdir(parents=True, exist_ok=True)
    labels = {}
    for number in range(_PICTURES):
        captcha = brush.paint(number)
        labels[f"{number:04d}.png"] = captcha.label
        captcha.image.save(folder / f"{number:04d}.png")
    return labels


def number_in(page: Page, name: str) -> int:
    """Returns a number that the page shows."""
    return int(page.inner_text(f"#{name}").replace(",", ""))


def label(page: Page, labels: dict[str, str], most: int) -> None:
    """Labels pictures by keyboard until there are `most` labels."""
    page.locator("#accept:not([disabled])").wait_for()
    while number_in(page, "labelled") < most:
        shown = page.inner_text("#file")
        page.keyboard.press("Control+a")
        page.keyboard.type(labels[shown])
        page.keyboard.press("Enter")
        page.wait_for_function("shown => document.getElementById('file').textContent !== shown", arg=shown)
        page.locator("#accept:not([disabled])").wait_for()


def wait_for_model(page: Page, models: int) -> None:
    """Waits until so many models have been made, and the newest has read all pictures."""
    end = time.monotonic() + _SECONDS
    while page.locator("#chart circle").count() < models or "reads the pictures" in page.inner_text("#training"):
        words = page.inner_text("#training")
        if "exit code" in words or time.monotonic() > end:
            raise RuntimeError(words)
        time.sleep(1)


def take(browser: Browser, address: str) -> None:
    """Takes the screenshots."""
    for name, (width, scheme) in _SIZES.items():
        page = browser.new_page(viewport={"width": width, "height": 600}, color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(address)
        page.locator("#accept:not([disabled])").wait_for()
        page.screenshot(path=_IMAGES / f"{name}.png", full_page=True)
        page.close()


def main(home: Path) -> None:
    """Draws, labels, and takes the screenshots."""
    labels = draw(home / "shop")
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "label", "shop", f"--config={_CONFIG}"]
    command += [f"--retrain-every={_EVERY}", "--port=0", "--goal=0.9", "--set=name=shop", "--set=data.root=data"]
    log = home / "label.log"
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=home) as process:
        try:
            while not (found := re.search(r"(http://\S+/) and press", log.read_text())):
                if process.poll() is not None:
                    raise RuntimeError(log.read_text())
                time.sleep(0.2)
            with sync_playwright() as tool:
                browser = tool.chromium.launch(executable_path=executable(), args=["--no-sandbox"])
                page = browser.new_page()
                page.goto(found[1])
                for models, most in enumerate(_LABELS):
                    wait_for_model(page, models)
                    label(page, labels, most)
                page.close()
                take(browser, found[1])
                browser.close()
        finally:
            process.send_signal(signal.SIGINT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
