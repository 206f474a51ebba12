"""After a power failure, versions, spans and files are complete or as they were before."""

from pathlib import Path

import keras
import numpy as np

from components.base.files import write_whole
from components.data.spans import list_spans
from components.serving.serving_dir import push, roll_back, versions, withdrawn
from components.training.checkpoint import JUDGED_BY, Checkpoint
from tests.support.crash import PowerFailures
from tests.support.model_folder import contents, make_model
from tests.support.span import make_span


def test_every_version_is_complete_after_a_push_or_a_rollback(tmp_path: Path) -> None:
    serving = tmp_path / "serving"
    models = [make_model(tmp_path / name, fingerprint=name) for name in ("a", "b", "c")]
    whole = [contents(model) for model in models]
    outcomes = set()
    serving.mkdir()
    with PowerFailures(serving) as failures:
        for model in models:
            push(model, serving, keep=2)
        roll_back(serving, versions(serving)[1].version)
    for disk in failures.replay(tmp_path / "disks"):
        found = versions(disk)
        for version in found:
            there = contents(version.path)
            there.pop("assets.extra/rollback.json", None)
            assert there in whole
        assert withdrawn(disk) <= {"c"}
        outcomes.add(found[0].fingerprint if found else None)
        if found and found[0].copy_of:
            assert withdrawn(disk) == {"c"}, "or the next run pushes what has been taken out of production"
    assert outcomes == {None, "a", "b", "c"}
    assert withdrawn(serving) == {"c"}


def test_a_new_span_is_complete_or_missing(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    with PowerFailures(root) as failures:
        make_span(root, [b"1"])
        make_span(root, [b"2"])
    counts = set()
    for disk in failures.replay(tmp_path / "disks"):
        spans = list_spans(disk)
        assert all(len(list(span.records("train"))) == 1 and list(span.records("test")) == [] for span in spans)
        counts.add(len(spans))
    assert counts == {0, 1, 2}


def test_a_rewritten_file_has_the_old_or_the_new_content(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with PowerFailures(folder) as failures:
        write_whole(folder / "note.json", "old")
        write_whole(folder / "note.json", "new")
    found = {(disk / "note.json").read_text() if (disk / "note.json").exists() else None for disk in failures.replay(tmp_path / "disks")}
    assert found == {None, "old", "new"}


def test_a_checkpoint_has_the_weights_of_one_complete_epoch(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    root = tmp_path / "checkpoints"
    root.mkdir()
    weights = []
    with PowerFailures(root) as failures:
        checkpoint = Checkpoint(root, epochs=3, patience=3, chooses=True)
        checkpoint.set_model(model)
        for epoch in range(3):
            model.set_weights([np.full_like(array, epoch + 1) for array in model.get_weights()])
            weights.append([array.tolist() for array in model.get_weights()])
            checkpoint.on_epoch_begin(epoch)
            checkpoint.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 3.0 - epoch, JUDGED_BY: 3.0 - epoch, "val_sequence_accuracy": 0.5})
    epochs = set()
    for disk in failures.replay(tmp_path / "disks"):
        again = Checkpoint(disk, epochs=3, patience=3, chooses=True, writes=False)
        restored = again.restore(lambda: model)
        epochs.add(again.epoch)
        if again.epoch:
            assert [array.tolist() for array in restored.get_weights()] == weights[again.epoch - 1]
    assert epochs == {0, 1, 2, 3}
