"""Compares the textbook network, written in plain Keras as a reader of the textbook would, with this project's presets.

    uv run python -m experiments.book_network book,book-as-printed,vgg16-bn-ours --images 20000 --seeds 1,2,3

Expected: one line per arm and seed, appended to experiments/results/book_network.jsonl, and the table of all recorded lines. 20,000
pictures are one epoch, about ten minutes for the textbook network on 2 cores. In first trials at its own learning rate, with 2,000
pictures, and with 40,000 at an eighth of the width, it was still at chance, a loss of ln 10 = 2.303 per head.
The preset `vgg-book` is the same network (tests/experiments/test_book_network.py) with He's initial weights.

Every arm sees the Transform output of the task `digits-recipe`, in the same order for the same seed, and is evaluated on the first
pictures of its eval split.
"""

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, Final

import keras
import typer
from keras import layers

from benchmarks.prepared import Prepared, prepare
from benchmarks.results import keep, kept, record
from benchmarks.tasks import TASKS
from components.data.captcha_spec import CaptchaSpec
from components.training.batches import count_records, evaluation_batches, record_files, training_batches
from components.training.devices import training_dtype
from components.training.model import PRESETS, build_model, captcha_loss, captcha_metrics
from components.training.optimizer import Muon
from components.training.schedule import learning_rate_schedule
from pipeline.config.config import Config
from pipeline.logs import load_tensorflow, silence

_TASK: Final = "digits-recipe"
_EVAL_PICTURES: Final = 2_000
_EVAL_BATCH: Final = 250
_STRETCH: Final = 1_000  # pictures per average of the training loss
_TEXTBOOK_BATCH: Final = 64
_MARGIN: Final = 0.05  # how far the loss must be below that of guessing


def book_network(spec: CaptchaSpec, *, batch_norm: bool = False) -> keras.Model:
    """Returns the textbook network: five groups of convolutions, two dense layers and one head per position.

    Misprints are corrected so that it can run. The pools round up, because a height of 30 halved five times would otherwise be 0. Weights
    start with Keras' default, the uniform distribution of Glorot and Bengio (2010). Output: logits [N, max_length, num_classes].
    """

    def convolution(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
        if not batch_norm:
            return layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
        return layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same", name=name)(x)))

    image = x = keras.Input((spec.height, spec.width, spec.channels))
    for group, filters in enumerate(((64, 64), (128, 128), (128, 128, 128), (256, 128, 128), (512, 512, 512)), start=1):
        for number, count in enumerate(filters, start=1):
            x = convolution(x, count, f"conv{group}_{number}")
        x = layers.MaxPooling2D(2, padding="same", name=f"pool{group}")(x)
    x = layers.Flatten()(x)
    for name in ("fc6", "fc7"):
        x = layers.Dropout(0.5)(layers.Dense(4096, activation="relu", name=name)(x))
    heads = [layers.Dense(spec.num_classes, name=f"head_{position}")(x) for position in range(1, spec.max_length + 1)]
    return keras.Model(image, keras.ops.stack(heads, axis=1))


def with_sigmoid(build: Callable[[CaptchaSpec], keras.Model], spec: CaptchaSpec) -> keras.Model:
    """Returns a network with a sigmoid before the softmax of the cross-entropy, as the textbook prints it.

    The softmax then gets values between 0 and 1. With ten classes, no class gets more than e / (e + 9) = 23 %, so the loss cannot fall
    below ln(1 + 9 / e) = 1.461 per head.
    """
    network = build(spec)
    # Keras' losses detect a final sigmoid and use its input, the logits. The product prevents that.
    return keras.Model(network.input, keras.ops.sigmoid(network.output) * 1.0)


def preset(name: str, spec: CaptchaSpec, *, precision: str = "float32") -> keras.Model:
    """Returns one of the project's presets. Precision "auto" is the Trainer's choice for this machine."""
    return build_model(spec, PRESETS[name], training_dtype(precision))


@dataclass(frozen=True)
class Arm:
    """A network and its training recipe.

    Attributes:
      about: name in the table.
      build: returns the uncompiled network.
      rate: constant learning rate of Adam; None for the Trainer's optimizer, schedule, batch size and shift.
    """

    about: str
    build: Callable[[CaptchaSpec], keras.Model]
    rate: float | None = 1e-3


ARMS: Final = MappingProxyType(
    {
        "book-as-printed": Arm("textbook network, sigmoid before the softmax", partial(with_sigmoid, book_network)),
        "book": Arm("textbook network", book_network),
        "book-1e-4": Arm("textbook network, rate 1e-4", book_network, rate=1e-4),
        "book-as-printed-1e-4": Arm("textbook network, sigmoid, rate 1e-4", partial(with_sigmoid, book_network), rate=1e-4),
        "book-bn": Arm("textbook network with batch normalisation", partial(book_network, batch_norm=True)),
        "vgg-book": Arm("preset vgg-book", partial(preset, "vgg-book")),
        "vgg-book-3e-4": Arm("preset vgg-book", partial(preset, "vgg-book"), rate=3e-4),
        "vgg-book-ours": Arm("preset vgg-book", partial(preset, "vgg-book", precision="auto"), rate=None),
        "vgg16-bn": Arm("preset vgg16-bn", partial(preset, "vgg16-bn")),
        "vgg16-bn-ours": Arm("preset vgg16-bn", partial(preset, "vgg16-bn", precision="auto"), rate=None),
        "vgg-slim": Arm("preset vgg-slim", partial(preset, "vgg-slim")),
        "vgg-slim-sigmoid": Arm("preset vgg-slim, sigmoid before the softmax", partial(with_sigmoid, partial(preset, "vgg-slim"))),
        "vgg-slim-ours": Arm("preset vgg-slim", partial(preset, "vgg-slim", precision="auto"), rate=None),
    }
)


def fit(arm: Arm, config: Config, data: Prepared, images: int, seed: int) -> dict[str, Any]:
    """Fits an arm to `images` pictures, evaluates it on the eval split, and returns the result row.

    `curve` is the mean training loss per head of each _STRETCH pictures. `left_chance_after` is the number of pictures seen when this loss
    was first more than _MARGIN below that of guessing; None if it never was.
    """
    spec = config.captcha
    recipe = config.trainer
    files = record_files(data.files("train"), "train")
    count = count_records(files)
    keras.utils.set_random_seed(seed)
    rate: Any = arm.rate
    batch_size, shift = _TEXTBOOK_BATCH, 0
    if arm.rate is None:
        # As in a run of the Trainer of this length: whole epochs, at least one.
        epochs = max(1, images // count)
        rate = learning_rate_schedule(recipe, epochs * -(-(images // epochs) // recipe.batch_size))
        batch_size, shift = recipe.batch_size, recipe.shift
    model = arm.build(spec)
    model.compile(Muon(rate) if arm.rate is None else keras.optimizers.Adam(rate), loss=captcha_loss(), metrics=captcha_metrics(spec))
    steps = _STRETCH // batch_size
    wall, cpu = time.monotonic(), time.process_time()
    curve = model.fit(
        training_batches(files, count, spec, recipe.model_copy(update={"batch_size": batch_size, "shift": shift, "seed": seed})).repeat(),
        epochs=max(1, round(images / batch_size / steps)),
        steps_per_epoch=steps,
        verbose=0,
    ).history["loss"]
    seconds = {"fit_s": round(time.monotonic() - wall, 1), "fit_cpu_s": round(time.process_time() - cpu, 1)}
    judged = evaluation_batches(record_files(data.files("eval"), "eval"), spec, _EVAL_BATCH).take(_EVAL_PICTURES // _EVAL_BATCH)
    figures = model.evaluate(judged, verbose=0, return_dict=True)
    below = math.log(spec.num_classes) - _MARGIN
    return {
        "images": len(curve) * steps * batch_size,
        "weights": model.count_params(),
        **{name: round(value, 4) for name, value in figures.items()},
        "left_chance_after": next(((i + 1) * steps * batch_size for i, loss in enumerate(curve) if loss < below), None),
        "curve": [round(loss, 3) for loss in curve],
        **seconds,
    }


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows: one row per arm and number of pictures, for all seeds."""
    columns = [
        "network",
        "recipe",
        "weights",
        "pictures seen",
        "loss per head, per seed",
        "full-sequence accuracy, per seed",
        "above chance after",
        "pictures/s",
    ]
    groups = defaultdict(list)
    for row in rows:
        groups[row["arm"], row["images"]].append(row)
    lines = []
    for name, images in sorted(groups, key=lambda key: (list(ARMS).index(key[0]), key[1])):
        arm, runs = ARMS[name], groups[name, images]
        lines.append(
            [
                arm.about,
                "ours" if arm.rate is None else f"textbook, Adam {arm.rate:g}",
                f"{runs[0]['weights']:,}",
                f"{images:,}",
                ", ".join(f"{run['loss']:.3f}" for run in runs),
                ", ".join(f"{run['sequence_accuracy']:.1%}" for run in runs),
                ", ".join("never" if run["left_chance_after"] is None else f"{run['left_chance_after']:,}" for run in runs),
                f"{statistics.median(images / run['fit_s'] for run in runs):.0f}",
            ]
        )
    return columns, lines


def main(
    names: Annotated[str, typer.Argument(help=f"arms, comma-separated: {', '.join(ARMS)}")],
    images: Annotated[int, typer.Option(help="number of pictures to train on, counting repeats")] = 20_000,
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "1",
) -> None:
    config = TASKS[_TASK].config()
    data = prepare(config)
    for seed in map(int, seeds.split(",")):
        for name in names.split(","):
            keep("book_network", {"arm": name, "seed": seed, **fit(ARMS[name], config, data, images, seed)})
            keras.backend.clear_session()
    record(
        "book_network",
        "The textbook network and this project's networks after the same pictures",
        *table(kept("book_network")),
        [
            f"Evaluated on {_EVAL_PICTURES:,} pictures of the eval split. Guessing has a loss of ln 10 = 2.303 per head and reads 0.01 %.",
            f"Textbook recipe: a constant learning rate, batches of {_TEXTBOOK_BATCH}, no augmentation, float32.",
            "Ours: the Trainer's batch size, shifts, precision and optimizer, and its schedule for a run of this length.",
            f"Above chance: about {_STRETCH:,} pictures in a row have a mean training loss more than {_MARGIN} below that of guessing.",
            f"With a sigmoid before the softmax, the loss cannot fall below ln(1 + 9 / e) = {math.log(1 + 9 / math.e):.3f} per head.",
        ],
    )


if __name__ == "__main__":
    silence()
    load_tensorflow()
    typer.run(main)
