"""How a server follows its serving folder, with real models."""

import asyncio
import base64
import json
import shutil
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tensorflow_transform as tft

from components.serving.serving_dir import push, roll_back
from pipeline.server.versions import NoSuchVersion, State, Versions
from tests.support import exported_model
from tests.support.exported_model import PICTURES

pytestmark = pytest.mark.slow
KEEP = 10


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, graph: tft.TFTransformOutput) -> list[Path]:
    """Three models with different weights."""
    folder = tmp_path_factory.mktemp("models")
    return [
        exported_model.export(folder / str(seed), exported_model.random_model(seed=seed), graph, fingerprint=str(seed)) for seed in range(3)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "serving"


def followed(folder: Path, work: Any, labels: dict[str, int] | None = None) -> None:
    """Calls `work` with the versions of the folder, and unloads them afterwards."""

    async def run() -> None:
        with ThreadPoolExecutor(1) as executor:
            versions = Versions(folder, labels or {}, executor, lambda changed: None)
            try:
                await versions.refresh()
                coroutine: Coroutine[Any, Any, None] = work(versions)
                await coroutine
            finally:
                versions.close()

    asyncio.run(run())


def damage(version: Path) -> None:
    """Overwrites the middle of the weights' index."""
    index = version / "variables" / "variables.index"
    index.write_bytes(b"\0" * index.stat().st_size)


def test_the_newest_version_answers(models: list[Path], folder: Path) -> None:
    push(models[0], folder, KEEP)
    newest = push(models[1], folder, KEEP)

    async def work(versions: Versions) -> None:
        assert versions.available == [newest.version]
        assert versions.find().number == versions.find(newest.version).number == newest.version
        assert versions.statuses[newest.version].state is State.AVAILABLE
        with pytest.raises(NoSuchVersion, match="Specific"):
            versions.find(1)
        with pytest.raises(NoSuchVersion, match="label"):
            versions.find(label="stable")

    followed(folder, work)


def test_a_push_and_a_rollback_are_followed_and_open_requests_finish_on_their_version(models: list[Path], folder: Path) -> None:
    first = push(models[0], folder, KEEP)

    async def work(versions: Versions) -> None:
        before = versions.find()
        expected = before.model.call("serving_default", PICTURES)["probabilities"]
        second = push(models[1], folder, KEEP)
        with before.used():
            await versions.refresh()
            assert versions.find().number == second.version
            assert versions.statuses[first.version].state is State.UNLOADING
            again = before.model.call("serving_default", PICTURES)["probabilities"]
            exported_model.assert_equal(again, expected)
            assert abs(versions.find().model.call("serving_default", PICTURES)["probabilities"] - expected).max() > 1e-3
        await versions.refresh()
        assert versions.statuses[first.version].state is State.END
        with pytest.raises(RuntimeError, match="closed"):
            before.model.call("serving_default", PICTURES)
        copy = roll_back(folder, first.version)
        await versions.refresh()
        assert versions.find().number == copy.version
        exported_model.assert_equal(versions.find().model.call("serving_default", PICTURES)["probabilities"], expected)

    followed(folder, work)


def test_a_version_that_cannot_be_loaded_is_refused_once_and_the_one_before_goes_on(
    models: list[Path], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = push(models[0], folder, KEEP)

    async def work(versions: Versions) -> None:
        bad = push(models[1], folder, KEEP)
        damage(bad.path)
        for _ in range(3):
            await versions.refresh()
        assert versions.find().number == good.version
        assert versions.statuses[bad.version].state is State.END
        assert versions.statuses[bad.version].problem
        assert [record.getMessage() for record in caplog.records if str(bad.version) in record.getMessage()] == [
            f"Version {bad.version} is refused: {versions.statuses[bad.version].problem}"
        ]
        mended = push(models[2], folder, KEEP)
        await versions.refresh()
        assert versions.find().number == mended.version

    followed(folder, work)


def test_a_version_that_reads_its_canaries_differently_is_refused(models: list[Path], folder: Path) -> None:
    good = push(models[0], folder, KEEP)

    async def work(versions: Versions) -> None:
        canaries = [{"b64": base64.b64encode(PICTURES[0]).decode(), "text": "漢漢漢"}]
        changed = shutil.copytree(models[1], folder.parent / "changed")
        (changed / "assets.extra" / "canaries.json").write_text(json.dumps(canaries), encoding="utf-8")
        bad = push(changed, folder, KEEP)
        await versions.refresh()
        assert versions.find().number == good.version
        assert "漢漢漢" in versions.statuses[bad.version].problem

    followed(folder, work)


def test_a_removed_version_gives_way_to_the_one_before(models: list[Path], folder: Path) -> None:
    first, second = push(models[0], folder, KEEP), push(models[1], folder, KEEP)

    async def work(versions: Versions) -> None:
        shutil.rmtree(second.path)
        await versions.refresh()
        assert versions.find().number == first.version
        shutil.rmtree(first.path)
        await versions.refresh()
        assert versions.find().number == first.version, "which is better than no version"

    followed(folder, work)


def test_a_labelled_version_stays_loaded(models: list[Path], folder: Path) -> None:
    first = push(models[0], folder, KEEP)

    async def work(versions: Versions) -> None:
        second = push(models[1], folder, KEEP)
        await versions.refresh()
        assert versions.available == [first.version, second.version]
        assert versions.find(label="stable").number == first.version
        assert versions.find().number == second.version

    followed(folder, work, {"stable": first.version})


def test_a_server_waits_for_the_first_push(models: list[Path], folder: Path) -> None:
    async def work(versions: Versions) -> None:
        assert versions.current is None
        with pytest.raises(NoSuchVersion, match="Latest"):
            versions.find()
        pushed = push(models[0], folder, KEEP)
        await versions.refresh()
        assert versions.find().number == pushed.version

    followed(folder, work)


def test_a_damaged_folder_is_reported_and_the_version_goes_on(models: list[Path], folder: Path) -> None:
    first = push(models[0], folder, KEEP)

    async def work(versions: Versions) -> None:
        empty = folder / "99999999999"
        empty.mkdir()
        (empty / "saved_model.pb").touch()
        await versions.refresh()
        assert "damaged" in versions.folder_problem
        assert versions.find().number == first.version
        shutil.rmtree(empty)
        await versions.refresh()
        assert versions.folder_problem == ""

    followed(folder, work)
