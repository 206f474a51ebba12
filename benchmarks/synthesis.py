"""Speed of drawing captchas, compared with the captcha library itself.

    uv run python -m benchmarks.synthesis

Expected: the library takes 1.6 times as long as this project, although this project also hashes, describes, checksums and writes every
picture. About a minute and a half on 2 cores.
"""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, Final

from captcha.image import ImageCaptcha

from benchmarks.results import record
from benchmarks.tasks import TASKS
from components.data.drawing.painting import SynthPlan
from components.data.drawing.synthetic import in_processes, make_shard, synthesise
from pipeline.config.loading import load_config

CHUNK: Final = 500  # pictures drawn alternately by the library and by this project
ROUNDS: Final = 15
SPAN: Final = 24_000


class Library(ImageCaptcha):
    """The captcha library with the size, fonts and number of dots of a plan. Its own methods do all the work."""

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
    """Draws a shard of the plan into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        make_shard(plan, shard, folder)


def seconds(work: Callable[..., object], *arguments: object, clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns the seconds that `work` takes by the clock."""
    started = clock()
    work(*arguments)
    return clock() - started


def library_on_all_cores(plan: SynthPlan, cores: int) -> float:
    """Returns the pictures per second of `draw_with_library` in one process per core, without the start of the processes."""
    with ProcessPoolExecutor(cores) as pool:
        each = plan.synth.count // 4 // cores
        list(pool.map(draw_with_library, [plan] * cores, [1] * cores))
        return each * cores / seconds(lambda: list(pool.map(draw_with_library, [plan] * cores, [each] * cores)))


def span_rate(plan: SynthPlan, cores: int) -> float:
    """Returns the pictures per second of a whole span, including the start of the processes and the manifest."""
    with tempfile.TemporaryDirectory() as folder:
        return plan.synth.count / seconds(synthesise, plan, folder, partial(in_processes, workers=cores))


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
        # Alternately, so that other load on the machine affects both.
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
        f"Drawing captchas: {spec.width}x{spec.height}, {spec.max_length} characters, {whole.effective_noise_dots} dots",
        ["measurement", "CPU time per picture", "pictures per second", f"share of the library's rate on one core x {cores}"],
        [
            ["captcha library: draw and encode as PNG, one core", micros(theirs), f"{one_core:,.0f}", ""],
            [f"captcha library in {cores} processes at once", "", f"{all_cores:,.0f}", share(all_cores)],
            ["this project, a shard: draw, encode, hash, describe, write", micros(ours), "", ""],
            [f"this project, a span of {SPAN:,} in {cores} processes, including their start", "", f"{spans:,.0f}", share(spans)],
        ],
        [
            f"CPU times: {ROUNDS} rounds of {CHUNK} pictures, alternating in one process. The library takes {ratio:.1%} of our time.",
            "The library's rates are those of its own code with the same size, fonts and number of dots.",
        ],
    )


if __name__ == "__main__":
    main()
