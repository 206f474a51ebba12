"""Watchers of a server's readings: the thread, the prediction log and the drift alarms."""

import json
import os
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest

from components.base.errors import CaptchaPipelineError
from components.base.features import CONFIDENCE, TEXT, VALID
from components.data.drift import Profile
from components.data.example_proto import Example
from components.data.pictures import PictureError, PictureRules, inspect_picture
from components.serving.training_profile import TrainingProfile
from pipeline.config.server import PredictionLogConfig
from pipeline.server import drift_watch
from pipeline.server.drift_watch import DriftWatch
from pipeline.server.observations import Observation, Observations
from pipeline.server.prediction_log import PATTERN, PredictionLog
from tests.support.command import call
from tests.support.encoded import encode
from tests.support.exported_model import SPEC
from tests.support.transform_run import draw

VERSION: Any = SimpleNamespace(number=7, pushed=SimpleNamespace(path=Path("/nowhere"), spec=SPEC))


class Seen:
    """A watcher that notes what it sees, and fails at a text."""

    def __init__(self, fails_at: str = "") -> None:
        self.observations: list[Observation] = []
        self.go = Event()
        self.go.set()
        self._fails_at = fails_at

    def watch(self, observation: Observation) -> None:
        self.go.wait()
        if observation.text == self._fails_at:
            raise OSError("disk full")
        self.observations.append(observation)

    def close(self) -> None:
        self.observations.append(Observation(VERSION, b"", "closed", 0, 0))


def answer(texts: list[str], valid: list[bool]) -> dict[str, np.ndarray]:
    return {
        TEXT: np.array([text.encode() for text in texts], object),
        CONFIDENCE: np.linspace(0.5, 1, len(texts), dtype=np.float32),
        VALID: np.array(valid),
    }


def test_watchers_see_the_valid_pictures_of_each_signature() -> None:
    seen = Seen()
    observations = Observations([seen], lambda count: None)
    observations.observe(VERSION, "serving_default", [b"1", b"2", b"3"], answer(["a", "", "c"], [True, False, True]))
    example = Example()
    example.features.feature["image"].bytes_list.value.append(b"4")
    observations.observe(VERSION, "serving_examples", [example.SerializeToString()], answer(["d"], [True]))
    observations.observe(VERSION, "transform_features", [b""], {"label_ids": np.zeros((1, 2))})
    observations.close()
    assert [(item.picture, item.text) for item in seen.observations] == [(b"1", "a"), (b"3", "c"), (b"4", "d"), (b"", "closed")]
    assert [item.confidence for item in seen.observations[:2]] == [0.5, 1.0]


def test_an_error_of_a_watcher_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    failing, seen = Seen("a"), Seen()
    observations = Observations([failing, seen], lambda count: None)
    observations.observe(VERSION, "serving_default", [b"1", b"2"], answer(["a", "b"], [True, True]))
    observations.close()
    assert [item.text for item in failing.observations] == ["b", "closed"]
    assert [item.text for item in seen.observations] == ["a", "b", "closed"]
    assert "could not be observed" in caplog.text


def test_requests_do_not_wait_for_slow_watchers() -> None:
    slow = Seen()
    lost: list[int] = []
    slow.go.clear()
    observations = Observations([slow], lost.append)
    large = bytes(2**20)
    for _ in range(100):
        observations.observe(VERSION, "serving_default", [large], answer(["a"], [True]))
    assert 35 <= sum(lost) <= 36, "64 MiB wait, besides the one that is observed"
    slow.go.set()
    observations.close()
    assert len(slow.observations) - 1 + sum(lost) == 100


def test_a_tf_example_that_only_tensorflow_reads_is_not_observed() -> None:
    seen = Seen()
    observations = Observations([seen], lambda count: None)
    name = b"\x0a\x01\xff\x12\x00"  # a feature whose name is not UTF-8
    example = b"\x0a" + bytes([len(name) + 2]) + b"\x0a" + bytes([len(name)]) + name
    observations.observe(VERSION, "serving_examples", [example], answer(["a"], [True]))
    observations.observe(VERSION, "serving_default", [b"1"], answer(["b"], [True]))
    observations.close()
    assert [item.text for item in seen.observations] == ["b", "closed"]


def log_of(folder: Path, share: float = 1, max_mib: int = 1) -> PredictionLog:
    return PredictionLog(PredictionLogConfig(folder=str(folder), share=share, max_mib=max_mib), folder)


def pictures(count: int) -> list[bytes]:
    return [encode(draw(SPEC, "аб", seed)) for seed in range(count)]


def test_the_log_can_be_ingested(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log")
    for picture in pictures(3):
        log.watch(Observation(VERSION, picture, "аб", 0.9876, 0))
        log.watch(Observation(VERSION, picture, "аб", 0.9876, 0))  # the same again
    names = sorted(path.name for path in (tmp_path / "log").iterdir())
    assert len(names) == 3
    assert all(name.startswith("аб_0.988_7_") and name.endswith(".png") for name in names)
    config = tmp_path / "config.yaml"
    config.write_text(
        json.dumps({"name": "log", "captcha": SPEC.model_dump(mode="json"), "data": {"root": str(tmp_path / "spans")}}), encoding="utf-8"
    )
    said = call("data", "ingest", str(tmp_path / "log"), "--pattern", PATTERN, "--config", str(config))
    assert "3 pictures" in said


def test_only_pictures_of_the_log_are_removed(tmp_path: Path) -> None:
    (tmp_path / "RAZ_176.png").write_bytes(bytes(900_000))  # a picture that a person has put there
    log = log_of(tmp_path, max_mib=1)
    for number in range(30):
        log.watch(Observation(VERSION, bytes([number]) * 100_000, str(number), 1, 0))
    assert (tmp_path / "RAZ_176.png").exists()
    assert len(list(tmp_path.iterdir())) < 15


@pytest.mark.parametrize("text", ["", ".", "a/b", "a_b", "\0", "x" * 300])
def test_a_text_that_cannot_be_a_file_name_is_not_stored(tmp_path: Path, text: str) -> None:
    log_of(tmp_path).watch(Observation(VERSION, b"picture", text, 1, 0))
    assert list(tmp_path.iterdir()) == []


def test_the_log_stores_a_share(tmp_path: Path) -> None:
    log = log_of(tmp_path, share=0.25)
    for number in range(400):
        log.watch(Observation(VERSION, b"%d" % number, "a", 1, 0))
    assert 50 < len(list(tmp_path.iterdir())) < 150


def test_the_oldest_pictures_make_room(tmp_path: Path) -> None:
    log = log_of(tmp_path, max_mib=1)
    for number in range(30):
        log.watch(Observation(VERSION, bytes([number]) * 100_000, str(number), 1, 0))
        for path in tmp_path.glob(f"{number}_*"):
            os.utime(path, (number, number))
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2**20
    kept = sorted(int(path.name.partition("_")[0]) for path in tmp_path.iterdir())
    assert kept == list(range(kept[0], 30))
    assert len(kept) >= 9


def test_a_full_disk_leaves_no_half_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_of(tmp_path)

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        log.watch(Observation(VERSION, b"picture", "a", 1, 0))
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CaptchaPipelineError, match=r"server\.log\.folder"):
        log_of(tmp_path / "file" / "log")


def trained_version(folder: Path) -> Any:
    """Returns a version whose profile has the pictures of `pictures`, each ten times."""
    rules = PictureRules(100_000, (255, 255, 255), "resize")
    trained = [inspect_picture(picture, SPEC, rules) for picture in pictures(40)]
    profile = Profile({"brightness": Counter(), "contrast": Counter(), "sharpness": Counter(), "size": Counter()})
    for found in trained:
        profile.counts["brightness"][str(int(found.brightness))] += 10
        profile.counts["contrast"][str(int(found.contrast))] += 10
        profile.counts["sharpness"][str(int(found.sharpness))] += 10
        profile.counts["size"][f"{found.width}x{found.height}"] += 10
    (folder / "assets.extra").mkdir()
    TrainingProfile.of([profile], ["аб"] * 400, [0.99] * 400, rules).export(folder / "assets.extra")
    return SimpleNamespace(number=5, pushed=SimpleNamespace(path=folder, spec=SPEC))


def test_a_version_without_a_profile_is_not_watched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    version: Any = SimpleNamespace(number=1, pushed=SimpleNamespace(path=tmp_path, spec=SPEC))
    watch = DriftWatch("shop", None, lambda feature: None)
    for picture in pictures(2):
        watch.watch(Observation(version, picture, "аб", 1, 0))
    watch.close()
    assert caplog.text.count("The drift monitor is off") == 1


def test_the_watch_leaves_pictures_out_once_its_time_is_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, used, watched = 0.0, 0.0, 0

    def slow(*arguments: object) -> NoReturn:
        nonlocal used, watched
        watched += 1
        used += 0.01
        raise PictureError("image_undecodable", "the picture cannot be decoded")

    monkeypatch.setattr(drift_watch, "time", SimpleNamespace(monotonic=lambda: now, thread_time=lambda: used))
    monkeypatch.setattr(drift_watch, "measure", slow)
    version = trained_version(tmp_path)
    watch = DriftWatch("shop", None, lambda feature: None)
    for _ in range(1000):
        now += 0.01  # as fast as one core can watch
        watch.watch(Observation(version, b"", "аб", 1, 0))
    assert 30 < watched < 60  # 2 % of ten seconds, and what was saved before
    now += 3600
    watched = 0
    for _ in range(1000):
        watch.watch(Observation(version, b"", "аб", 1, 0))
    watch.close()
    assert 15 < watched < 30  # what was saved, however long nobody sent pictures


def test_an_alarm_is_counted_and_posted(tmp_path: Path) -> None:
    posted: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if len(posted) == 1 else 200)  # a failed post is repeated
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    version = trained_version(tmp_path)
    server = HTTPServer(("127.0.0.1", 0), Hook)
    Thread(target=server.serve_forever, daemon=True).start()
    alarms: list[str] = []
    watch = DriftWatch("shop", f"http://127.0.0.1:{server.server_port}/hook", alarms.append)
    wider = SPEC.model_copy(update={"width": 30})
    for seed in range(500):
        watch.watch(Observation(version, encode(draw(wider, "аб", seed)), "аб", 0.99, 0))
    watch.close()
    server.shutdown()
    server.server_close()
    assert "width" in alarms
    assert posted[0] == posted[1]
    assert {item["feature"] for item in posted} == set(alarms)
    assert posted[0]["model"] == "shop"
    assert posted[0]["version"] == 5
    assert {item["feature"] for item in posted if item["feature"] in item["message"]} == set(alarms)
