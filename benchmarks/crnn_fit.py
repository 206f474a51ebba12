"""Fits a CRNN with CTC, as in Keras' code example "OCR model for reading Captchas". benchmarks/peers.py starts this script.

    uv run python -m benchmarks.crnn_fit FOLDER

Reads FOLDER/job.json, which peers.py writes, and writes FOLDER/fitted.json. Layers and recipe are those of the example: two convolutions
with pooling, a dense layer, two bidirectional LSTMs; Adam, batches of 16, the weights with the lowest validation loss. The fit uses all of
its time: with few pictures, CTC stays at chance for long, and the example's patience of 10 epochs would end the fit there.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
from PIL import Image

from components.data.pictures import visible_picture
from pipeline.config.config import DataConfig
from pipeline.logs import silence

_BATCH: Final = 16
_MOST_EPOCHS: Final = 100_000
_BLANK: Final = 0  # CTC's class for no character; characters are classes 1 and up


class Deadline(keras.callbacks.Callback):
    """Stops a fit after the batch in which its time limit passes."""

    def __init__(self, seconds: float):
        super().__init__()
        self._seconds = seconds
        self._end = float("inf")

    def on_train_begin(self, logs: Any = None) -> None:
        self._end = time.perf_counter() + self._seconds

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if time.perf_counter() >= self._end:
            self.model.stop_training = True


def build(width: int, height: int, channels: int, length: int, characters: int) -> keras.Model:
    """Returns the network: uint8 [N, height, width, channels] to logits [N, columns, characters + 1]. Class 0 is the blank.

    CTC needs one column per character, and one more between two equal characters. If a quarter of the width gives fewer columns, the
    second pooling keeps the width.
    """
    across = 2 if width // 4 >= 2 * length else 1
    image = keras.Input((height, width, channels))
    x = keras.layers.Rescaling(1 / 255)(image)
    for filters, pool in ((32, (2, 2)), (64, (2, across))):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
        x = keras.layers.MaxPooling2D(pool)(x)
    x = keras.layers.Permute((2, 1, 3))(x)
    x = keras.layers.Reshape((x.shape[1], x.shape[2] * x.shape[3]))(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    x = keras.layers.Dropout(0.2)(x)
    for units in (128, 64):
        x = keras.layers.Bidirectional(keras.layers.LSTM(units, return_sequences=True, dropout=0.25))(x)
    return keras.Model(image, keras.layers.Dense(characters + 1)(x))


def ctc(labels: Any, logits: Any) -> Any:
    """Returns CTC's loss per picture, float32 [N], for labels [N, length], padded with the blank, and logits [N, columns, classes]."""
    count, columns = keras.ops.shape(logits)[0], keras.ops.shape(logits)[1]
    lengths = keras.ops.sum(keras.ops.cast(keras.ops.not_equal(labels, _BLANK), "int32"), axis=-1)
    return keras.ops.ctc_loss(labels, logits, lengths, keras.ops.full((count,), columns, "int32"), mask_index=_BLANK)


def texts(logits: npt.NDArray[np.float32], characters: str) -> list[str]:
    """Returns the greedily decoded texts of logits float32 [N, columns, characters + 1]."""
    columns = np.full(len(logits), logits.shape[1], np.int32)
    (decoded,), _ = keras.ops.ctc_decode(logits, columns, strategy="greedy", mask_index=_BLANK)
    return ["".join(characters[i - 1] for i in row if i > 0) for row in keras.ops.convert_to_numpy(decoded)]


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    keras.utils.set_random_seed(1)
    characters, size = job["characters"], (job["width"], job["height"])
    model = build(*size, job["channels"], job["length"], len(characters))
    model.compile(keras.optimizers.Adam(), loss=ctc, jit_compile=False)
    (train, train_labels), (validation, validation_labels) = (
        (
            _pixels([path for path, _ in job[part]], size, job["channels"]),
            _ids([label for _, label in job[part]], characters, job["length"]),
        )
        for part in ("train", "validation")
    )
    best = keras.callbacks.EarlyStopping("val_loss", patience=_MOST_EPOCHS, restore_best_weights=True)
    start = time.perf_counter()
    fit = model.fit(
        train,
        train_labels,
        batch_size=_BATCH,
        epochs=_MOST_EPOCHS,
        validation_data=(validation, validation_labels),
        callbacks=[best, Deadline(job["seconds"])],
        verbose=2,
    )
    seconds = time.perf_counter() - start
    readings = texts(model.predict(_pixels(job["test"], size, job["channels"]), verbose=0), characters)
    fitted = {"seconds": seconds, "epochs": len(fit.epoch), "readings": readings}
    (folder / "fitted.json").write_text(json.dumps(fitted), encoding="utf-8")


def _pixels(paths: Sequence[str], size: tuple[int, int], channels: int) -> npt.NDArray[np.uint8]:
    rules = DataConfig().picture_rules
    images = [visible_picture(Path(path).read_bytes(), rules).convert("RGB" if channels == 3 else "L") for path in paths]
    pixels = np.stack([np.asarray(image.resize(size, Image.Resampling.BILINEAR)) for image in images])
    return pixels.reshape(len(paths), size[1], size[0], channels)


def _ids(labels: Sequence[str], characters: str, length: int) -> npt.NDArray[np.int32]:
    ids = np.full((len(labels), length), _BLANK, np.int32)
    for row, label in zip(ids, labels, strict=True):
        row[: len(label)] = [characters.index(character) + 1 for character in label]
    return ids


if __name__ == "__main__":
    silence()
    main(Path(sys.argv[1]))
