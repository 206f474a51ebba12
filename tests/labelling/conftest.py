"""Pictures to label, and the configuration of the tests."""

import shutil
from pathlib import Path

import pytest

from pipeline.config.config import Config
from tests.support import labelling
from tests.support.labelling import draw

_COUNT = 60


@pytest.fixture(scope="module")
def drawn_to_label(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("drawn") / "shop"
    return folder, draw(folder, _COUNT)


@pytest.fixture
def folder(drawn_to_label: tuple[Path, dict[str, str]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn_to_label[0], tmp_path / "shop"))


@pytest.fixture
def labels(drawn_to_label: tuple[Path, dict[str, str]]) -> dict[str, str]:
    return drawn_to_label[1]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return labelling.config(tmp_path)
