"""False alarms, delay and cost of the live drift monitor, pipeline/server/drift_monitor.py.

    uv run python -m benchmarks.drift_monitor

Pictures are drawn for `digits` and `tiny`, and read by small models that the pipeline trains first. Pictures for `free` have their label as
reading and a confidence of 1. Of each configuration, 20,000 pictures are for training profiles, and others are the traffic, from which
requests are drawn with replacement. Measured pictures are kept in output/benchmarks; delete them after a change to the measures.

Expected: fewer than one false alarm in 50,000 requests without drift, also if all traffic comes in short bursts. In `digits` and `tiny`,
every drift is found within 500 requests, except a contrast of -5 % and a character that is 1.5 times as frequent. It takes longer in
`free`, whose pictures differ much from each other. Twenty minutes on 2 cores, and the training of two small models.
"""

import collections
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Final
from unittest import mock

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from benchmarks.results import ROOT, record
from benchmarks.tasks import Task, command
from components.data.drawing.painting import SynthPlan, find_fonts, painter
from components.data.drift import NUMBERS, SIZE, Profile
from components.data.pictures import PictureRules
from components.data.records import encode_png
from components.serving import serving_dir
from components.serving.training_profile import TrainingProfile
from pipeline.config.loading import load_config
from pipeline.server import drift_events
from pipeline.server.drift_events import Measurements
from pipeline.server.drift_monitor import DriftMonitor, measure

# Pictures of a training profile.
TRAINED: Final = {"digits": (500, 2_000, 20_000), "tiny": (500, 2_000, 20_000), "free": (500, 2_000)}
TRAFFIC: Final = 5_000
DRIFTED: Final = 1_000  # pictures of each drift
REQUESTS: Final = 50_000
QUIET_SEEDS: Final = 5
DRIFT_SEEDS: Final = 10
BEFORE: Final = 1_000  # requests before the drift begins
LONGEST: Final = 2_000  # requests after it
BURST: Final = 5
RULES: Final = PictureRules(4_000_000, (255, 255, 255), "resize")
# The models: the task, and the overrides of its run.
TASKS: Final = {
    "digits": (
        Task("drift-digits", "digits", 6_000, "{train: 10, eval: 1, test: 1}", seed=23),
        ("trainer.epochs=6", "evaluator.min_sequence_accuracy=0.5"),
    ),
    "tiny": (Task("drift-tiny", "tiny", 2_000, "{train: 4, eval: 1, test: 1}", seed=23), ()),
}
CHARACTER: Final = {"digits": "7", "tiny": "1", "free": "K"}  # whose share changes
_FOLDER: Final = ROOT / "output" / "benchmarks"
_PART: Final = 500  # pictures that a process draws at a time

Pool = list[Measurements]
Traffic = Callable[[Pool, int, np.random.Generator], Iterator[Measurements]]


def _noisy(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, np.float64)
    noise = np.random.default_rng(int(pixels.sum())).normal(0, 25, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def _enlarged(image: Image.Image) -> Image.Image:
    return image.resize((round(1.1 * image.width), round(1.1 * image.height)))


CHANGES: Final[Mapping[str, Callable[[Image.Image], Image.Image]]] = {
    "brightness +10 %": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "brightness -10 %": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "brightness -3 %": lambda image: ImageEnhance.Brightness(image).enhance(0.97),
    "contrast -20 %": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "contrast -5 %": lambda image: ImageEnhance.Contrast(image).enhance(0.95),
    "10 % larger": _enlarged,
    "blurred, sigma 1": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "noise, sigma 25": _noisy,
}
OTHER_FONT: Final = "another font"
_FONT: Final = "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf"


def pools(name: str) -> dict[str, Pool]:
    """Returns the measured and read pictures of a configuration: "trained", "traffic", and one pool for each drift."""
    kept = _FOLDER / f"drift-monitor-{name}.json"
    if not kept.exists():
        found = {key: [tuple(row) for row in pool] for key, pool in _pools(name)}
        kept.write_text(json.dumps(found))
    return {key: [Measurements(*row) for row in pool] for key, pool in json.loads(kept.read_text()).items()}


def _pools(name: str) -> Iterator[tuple[str, Pool]]:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    read = _reader(name)
    fonts = find_fonts(config.synth.fonts, config.captcha.characters)
    jobs: dict[str, tuple[int, int, tuple[str, ...], str | None]] = {
        "trained": (1001, TRAINED[name][-1], fonts, None),
        "traffic": (1002, TRAFFIC, fonts, None),
    }
    jobs |= {change: (1003, DRIFTED, fonts, change) for change in CHANGES}
    jobs[OTHER_FONT] = (1003, DRIFTED, (_FONT,), None)
    with ProcessPoolExecutor(2) as workers:
        for key, (seed, count, of, change) in jobs.items():
            plan = SynthPlan(config.captcha, config.synth.model_copy(update={"seed": seed, "count": count, "fonts": of}), {"train": 1})
            pictures = list(itertools.chain.from_iterable(workers.map(functools.partial(_drawn, plan, change), range(0, count, _PART))))
            readings = read([encoded for encoded, _ in pictures], [label for _, label in pictures])
            yield (
                key,
                [
                    measure(encoded, text, confidence, config.captcha, RULES)
                    for (encoded, _), (text, confidence) in zip(pictures, readings, strict=True)
                ],
            )
            print(f"{name}: measured {key}", flush=True)


def _drawn(plan: SynthPlan, change: str | None, start: int) -> list[tuple[bytes, str]]:
    """Returns encoded pictures and their labels."""
    drawn_by, changed = painter(plan), CHANGES.get(change or "", lambda image: image)
    captchas = map(drawn_by.paint, range(start, min(start + _PART, plan.synth.count)))
    return [(encode_png(changed(captcha.image)), captcha.label) for captcha in captchas]


def _reader(name: str) -> Callable[[list[bytes], list[str]], list[tuple[str, float]]]:
    """Returns a function from pictures and their labels to the model's texts and confidences; without a model, the texts are the labels."""
    if name not in TASKS:
        return lambda _, labels: [(label, 1.0) for label in labels]
    from pipeline.inference.served_model import ServedModel

    task, overrides = TASKS[name]
    config = task.config(*overrides)
    if not serving_dir.versions(config.serving_dir):
        command("run", *task.options(*overrides))
    model = ServedModel(serving_dir.versions(config.serving_dir)[0].path)
    return lambda pictures, _: [(reading.text, reading.confidence) for reading in model.read(pictures)]


def profile_of(pool: Sequence[Measurements]) -> TrainingProfile:
    """Returns the training profile of pictures. A real one counts the readings of the eval split only, here those of all pictures."""
    counts = {name: collections.Counter(str(found.value(name)) for found in pool) for name in NUMBERS}
    sizes = collections.Counter(f"{found.width}x{found.height}" for found in pool)
    return TrainingProfile.of(
        [Profile(counts | {SIZE: sizes})], [found.text for found in pool], [found.confidence for found in pool], RULES
    )


def sampled(trained: Pool, count: int, seed: int) -> TrainingProfile:
    """Returns the profile of `count` of the pictures."""
    chosen = np.random.default_rng(seed).choice(len(trained), count, replace=False)
    return profile_of([trained[i] for i in chosen])


# Traffic without drift: from pictures, a number of requests and random numbers to the requests.


def independent(pool: Pool, count: int, rng: np.random.Generator) -> Iterator[Measurements]:
    """Yields independent requests."""
    return (pool[i] for i in rng.integers(0, len(pool), count))


def repeated(pool: Pool, count: int, rng: np.random.Generator) -> Iterator[Measurements]:
    """Yields requests of which a tenth are sent 20 times in a row."""
    many = np.repeat(rng.integers(0, len(pool), count), rng.choice([1, 20], count, p=[0.9, 0.1]))
    return (pool[i] for i in many[:count])


def in_bursts(pool: Pool, count: int, rng: np.random.Generator) -> Iterator[Measurements]:
    """Yields bursts of 20 different pictures of almost the same brightness."""
    ordered = sorted(pool, key=lambda found: found.brightness)
    starts = rng.integers(0, len(pool) - BURST, -(-count // BURST))
    return (ordered[start + i] for start in starts for i in rng.permutation(BURST))


def thinned(pool: Pool, count: int, rng: np.random.Generator) -> Iterator[Measurements]:
    """Yields one request of each burst."""
    return itertools.islice(in_bursts(pool, count * BURST, rng), 0, None, BURST)


KINDS: Final[Mapping[Traffic, str]] = {
    independent: "independent requests",
    repeated: "a tenth of the pictures sent 20 times in a row",
    in_bursts: f"only bursts of {BURST} pictures of the same brightness",
    thinned: f"such bursts, with one in {BURST} requests observed",
}


def without(pool: Pool, character: str) -> Pool:
    """Returns the pictures whose text does not contain a character."""
    return [found for found in pool if character not in found.text]


def more_frequent(pool: Pool, character: str, times: float) -> Pool:
    """Draws pictures so that a character has `times` its share at each position, but at most 0.9."""
    share = sum(found.text.count(character) for found in pool) / sum(len(found.text) for found in pool)
    wanted = min(times * share, 0.9)
    weights = np.array(
        [(wanted / share) ** found.text.count(character) * ((1 - wanted) / (1 - share)) ** _others(found, character) for found in pool]
    )
    return [pool[i] for i in np.random.default_rng(0).choice(len(pool), DRIFTED, p=weights / weights.sum())]


def _others(found: Measurements, character: str) -> int:
    return len(found.text) - found.text.count(character)


def drifts(found: Mapping[str, Pool], character: str) -> dict[str, Pool]:
    """Returns the pictures of each drift."""
    return {
        **{key: found[key] for key in (*CHANGES, OTHER_FONT)},
        "a character is missing": without(found["traffic"], character),
        "a character is 3 times as frequent": more_frequent(found["traffic"], character, 3),
        "a character is 1.5 times as frequent": more_frequent(found["traffic"], character, 1.5),
    }


def false_alarms(profiles: Sequence[TrainingProfile], pool: Pool, kind: Traffic) -> tuple[collections.Counter[str], int]:
    """Returns the alarms by feature, and the number of requests: REQUESTS for each profile. The monitor is reset after an alarm."""
    alarms = collections.Counter[str]()
    for seed, profile in enumerate(profiles):
        monitor = DriftMonitor(profile)
        for found in kind(pool, REQUESTS, np.random.default_rng(seed)):
            if alarm := monitor.observe(found):
                alarms[alarm.feature] += 1
                monitor.reset()
    return alarms, len(profiles) * REQUESTS


def delays(profiles: Sequence[TrainingProfile], before: Pool, after: Pool) -> tuple[list[int], collections.Counter[str]]:
    """Returns for each profile the requests from the begin of the drift to the first alarm, LONGEST + 1 for none; the alarms by feature."""
    found, features = list[int](), collections.Counter[str]()
    for seed, profile in enumerate(profiles):
        rng, monitor = np.random.default_rng(seed), DriftMonitor(profile)
        for picture in independent(before, BEFORE, rng):
            monitor.observe(picture)
        drifted = enumerate(independent(after, LONGEST, rng), start=1)
        number, alarm = next(((number, alarm) for number, picture in drifted if (alarm := monitor.observe(picture))), (LONGEST + 1, None))
        found.append(number)
        features.update([alarm.feature] if alarm else [])
    return found, features


def microseconds(work: Callable[[], object], times: int) -> float:
    """Returns the mean time of one of `times` parts of `work`, in microseconds of this process, the shortest of five tries."""

    def once() -> float:
        begun = time.process_time()
        work()
        return time.process_time() - begun

    return 1e6 * min(once() for _ in range(5)) / times


def costs(name: str, found: Mapping[str, Pool]) -> tuple[float, float]:
    """Returns the time to observe and to measure a picture, in microseconds."""
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    fonts = find_fonts(config.synth.fonts, config.captcha.characters)
    encoded = [
        data for data, _ in _drawn(SynthPlan(config.captcha, config.synth.model_copy(update={"fonts": fonts}), {"train": 1}), None, 0)
    ]
    monitor, traffic = DriftMonitor(profile_of(found["trained"])), found["traffic"][:5_000]
    observing = microseconds(lambda: [monitor.observe(picture) for picture in traffic], len(traffic))
    return observing, microseconds(lambda: [measure(data, "", 0.0, config.captcha, RULES) for data in encoded], len(encoded))


def quiet_row(name: str, found: Mapping[str, Pool], count: int, kind: Traffic) -> list[str]:
    """Returns the alarms without drift, with a profile of `count` pictures; also of the same test without tolerances."""
    profiles = [sampled(found["trained"], count, seed) for seed in range(QUIET_SEEDS)]
    alarms = false_alarms(profiles, found["traffic"], kind)
    nothing = dict.fromkeys(drift_events.TOLERANCE, 0.0)
    with mock.patch.multiple(drift_events, TOLERANCE=nothing, CHANCE_OF_ERROR=0.5):
        strict = false_alarms(profiles[:1], found["traffic"], kind)
    return [
        name,
        f"{count:,}",
        KINDS[kind],
        *(f"{sum(counts.values()) / (requests / 50_000):.1f}" for counts, requests in (alarms, strict)),
    ]


def drift_row(drift: str, name: str, found: Mapping[str, Pool], after: Pool) -> list[str]:
    """Returns the median and the longest delay for each size of the profile, and the features that raise the alarm."""
    cells, features = [], collections.Counter[str]()
    for count in TRAINED[name]:
        late, raised = delays([sampled(found["trained"], count, seed) for seed in range(DRIFT_SEEDS)], found["traffic"], after)
        features.update(raised)
        shown = [f"{value:.0f}" if value <= LONGEST else "–" for value in (statistics.median(late), max(late))]
        cells.append(" / ".join(shown))
    return [drift, name, *cells, *["not run"] * (3 - len(cells)), ", ".join(feature for feature, _ in features.most_common())]


def evaluate(name: str) -> tuple[list[list[str]], list[str]]:
    """Returns the rows and the notes of a configuration."""
    found = pools(name)
    observing, measuring = costs(name, found)
    notes = [f"{name}: {observing:.0f} µs to observe a picture, {measuring:.0f} µs to decode and measure it."]
    for count, kind in [*((count, independent) for count in TRAINED[name]), *((2_000, kind) for kind in (repeated, in_bursts, thinned))]:
        quiet = quiet_row(name, found, count, kind)
        notes.append("{}, profile of {} pictures, {}: {} false alarms in 50,000 requests; {} without tolerances.".format(*quiet))
        print(notes[-1], flush=True)
    rows = []
    for drift, after in drifts(found, CHARACTER[name]).items():
        rows.append(drift_row(drift, name, found, after))
        print(rows[-1], flush=True)
    return rows, notes


def main() -> None:
    with ProcessPoolExecutor(2) as workers:
        results = list(workers.map(evaluate, CHARACTER))
    rows = [row for rows, _ in results for row in rows]
    notes = [note for _, notes in results for note in notes]
    order = list(dict.fromkeys(row[0] for row in rows))
    columns = ["drift", "configuration", *(f"profile of {count:,} pictures" for count in TRAINED["digits"]), "features in alarm"]
    record(
        "drift_monitor",
        "Live drift monitor: requests from the begin of a drift to the alarm, median / longest",
        columns,
        sorted(rows, key=lambda row: order.index(row[0])),
        [
            f"{DRIFT_SEEDS} seeds each, after {BEFORE:,} requests without drift; – is more than {LONGEST:,} requests.",
            f"False alarms: the mean of {QUIET_SEEDS} seeds of {REQUESTS:,} requests; without tolerances, of one seed.",
            "Times are CPU times.",
            *notes,
        ],
    )


if __name__ == "__main__":
    main()
