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


def test_the_export_needs_a_browser(version: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, folder = version
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CaptchaPipelineError, match="no Chromium on the PATH"):
        export(config, folder, "html", out=tmp_path / "page")
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_too_large_for_a_page_is_refused(
    version: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = version
    monkeypatch.setattr(html_page, "MAX_BYTES", 100_000)
    with pytest.raises(CaptchaPipelineError, match="too large for a page"):
        export(config, folder, "html", out=tmp_path / "page")
    assert not list(tmp_path.iterdir())


def test_a_page_that_reads_otherwise_is_not_written(version: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, folder = version
    whole = program.program

    def wrong(graph: Any) -> Any:
        made = whole(graph)
        return dataclasses.replace(made, weights=made.weights * np.float32(1.01))

    monkeypatch.setattr("pipeline.exporting.program.program", wrong)
    with pytest.raises(CaptchaPipelineError, match="is not written"):
        export(config, folder, "html", out=tmp_path / "page")
    assert not list(tmp_path.iterdir())


def test_a_page_that_wants_the_network_is_not_written(
    version: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = version
    whole = html_page.render

    def wrong(*arguments: Any) -> bytes:
        page = whole(*arguments).replace(b"img-src blob:", b"img-src *")
        return page.replace(b"<header>", b'<header><img alt="" src="http://127.0.0.1:9/picture.png">')

    monkeypatch.setattr(html_page, "render", wrong)
    with pytest.raises(CaptchaPipelineError, match=r"it wants http://127\.0\.0\.1:9/picture\.png"):
        export(config, folder, "html", out=tmp_path / "page")
    assert not list(tmp_path.iterdir())
