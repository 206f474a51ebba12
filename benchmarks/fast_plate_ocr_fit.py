"""Runs fast-plate-ocr's own trainer with a time limit. benchmarks/peers.py starts this script in an environment with that package.

    uv run --no-project --isolated --with 'fast-plate-ocr[train,onnx]==1.1.0' python -I benchmarks/fast_plate_ocr_fit.py FOLDER

Reads FOLDER/job.json, which peers.py writes, and writes FOLDER/fitted.json. Settings are the trainer's defaults (AdamW 0.001, cosine decay,
averaged weights, its augmentation, the weights that read the most plates of the validation part whole), except:

- The model is cct_xs_v1, the smaller of the two with published configurations, at the picture size of its default plate. On a CPU it sees
  several times as many pictures in the same time.
- Batches of 32, as in its tutorial for some hundred pictures, for more steps per epoch.
- The number of epochs follows from the time limit, so that the learning rate has decayed when the time is up. Early stopping waits for two
  thirds of the epochs without a better reading, the ratio of the defaults (100 of 150).
"""

import csv
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import fast_plate_ocr.cli.train as trainer
import keras
import numpy as np
import yaml
from fast_plate_ocr.core.process import postprocess_output, read_and_resize_plate_image
from fast_plate_ocr.train.model.config import PlateConfig
from fast_plate_ocr.train.utilities.utils import load_keras_model

_BATCH: Final = 32
_PATIENCE: Final = 2 / 3  # share of the epochs
_TIMED_EPOCHS: Final = 2


def _convolution(filters: int) -> dict[str, Any]:
    return {
        "layer": "Conv2D",
        "filters": filters,
        "kernel_size": 3,
        "strides": 1,
        "padding": "valid",
        "activation": "relu",
        "use_bias": True,
    }


_POOLING: Final = {"layer": "MaxBlurPooling2D", "pool_size": 2, "filter_size": 3}
_MODEL: Final = {
    "model": "cct",
    "rescaling": {"scale": 1 / 255, "offset": 0.0},
    "tokenizer": {
        "blocks": [
            _convolution(32),
            _POOLING,
            _convolution(48),
            _convolution(64),
            _POOLING,
            _convolution(80),
            _convolution(96),
        ],
        "positional_emb": True,
        "patch_size": 2,
        "patch_mlp": {"layer": "MLP", "hidden_units": [64], "activation": "gelu", "dropout_rate": 0.05},
    },
    "transformer_encoder": {
        "layers": 4,
        "heads": 1,
        "projection_dim": 64,
        "units": [64, 64],
        "activation": "gelu",
        "stochastic_depth": 0.05,
        "attention_dropout": 0.05,
        "mlp_dropout": 0.1,
        "head_mlp_dropout": 0.05,
        "token_reducer_heads": 4,
        "normalization": "dyt",
    },
}


class Clock(keras.callbacks.CSVLogger):
    """The trainer's epoch log. It also records when each epoch ends, and stops the fit when the time is up."""

    limit = float("inf")
    ends: list[float]

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        Clock.ends, self._start = [], time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        self.ends.append(time.perf_counter() - self._start)
        print(f"epoch {epoch + 1}, {self.ends[-1]:.0f} s: {logs}", flush=True)
        if self.ends[-1] >= self.limit:
            self.model.stop_training = True


def plate(job: dict[str, Any]) -> PlateConfig:
    """Returns the plate configuration of the job's pictures, at the picture size of the trainer's default plate."""
    characters = job["characters"]
    pad = next(character for character in map(chr, range(ord("_"), sys.maxunicode)) if character not in characters)
    return PlateConfig(
        max_plate_slots=job["length"],
        alphabet=characters + pad,
        pad_char=pad,
        img_height=64,
        img_width=128,
        image_color_mode="rgb" if job["channels"] == 3 else "grayscale",
    )


def fit(folder: Path, epochs: int) -> Path:
    """Runs the trainer and returns the path of the model that reads the validation part best."""
    output = folder / f"{epochs}-epochs"
    options = {
        "model-config-file": folder / "model.yaml",
        "plate-config-file": folder / "plate.yaml",
        "annotations": folder / "train.csv",
        "val-annotations": folder / "validation.csv",
        "batch-size": _BATCH,
        "epochs": epochs,
        "early-stopping-patience": max(1, round(_PATIENCE * epochs)),
        "seed": 1,
        "output-dir": output,
    }
    trainer.train.main([word for name, value in options.items() for word in (f"--{name}", str(value))], standalone_mode=False)
    (best,) = output.glob("*/best.keras")
    return best


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    config = plate(job)
    for part in ("train", "validation"):
        _write_table(folder / f"{part}.csv", job[part])
    (folder / "model.yaml").write_text(yaml.safe_dump(_MODEL), encoding="utf-8")
    about = config.model_dump(exclude={"vocabulary_size", "pad_idx", "num_channels", "has_region_recognition"}, mode="json")
    (folder / "plate.yaml").write_text(yaml.safe_dump(about, allow_unicode=True), encoding="utf-8")
    keras.config.disable_interactive_logging()  # no progress bar for every step
    trainer.CSVLogger = Clock
    # A first fit measures how long an epoch takes; it does not count.
    fit(folder, _TIMED_EPOCHS)
    epoch = (Clock.ends[-1] - Clock.ends[0]) / (len(Clock.ends) - 1)
    Clock.limit = job["seconds"]
    best = fit(folder, max(1, int((job["seconds"] - Clock.ends[0]) / epoch) + 1))
    fitted = {"seconds": Clock.ends[-1], "epochs": len(Clock.ends), "readings": read(best, config, job["test"])}
    (folder / "fitted.json").write_text(json.dumps(fitted), encoding="utf-8")


def read(model: Path, config: PlateConfig, paths: Sequence[str]) -> list[str]:
    """Reads pictures as the package's own inference does."""
    images = [read_and_resize_plate_image(path, config.img_height, config.img_width, config.image_color_mode) for path in paths]
    answers = load_keras_model(model, config).predict(np.stack(images), verbose=0)["plate"]
    return [read.plate for read in postprocess_output(answers, config.max_plate_slots, config.alphabet, config.pad_char)]


def _write_table(table: Path, labelled: Sequence[tuple[str, str]]) -> None:
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image_path", "plate_text"])
        # The trainer resolves paths relative to the table's folder.
        rows.writerows([os.path.relpath(path, table.parent.resolve()), label] for path, label in labelled)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
