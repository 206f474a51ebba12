import functools
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.base.errors import CaptchaPipelineError
from components.base.features import CONFIDENCE, DRAWN, HISTORY_FILE, PROBABILITIES, SPEC_FILE, TEXT, WEIGHTS_FILE
from components.base.recipe import fingerprint
from components.data.captcha_spec import CaptchaSpec
from components.data.pictures import PictureRules
from components.serving.canaries import COUNT, check_canaries, read_canaries
from components.serving.loaded import LoadedModel
from components.serving.server_trial import answers
from components.serving.training_profile import TrainingProfile
from components.training.checkpoint import JUDGED_BY, Checkpoint
from components.training.hyperparameters import Hyperparameters
from components.training.run_fn import check_batch_size, run_fn
from tests.support.encoded import encode
from tests.support.exported_model import answers_in_python
from tests.support.transform_run import PROFILE, draw, emitted, trainer_arguments, transform

pytestmark = pytest.mark.slow

SPEC = CaptchaSpec(charset="012", length=2, width=16, height=32, channels=1)
Fit = Callable[..., Path]
EPOCHS = 5
LABELS = [f"{a}{b}" for a in "012" for b in "012"]
KEYS = {
    "loss",
    "val_loss",
    "sequence_accuracy",
    "val_sequence_accuracy",
    "position_accuracy",
    "val_position_accuracy",
    "seconds",
    JUDGED_BY,
}


def _rows(seeds: range) -> list[bytes]:
    return [emitted(encode(draw(SPEC, label, seed)), label, SPEC) for seed in seeds for label in LABELS]


@pytest.fixture(scope="module")
def transformed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformed")
    transform(SPEC, {"train": _rows(range(20)), "eval": _rows(range(20, 24))}, folder)
    return folder


@pytest.fixture
def fit(transformed: Path, tmp_path: Path) -> Fit:
    """Returns a function that fits. A fit resumes an earlier fit of the same test with the same changes."""
    return functools.partial(_fit, transformed, tmp_path)


@pytest.fixture(scope="module")
def plain(transformed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a fit without changes. Its checkpoints are beside it."""
    return _fit(transformed, tmp_path_factory.mktemp("fits"), "plain")


def _fit(transformed: Path, root: Path, name: str, base: Path | None = None, **changes: Any) -> Path:
    """Runs the Trainer with some of its configuration changed; returns the folder with `model` and `logs`."""
    folder = root / name
    trainer = Hyperparameters(epochs=EPOCHS, batch_size=16, learning_rate=0.01, precision="float32").model_dump() | changes
    run_fn(trainer_arguments(transformed, folder, checkpoints_of(root, changes), SPEC, trainer, base))
    return folder


def checkpoints_of(root: Path, changes: Mapping[str, Any] = MappingProxyType({})) -> Path:
    """Returns one folder for each set of changes, because all recipes have the same name here."""
    return root / "checkpoints" / hashlib.sha256(repr(sorted(changes.items())).encode()).hexdigest()


def _weights(folder: Path) -> list[np.ndarray]:
    model = tf.saved_model.load(str(folder / "model"))
    answer = model.signatures["serving_default"](image=tf.constant([encode(draw(SPEC, label, 99)) for label in LABELS]))
    return [answer[PROBABILITIES].numpy()]


def _about(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model" / "assets.extra" / SPEC_FILE).read_text())


def _rename(model: Path, fingerprint: str) -> None:
    about = model / "assets.extra" / SPEC_FILE
    about.write_text(json.dumps(json.loads(about.read_text()) | {"fingerprint": fingerprint}))


def _history(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "logs" / HISTORY_FILE).read_text())


def test_a_fit_learns_and_another_seed_gives_another_model(plain: Path, fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    history = _history(plain)
    assert [set(epoch) for epoch in history] == [KEYS] * EPOCHS
    assert history[-1]["val_sequence_accuracy"] > 0.9
    assert list((plain / "tensorboard" / fingerprint("abc", None)).rglob("events.out.tfevents*"))
    about = _about(plain)
    assert (about["recipe"], about["fingerprint"]) == ("abc", fingerprint("abc", None))

    answer = tf.saved_model.load(str(plain / "model")).signatures["serving_default"](
        image=tf.constant([encode(draw(SPEC, label, 99)) for label in LABELS])
    )
    assert [text.decode() for text in answer[TEXT].numpy()] == LABELS

    capsys.readouterr()
    assert not np.array_equal(_weights(plain), _weights(fit("other", seed=2)))
    assert f"epoch {EPOCHS}/{EPOCHS}: loss" in capsys.readouterr().out


def test_labelled_pictures_are_repeated_beside_drawn_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [(label, seed) for seed in range(2) for label in LABELS]
    labelled = [emitted(encode(draw(SPEC, label, seed)), label, SPEC) for label, seed in few]
    drawn = [emitted(encode(draw(SPEC, label, seed)), label, SPEC, DRAWN) for label in LABELS for seed in range(10, 30)]
    transform(SPEC, {"train": [*labelled, *drawn], "eval": _rows(range(4, 6))}, tmp_path)
    capsys.readouterr()
    _fit(tmp_path, tmp_path, "few", epochs=1)
    assert "training on 18 labelled pictures (3 times each) and 180 drawn ones: 1 epoch, 15 steps" in capsys.readouterr().out


def test_the_model_carries_the_profile_of_its_pictures_and_of_its_readings(plain: Path) -> None:
    profile = TrainingProfile.load(plain / "model")
    assert profile.counts["brightness"] == PROFILE.counts["brightness"]
    assert (profile.counts["width"], profile.counts["height"]) == ({"16": 180}, {"32": 180})
    assert profile.rules == PictureRules(1000, (255, 255, 255), "resize")

    signature = tf.saved_model.load(str(plain / "model")).signatures["serving_default"]
    answer = signature(image=tf.constant([encode(draw(SPEC, label, seed)) for seed in range(20, 24) for label in LABELS]))
    texts = [text.decode() for text in answer[TEXT].numpy()]
    assert profile.counts["length"] == {"2": len(texts)}
    assert profile.counts["characters"] == Counter("".join(texts))
    assert profile.counts["containing"] == Counter(character for text in texts for character in set(text))
    thousandths = sorted(int(value) for value, count in profile.counts["confidence"].items() for _ in range(count))
    np.testing.assert_allclose(thousandths, sorted(1000 * answer[CONFIDENCE].numpy()), atol=1.1)


@pytest.mark.long
def test_the_model_carries_canaries_that_a_server_reads_alike(plain: Path) -> None:
    canaries = read_canaries(plain / "model")
    pictures = [canary.picture for canary in canaries]
    assert len(set(pictures)) == COUNT
    answer = answers(plain / "model", {"serving_default": pictures})["serving_default"]
    assert [text.decode() for text in answer[TEXT]] == [canary.text for canary in canaries]
    model = LoadedModel(plain / "model")
    check_canaries(model, plain / "model")
    model.close()


def test_a_fit_killed_in_an_epoch_ends_like_an_uninterrupted_fit(plain: Path, fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_begin", lambda self, epoch, logs=None: _kill() if epoch == 3 else None)
        with pytest.raises(SystemExit):
            fit("killed")
    again = fit("again")
    np.testing.assert_array_equal(_weights(plain), _weights(again))
    for ours, theirs in zip(_history(again), _history(plain), strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}


@pytest.mark.long
def test_a_warm_start_continues_from_the_model_in_production(plain: Path, fit: Fit, tmp_path: Path) -> None:
    gentle = {"warm_start": {"epochs": 1, "learning_rate": 1e-4}}
    warm = fit("warm", plain / "model", **gentle)
    (epoch,) = _history(warm)
    assert epoch["val_sequence_accuracy"] >= _history(plain)[-1]["val_sequence_accuracy"] - 0.05
    assert _about(warm)["warm_start"] is True
    assert _about(warm)["fingerprint"] == fingerprint("abc", fingerprint("abc", None))
    requests = {"serving_default": [encode(draw(SPEC, label, 99)) for label in LABELS]}
    in_session, in_python = (read(warm / "model", requests)["serving_default"] for read in (answers, answers_in_python))
    np.testing.assert_allclose(in_session[PROBABILITIES], in_python[PROBABILITIES], atol=1e-5)
    (tmp_path / "nothing").mkdir()
    cold = fit("cold", tmp_path / "nothing", **gentle)
    assert len(_history(cold)) == EPOCHS, "nothing is in production: as if there were no warm start"
    assert _about(cold)["warm_start"] is False
    assert _about(cold)["base_problem"] == ""


@pytest.mark.long
def test_a_warm_fit_is_not_resumed_from_the_checkpoint_of_another_base(
    plain: Path, fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fit is killed, then a rollback restores another model: the withdrawn model must not influence the next fit."""
    withdrawn, production = shutil.copytree(plain / "model", tmp_path / "withdrawn"), fit("production", seed=2, epochs=1) / "model"
    _rename(withdrawn, "withdrawn")
    _rename(production, "production")
    warm = {"warm_start": {"epochs": 2}}
    whole = fit("whole", production, **warm)
    shutil.rmtree(checkpoints_of(tmp_path, warm) / fingerprint("abc", "production"))
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch_begin", lambda self, epoch, logs=None: _kill() if epoch == 1 else None)
        with pytest.raises(SystemExit):
            fit("killed", withdrawn, **warm)
    capsys.readouterr()
    again = fit("again", production, **warm)
    assert "resuming after" not in capsys.readouterr().out
    np.testing.assert_array_equal(_weights(whole), _weights(again))
    # A fit from the withdrawn model resumes.
    fit("resumed", withdrawn, **warm)
    assert "resuming after epoch 1 of 2" in capsys.readouterr().out


@pytest.mark.long
def test_a_base_model_that_cannot_be_read_is_reported(plain: Path, fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = shutil.copytree(plain / "model", tmp_path / "production")
    (base / "assets.extra" / WEIGHTS_FILE).write_bytes(b"no weights")
    cold = fit("cold", base, epochs=2, warm_start={"epochs": 1})
    assert len(_history(cold)) == 2, "it is not a warm fit"
    about = _about(cold)
    assert (about["warm_start"], about["fingerprint"]) == (False, fingerprint("abc", None))
    assert about["base_problem"].startswith("The production model cannot be read (OSError")
    assert about["base_problem"] in caplog.text


@pytest.mark.long
def test_bfloat16_is_exported_in_float32_and_leaves_no_global_policy(fit: Fit) -> None:
    folder = fit("mixed", precision="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    assert _history(folder)[-1]["val_sequence_accuracy"] > 0.9
    model = tf.saved_model.load(str(folder / "model"))
    graph = model.signatures["serving_default"].graph.as_graph_def()
    functions = [*graph.library.function, graph]
    types = {node.attr["T"].type for part in functions for node in (part.node_def if hasattr(part, "node_def") else part.node)}
    assert tf.bfloat16.as_datatype_enum not in types


def _kill(*_: Any) -> None:
    raise SystemExit


@pytest.mark.long
def test_a_fit_killed_before_its_export_only_exports(fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("components.training.run_fn.export_model", _kill)
        with pytest.raises(SystemExit):
            fit("killed")
    capsys.readouterr()
    history = _history(fit("again"))
    assert capsys.readouterr().out.splitlines() == [f"resuming after epoch {EPOCHS} of {EPOCHS}"]
    assert len(history) == EPOCHS


@pytest.mark.long
def test_a_model_lost_after_its_export_is_exported_again(plain: Path, fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On Kubeflow the outputs are uploaded after the Trainer has ended. If that fails, they are missing in the next attempt."""
    shutil.copytree(checkpoints_of(plain.parent), checkpoints_of(tmp_path))
    capsys.readouterr()
    again = fit("again")
    assert capsys.readouterr().out.splitlines() == [f"resuming after epoch {EPOCHS} of {EPOCHS}"]
    assert _history(again) == _history(plain)
    np.testing.assert_array_equal(_weights(again), _weights(plain))


@pytest.mark.long
def test_only_the_newest_checkpoints_are_kept(fit: Fit, tmp_path: Path) -> None:
    checkpoints = checkpoints_of(tmp_path)
    for age, name in enumerate(["newest", "second", "third", "fourth"]):
        (checkpoints / name / "epoch-000001").mkdir(parents=True)
        os.utime(checkpoints / name, (1e9 - age, 1e9 - age))
    fit("a fit")
    assert {path.name for path in checkpoints.iterdir()} == {fingerprint("abc", None), "newest", "second"}


@pytest.mark.long
def test_a_fit_without_a_number_of_epochs_follows_the_pictures_and_the_time_limit(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    history = _history(fit("auto", epochs="auto", max_minutes=0.001))
    lines = capsys.readouterr().out.splitlines()
    planned = re.fullmatch(r"training on (\d+) pictures: (\d+) epochs of (\d+) passes, ([\d,]+) steps of 16 pictures", lines[0])
    assert planned
    count, epochs, passes = map(int, planned.groups()[:3])
    assert int(planned[4].replace(",", "")) == epochs * -(-passes * count // 16)
    assert passes > 5
    assert re.fullmatch(rf"about 1 min left: \d+ ms per step, 1 epochs instead of {epochs}", lines[1])
    assert len(history) == 1
    assert history[0]["val_sequence_accuracy"] > 0.5, "one epoch of many passes"
    fit("again", epochs="auto", max_minutes=0.001)
    assert capsys.readouterr().out.splitlines() == ["resuming after epoch 1 of 1"]


@pytest.mark.long
@pytest.mark.parametrize("enough", [True, False])
def test_a_fit_at_chance_does_not_stop_early_and_exports_the_best_epoch(fit: Fit, monkeypatch: pytest.MonkeyPatch, enough: bool) -> None:
    """The best epoch is the last one if the eval split, which has 36 pictures here, is too small to choose."""
    monkeypatch.setattr("components.training.run_fn.ENOUGH_TO_CHOOSE", 36 if enough else 37)
    # At this learning rate only the averages of the batch normalisation change.
    folder = fit("early", patience=1, learning_rate=1e-9, warmup=0.0)
    history = _history(folder)
    assert len(history) == EPOCHS
    lowest, last = min(history, key=lambda row: row[JUDGED_BY]), history[-1]
    pictures = [(encode(draw(SPEC, label, seed)), label) for seed in range(20, 24) for label in LABELS]
    answer = tf.saved_model.load(str(folder / "model")).signatures["serving_default"](image=tf.constant([data for data, _ in pictures]))
    read = np.mean([text.decode() == label for text, (_, label) in zip(answer[TEXT].numpy(), pictures, strict=True)])
    assert lowest["val_sequence_accuracy"] != last["val_sequence_accuracy"]
    assert read == pytest.approx((lowest if enough else last)["val_sequence_accuracy"])


@pytest.mark.long
def test_an_epoch_is_judged_by_the_cross_entropy_of_the_exported_model(fit: Fit) -> None:
    """Without label smoothing, at the temperature of the exported model, and on the eval split."""
    folder = fit("smoothed", label_smoothing=0.2)
    best = _history(folder)[-1]
    assert best["val_loss"] > 4 * best[JUDGED_BY], "no loss with smoothing comes near 0"
    pictures = [(encode(draw(SPEC, label, seed)), label) for seed in range(20, 24) for label in LABELS]
    answer = tf.saved_model.load(str(folder / "model")).signatures["serving_default"](image=tf.constant([data for data, _ in pictures]))
    labels = np.array([SPEC.encode(label) for _, label in pictures])
    chances = np.take_along_axis(answer[PROBABILITIES].numpy(), labels[..., np.newaxis], axis=-1)
    assert best[JUDGED_BY] == pytest.approx(-np.log(chances).mean(), rel=0.02, abs=1e-6)


def test_a_batch_that_replicas_cannot_share_is_named() -> None:
    check_batch_size(64, 2, 64)
    check_batch_size(64, 1, 10)
    with pytest.raises(CaptchaPipelineError, match="batch_size=64 cannot be shared evenly among 3 replicas"):
        check_batch_size(64, 3, 1000)
    with pytest.raises(CaptchaPipelineError, match="less than one batch of 64"):
        check_batch_size(64, 2, 63)
