from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.base.errors import CaptchaPipelineError
from components.base.features import IS_DRAWN, LABEL_IDS, PIXEL_MEAN, PIXEL_STD, PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.data.model_inputs import model_inputs
from components.training import batches
from components.training.augmentations.shift import random_shift
from components.training.batches import count_by_origin, count_records, evaluation_batches, record_files, training_batches
from components.training.hyperparameters import Hyperparameters

SPEC = CaptchaSpec(charset="abc", length=2, width=9, height=8, channels=3)
MEAN, STD = 100.0, 40.0


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 8, 9, 3), np.uint8)


@pytest.fixture(scope="module")
def files(pictures: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("examples")
    for shard in range(2):
        with tf.io.TFRecordWriter(str(folder / f"shard-{shard}.gz"), "GZIP") as writer:
            for number in range(shard * 5, shard * 5 + 5):
                example = tf.train.Example()
                example.features.feature[PIXELS].bytes_list.value.append(pictures[number].tobytes())
                example.features.feature[PIXEL_MEAN].float_list.value.append(MEAN)
                example.features.feature[PIXEL_STD].float_list.value.append(STD)
                example.features.feature[LABEL_IDS].int64_list.value.extend([number % 3, number // 3 % 3])
                writer.write(example.SerializeToString())
    return record_files([str(folder / "*")], "train")


def test_model_inputs_normalises_row_major_pixels(pictures: np.ndarray) -> None:
    features = {PIXELS: [[p.tobytes()] for p in pictures], PIXEL_MEAN: [[MEAN]] * 10, PIXEL_STD: [[STD]] * 10}
    inputs = model_inputs({name: tf.constant(value) for name, value in features.items()}, SPEC)
    np.testing.assert_allclose(inputs, (pictures.astype(np.float32) - MEAN) / STD, rtol=1e-5)


def test_evaluation_batches_keep_the_order(files: list[str], pictures: np.ndarray) -> None:
    images, labels = (np.concatenate(parts) for parts in zip(*evaluation_batches(files, SPEC, 4).as_numpy_iterator(), strict=True))
    assert count_records(files) == 10
    np.testing.assert_allclose(images, (pictures.astype(np.float32) - MEAN) / STD, rtol=1e-5)
    np.testing.assert_array_equal(labels[:, 0], np.arange(10) % 3)


def _epochs(files: list[str], seed: int, shift: int = 2) -> list[list[np.ndarray]]:
    batches = training_batches(files, 10, SPEC, Hyperparameters(batch_size=4, shift=shift, seed=seed))
    return [[images for images, _ in batches.as_numpy_iterator()] for _ in range(2)]


@pytest.mark.parametrize("memory", [2 << 30, 3 * 8 * 9 * 3])
def test_training_batches_are_shuffled_and_shifted_by_their_seed(files: list[str], memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_MEMORY_BYTES", memory)  # room for all pictures, or for three
    first, second = _epochs(files, seed=1)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    for ours, again in zip((first, second), _epochs(files, seed=1), strict=True):
        for a, b in zip(ours, again, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], _epochs(files, seed=2)[0][0])


def test_an_epoch_has_each_record_once(files: list[str], pictures: np.ndarray) -> None:
    first, _ = _epochs(files, seed=1, shift=0)
    restored = np.concatenate(first) * STD + MEAN
    assert {p.tobytes() for p in restored.round().astype(np.uint8)} == {p.tobytes() for p in pictures}


@pytest.fixture(scope="module")
def mixed(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Returns a file with the same records, of which Transform says that the pictures from the fourth on are drawn."""
    path = str(tmp_path_factory.mktemp("mixed") / "mixed.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for number, record in enumerate(tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator()):
            example = tf.train.Example.FromString(record)
            example.features.feature[IS_DRAWN].int64_list.value.append(int(number >= 3))
            writer.write(example.SerializeToString())
    return path


@pytest.mark.parametrize("memory", [2 << 30, 3 * 8 * 9 * 3])
@pytest.mark.parametrize(("repeats", "passes"), [(1, 1), (4, 1), (4, 2)])
def test_only_pictures_that_are_not_drawn_are_repeated(
    mixed: str, pictures: np.ndarray, memory: int, repeats: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_MEMORY_BYTES", memory)
    parameters = Hyperparameters(batch_size=4, shift=0)
    epoch = training_batches([mixed], 3 * repeats + 7, SPEC, parameters, repeats=repeats, passes=passes)
    restored = np.concatenate([images for images, _ in epoch.as_numpy_iterator()]) * STD + MEAN
    found = Counter(picture.tobytes() for picture in restored.round().astype(np.uint8))
    assert found == {picture.tobytes(): passes * (repeats if number < 3 else 1) for number, picture in enumerate(pictures)}


def test_drawn_pictures_are_counted(files: list[str], mixed: str) -> None:
    assert count_by_origin([mixed]) == (3, 7)
    assert count_by_origin(files) == (10, 0), "examples that Transform has not written do not say where they come from"
    assert count_by_origin([*files, mixed, mixed]) == (16, 14)


def test_batches_continue_at_the_first_epoch_of_a_resumed_fit(files: list[str]) -> None:
    whole = training_batches(files, 10, SPEC, Hyperparameters(batch_size=4, seed=1))
    expected = [[images for images, _ in whole.as_numpy_iterator()] for _ in range(3)][2]
    rest = training_batches(files, 10, SPEC, Hyperparameters(batch_size=4, seed=1), first_epoch=2)
    for ours, theirs in zip(rest.as_numpy_iterator(), expected, strict=True):
        np.testing.assert_array_equal(ours[0], theirs)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_parts_of_all_replicas_make_the_batches_of_one_device(files: list[str], workers: int) -> None:
    here = 2 // workers
    shares = [range(worker * here, worker * here + here) for worker in range(workers)]
    for split, count in (
        (
            partial(training_batches, files, 10, SPEC, Hyperparameters(batch_size=4, shift=0, seed=1)),
            2,
        ),  # the last two records, half a batch, are left out
        (partial(evaluation_batches, files, SPEC, 4), 3),
    ):
        one = [images for images, _ in split().as_numpy_iterator()][:count]
        parts = [[images for images, _ in split(replicas=2, ours=ours).as_numpy_iterator()] for ours in shares]
        assert [len(part) for part in parts] == [count * here] * workers
        for number, whole in enumerate(one):
            ours = [images for part in parts for images in part[number * here : number * here + here]]
            assert {len(images) for images in ours} == {len(whole) // 2}
            assert {image.tobytes() for images in ours for image in images} == {image.tobytes() for image in whole}


@pytest.mark.parametrize(("replicas", "size", "sizes"), [(3, 9, [2, 1]), (2, 3, [1] * 5), (10, 256, [1])])
def test_every_replica_gets_a_record_of_the_last_batch(files: list[str], replicas: int, size: int, sizes: list[int]) -> None:
    last = evaluation_batches(files, SPEC, size, replicas=replicas, ours=range(replicas)[-1:])
    assert [len(labels) for _, labels in last.as_numpy_iterator()] == sizes
    with pytest.raises(CaptchaPipelineError, match="10 records: too few to share among 11"):
        evaluation_batches(files, SPEC, 256, replicas=11, ours=range(1))


def test_random_shift_moves_each_picture_as_a_whole() -> None:
    images = np.arange(200 * 8 * 9, dtype=np.float32).reshape(200, 8, 9, 1)
    moved = random_shift(tf.constant(images), 1, tf.constant([3, 4], tf.int64)).numpy()
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)], "symmetric")
    seen = set()
    for number in range(200):
        offsets = [(y, x) for y in range(3) for x in range(3) if np.array_equal(moved[number], padded[number, y : y + 8, x : x + 9])]
        assert len(offsets) == 1
        seen.update(offsets)
    assert len(seen) == 9


def test_glob_characters_in_the_folder_name_are_literal(tmp_path: Path) -> None:
    folder = tmp_path / "[a] b*c?d"
    folder.mkdir()
    for name in ("data-1.gz", "data-0.gz", "other"):
        (folder / name).touch()
    assert record_files([str(folder / "data*")], "train") == [str(folder / "data-0.gz"), str(folder / "data-1.gz")]


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaptchaPipelineError, match="eval split is empty"):
        record_files([str(tmp_path / "*")], "eval")
