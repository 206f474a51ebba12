"""An HTML page is exported only with its proof. These tests open browsers, which is impossible while another test has one open."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.errors import CaptchaPipelineError
from pipeline.config.config import Config
from pipeline.exporting import browser, html_page, program
from pipeline.exporting.export import export
from tests.support.exported_version import make_version

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not any(map(shutil.which, browser.COMMANDS)), reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    return make_version(tmp_path_factory.mktemp("version"))


def assert_not_written(version: tuple[Config, Path], folder: Path, message: str) -> None:
    config, model = version
    with pytest.raises(CaptchaPipelineError, match=message):
        export(config, model, "html", out=folder / "page")
    assert not list(folder.iterdir())


def test_the_export_needs_a_browser(version: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_not_written(version, tmp_path, "no Chromium on the PATH")


def test_a_model_that_is_too_large_for_a_page_is_refused(
    version: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(html_page, "MAX_BYTES", 100_000)
    assert_not_written(version, tmp_path, "too large for a page")


def test_a_page_that_reads_otherwise_is_not_written(version: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = program.program

    def wrong(graph: Any) -> Any:
        made = whole(graph)
        return dataclasses.replace(made, weights=made.weights * np.float32(1.01))

    monkeypatch.setattr("pipeline.exporting.program.program", wrong)
    assert_not_written(version, tmp_path, "is not written")


def test_a_page_that_wants_the_network_is_not_written(
    version: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = html_page.render

    def wrong(*arguments: Any) -> bytes:
        page = whole(*arguments).replace(b"img-src blob:", b"img-src *")
        return page.replace(b"<header>", b'<header><img alt="" src="http://127.0.0.1:9/picture.png">')

    monkeypatch.setattr(html_page, "render", wrong)
    assert_not_written(version, tmp_path, r"it wants http://127\.0\.0\.1:9/picture\.png")
