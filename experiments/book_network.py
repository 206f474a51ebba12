"""The book's network, written as its reader would in Keras, against this project's presets, on the same pictures.

    uv run python -m experiments.book_network book,book-as-printed,vgg16-bn-ours --images 20000 --seeds 1,2,3

Expected: a line an arm and a seed, appended to experiments/results/book_network.jsonl, and the table of all lines on record. 20,000
pictures are one epoch, some ten minutes of the book's network on 2 cores. First looks at its own rate, 2,000 pictures, and 40,000 at an
eighth of the width, were still at chance, ln 10 = 2.303 a head.
The preset `vgg-book` is the same network (tests/experiments/test_book_network.py) with He's first weights.

Every arm sees the Transform output of the task `digits-recipe`, in the same order for the same seed, and is judged by the first
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
_STRETCH: Final = 1_000  # pictures, over each of which the training loss is averaged
_BOOK_BATCH: Final = 64
_MARGIN: Final = 0.05  # of the loss below chance at which a fit has left it


def book_network(spec: CaptchaSpec, *, batch_norm: bool = False) -> keras.Model:
    """The book's five groups of convolutions, two dense layers and a head a position, its misprints corrected so that it can run.

    The pools round up, as a height of 30 halved five times would otherwise be 0. Weights start as Keras' do, from Glorot and Bengio's
    uniform distribution (2010). Heads give logits, joined sample by sample: [N, max_length, num_classes].
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
    """The sigmoid that the book's heads have before the softmax of the cross-entropy.

    It leaves the softmax values between 0 and 1, so that of ten classes none gets more than e / (e + 9) = 23 %: the loss cannot
    fall below ln(1 + 9 / e) = 1.461 a head.
    """
    network = build(spec)
    # Keras' losses see through a sigmoid that comes last, and take the logits that went into it: hence the product.
    return keras.Model(network.input, keras.ops.sigmoid(network.output) * 1.0)


def preset(name: str, spec: CaptchaSpec, *, precision: str = "float32") -> keras.Model:
    """One of the project's presets; precision "auto" is what the Trainer would choose here."""
    return build_model(spec, PRESETS[name], training_dtype(precision))


@dataclass(frozen=True)
class Arm:
    """A network and how it is fitted.

    Attributes:
      about: a line of the table.
      build: the network, uncompiled.
      rate: Adam's, the same throughout; None for the Trainer's optimizer, schedule, batch size and shift.
    """

    about: str
    build: Callable[[CaptchaSpec], keras.Model]
    rate: float | None = 1e-3


ARMS: Final = MappingProxyType(
    {
        "book-as-printed": Arm("the book's network, sigmoid before the softmax", partial(with_sigmoid, book_network)),
        "book": Arm("the book's network", book_network),
        "book-1e-4": Arm("the book's network, rate 1e-4", book_network, rate=1e-4),
        "book-as-printed-1e-4": Arm("the book's, sigmoid, rate 1e-4", partial(with_sigmoid, book_network), rate=1e-4),
        "book-bn": Arm("the book's network with batch normalisation", partial(book_network, batch_norm=True)),
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
    """Fits an arm to so many pictures and returns what it makes of the eval split.

    `curve` is the training loss a head over each _STRETCH pictures; `left_chance_after` the pictures seen when it first was more
    than _MARGIN below that of guessing, None if it never was.
    """
    spec = config.captcha
    recipe = config.trainer
    files = record_files(data.files("train"), "train")
    count = count_records(files)
    keras.utils.set_random_seed(seed)
    rate: Any = arm.rate
    batch_size, shift = _BOOK_BATCH, 0
    if arm.rate is None:
        # As in a run of the Trainer that long: whole epochs, or, where it is shorter than one, its one epoch.
        epochs = max(1, images // count)
        rate = learning_rate_schedule(recipe, epochs * -(-images // epochs // recipe.batch_size))
        batch_size, shift = recipe.batch_size, recipe.shift
    model = arm.build(spec)
    model.compile(Muon(rate) if arm.rate is None else keras.optimizers.Adam(rate), loss=captcha_loss(), metrics=captcha_metrics(spec))
    steps = _STRETCH // batch_size
    wall, cpu = time.monotonic(), time.process_time()
    curve = model.fit(
        training_batches(files, count, spec, batch_size, shift, seed).repeat(),
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
    """The columns and the cells: one line for the seeds of the same arm and the same number of pictures."""
    columns = [
        "network",
        "recipe",
        "weights",
        "pictures seen",
        "loss a head, by seed",
        "full sequence, by seed",
        "left chance after",
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
                "ours" if arm.rate is None else f"the book's, Adam {arm.rate:g}",
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
    images: Annotated[int, typer.Option(help="pictures to train on, counting repeats")] = 20_000,
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
        "The book's network and this project's, after the same pictures",
        *table(kept("book_network")),
        [
            f"Judged by {_EVAL_PICTURES:,} pictures of the eval split; guessing gives a loss of ln 10 = 2.303 a head and reads 0.01 %.",
            f"The book's recipe: a constant rate, batches of {_BOOK_BATCH}, no augmentation, float32.",
            "Ours: the Trainer's batches, shifts and precision, and its schedule for a run that long, with its optimizer.",
            f"Left chance: the first {_STRETCH:,} pictures, about, whose mean training loss is more than {_MARGIN} below that of guessing.",
            f"With a sigmoid before the softmax the loss cannot fall below ln(1 + 9 / e) = {math.log(1 + 9 / math.e):.3f} a head.",
        ],
    )


if __name__ == "__main__":
    silence()
    load_tensorflow()
    typer.run(main)
