"""How fast captchas are made, against the captcha library's own rate.

    uv run python -m benchmarks.synthesis

Expected: a span is made at 95 % or more of the library's rate on one core times the cores, though every picture is also hashed,
described, checksummed and written. About a minute and a half on 2 cores.
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

from captcha.image import ImageCaptcha

from benchmarks.results import record
from benchmarks.tasks import TASKS
from components.data.sources.painting import SynthPlan
from components.data.sources.synthetic import make_shard, synthesise
from pipeline.config.loading import load_config

CHUNK: Final = 500  # pictures drawn in turn by the library and by us
ROUNDS: Final = 15
SPAN: Final = 24_000


class Library(ImageCaptcha):
    """The captcha library, set to the plan's size, fonts and number of dots; its own methods do all the work."""

    def __init__(self, plan: SynthPlan):
        super().__init__(plan.spec.width, plan.spec.height, list(plan.synth.fonts) or None, plan.effective_font_sizes)
        self._dots = plan.effective_noise_dots

    def create_noise_dots(self, image: Any, color: Any) -> Any:  # type: ignore[override]
        return super().create_noise_dots(image, color, number=self._dots)


def draw_with_library(plan: SynthPlan, count: int) -> None:
    """Draws `count` pictures and encodes them as PNG, as the library's `generate` does."""
    library = Library(plan)
    for _ in range(count):
        library.generate("".join(random.choices(plan.spec.characters, k=plan.spec.max_length)))


def draw_shard(plan: SynthPlan, shard: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_shard(plan, shard, folder)


def seconds(work: Callable[..., object], *arguments: object, clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work(*arguments)
    return clock() - started


def library_on_all_cores(plan: SynthPlan, cores: int) -> float:
    """Returns the pictures a second of one process a core, each as in `draw_with_library`, the start of the processes left out."""
    with ProcessPoolExecutor(cores) as pool:
        each = plan.synth.count // 4 // cores
        list(pool.map(draw_with_library, [plan] * cores, [1] * cores))
        return each * cores / seconds(lambda: list(pool.map(draw_with_library, [plan] * cores, [each] * cores)))


def span_rate(plan: SynthPlan, cores: int) -> float:
    """Returns the pictures a second of a whole span, the start of the processes and its manifest included."""
    with tempfile.TemporaryDirectory() as folder:
        return plan.synth.count / seconds(synthesise, plan, folder, cores)


def main() -> None:
    config = load_config(TASKS["digits-final"].options()[1])
    synth = config.synth
    chunks, whole = (
        SynthPlan(config.captcha, synth.model_copy(update={"count": SPAN, "shard_size": size}), config.data.splits.model_dump())
        for size in (CHUNK, synth.shard_size)
    )
    cores = len(os.sched_getaffinity(0))
    draw_with_library(chunks, CHUNK)
    draw_shard(chunks, 0)
    theirs, ours = [], []
    for number in range(ROUNDS):
        # In turn, so that whatever else the machine does falls on both.
        theirs.append(seconds(draw_with_library, chunks, CHUNK, clock=time.process_time))
        ours.append(seconds(draw_shard, chunks, number, clock=time.process_time))
    one_core = statistics.median(CHUNK / seconds(draw_with_library, chunks, CHUNK) for _ in range(ROUNDS))
    all_cores, spans = library_on_all_cores(whole, cores), span_rate(whole, cores)
    spec = config.captcha

    def micros(chunk_seconds: list[float]) -> str:
        return f"{statistics.median(chunk_seconds) / CHUNK * 1e6:,.0f} µs"

    def share(rate: float) -> str:
        return f"{rate / one_core / cores:.1%}"

    ratio = statistics.median(library / pipeline for library, pipeline in zip(theirs, ours, strict=True))
    record(
        "synthesis",
        f"Making captchas: {spec.width}x{spec.height}, {spec.max_length} characters, {whole.effective_noise_dots} dots",
        ["what", "CPU time a picture", "pictures a second", f"of the library's rate on one core x {cores}"],
        [
            ["captcha library: draw and encode as PNG, one core", micros(theirs), f"{one_core:,.0f}", ""],
            [f"the same in {cores} processes at once", "", f"{all_cores:,.0f}", share(all_cores)],
            ["a shard: draw, encode, hash, describe, write", micros(ours), "", ""],
            [f"a span of {SPAN:,} in {cores} processes, their start included", "", f"{spans:,.0f}", share(spans)],
        ],
        [
            f"CPU times: {ROUNDS} rounds of {CHUNK} pictures, the library and we in turn in one process; its time is {ratio:.1%} of ours.",
            "The library's rates are those of its own code with the same size, fonts and dots.",
        ],
    )


if __name__ == "__main__":
    main()
