"""Makes spans of synthetic captchas.

A shard depends only on its own pictures: the same seed gives the same bytes, whatever the number of workers.
"""

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from components.base.features import DATA_INFO, DRAWN
from components.data.drawing.painting import Captcha, SynthPlan, find_fonts, painter
from components.data.legacy_layout import DataInfo, legacy_example
from components.data.records import canonical_example, encode_png
from components.data.span_writer import ShardWriter, new_span, write_manifest
from components.data.spans import ShardFile, Span
from components.data.splits import split_key, split_of


def make_shard(plan: SynthPlan, shard: int, root: str | Path, on_picture: Callable[[], None] | None = None) -> list[ShardFile]:
    """Writes one shard of each split under the folder `root`. Restores the state of the global `random`.

    Args:
      plan: of the whole span.
      shard: the number of the shard, from 0.
      root: the folder of the span.
      on_picture: called after each picture.

    Returns:
      The manifest's entries for the files.
    """
    state = random.getstate()
    drawn_by = painter(plan)
    try:
        with ShardWriter(Path(root), f"shard-{shard:05d}-of-{plan.shards:05d}", plan.layout) as writer:
            for index in range(shard * plan.synth.shard_size, min((shard + 1) * plan.synth.shard_size, plan.synth.count)):
                captcha = drawn_by.paint(index)
                writer.write(split_of(split_key(captcha.image), plan.splits), _example(plan, captcha).SerializeToString(deterministic=True))
                if on_picture:
                    on_picture()
    finally:
        random.setstate(state)
    return writer.files


def _example(plan: SynthPlan, captcha: Captcha) -> Any:
    if plan.layout == "book":
        shape = (plan.spec.height, plan.spec.width, plan.spec.channels)
        return legacy_example(np.asarray(captcha.image).reshape(shape), captcha.label, plan.spec)
    return canonical_example(encode_png(captcha.image), captcha.label, DRAWN, captcha.params)


def in_processes(
    plan: SynthPlan,
    root: Path,
    workers: int = 1,
    on_pictures: Callable[[int], None] = lambda count: None,
    shards: Sequence[int] = (),
) -> Iterator[list[ShardFile]]:
    """Writes shards in worker processes. Yields the manifest's entries for the files, shard by shard.

    Args:
      plan: of the whole span.
      root: the folder of the span.
      workers: the number of worker processes.
      on_pictures: called a few times a second with the number of pictures drawn since the last call.
      shards: the numbers of the shards; () for all.
    """
    shards = shards or range(plan.shards)
    # Spawned, not forked: the caller may have threads of TensorFlow, and a forked process with such threads can hang.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("Q", 0)
    with ProcessPoolExecutor(min(workers, len(shards)), context, _start_worker, (counter,)) as pool:
        # The workers inherit the blocked signal: a Ctrl-C while they start waits until they can end silently (_start_worker).
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            futures = [pool.submit(_work, plan, shard, root) for shard in shards]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        try:
            reported, pending = 0, set(futures)
            while pending:
                pending = wait(pending, timeout=0.25).not_done
                on_pictures(counter.value - reported)
                reported = counter.value
            yield from map(Future.result, futures)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


MakeShards = Callable[[SynthPlan, Path], Iterable[list[ShardFile]]]


def synthesise(plan: SynthPlan, root: str | Path, make_shards: MakeShards = in_processes) -> Span:
    """Makes a span in the folder `root`.

    Args:
      plan: of the span.
      root: the folder of all spans.
      make_shards: writes the shards into a folder, and returns the manifest's entries for each shard: `in_processes`, or a function that
        uses Beam.

    Raises:
      CaptchaPipelineError: a font is missing or lacks characters, the legacy layout is combined with `free` or `style`, or the span cannot
        be written.
    """
    if plan.synth.own_style and plan.layout == "book":
        raise CaptchaPipelineError(
            f"synth.{plan.synth.own_style} draws pictures of many sizes, or of another size than captcha's; "
            "the legacy layout has one size. Omit --layout."
        )
    fonts = find_fonts(plan.effective_fonts, plan.spec.characters)
    plan = replace(plan, synth=plan.synth.model_copy(update={"fonts": fonts if plan.synth.fonts else ()}))
    making = new_span(root)
    with writing_in(root), making as draft:
        files = [file for shard in make_shards(plan, draft) for file in shard]
        if plan.layout == "book":
            DataInfo.for_spec(plan.spec).save(draft / DATA_INFO)
        write_manifest(draft, layout=plan.layout, spec=plan.spec, seed=plan.synth.seed, source=DRAWN, params=plan.params, files=files)
    return making.span


_counter: Any = None


def _start_worker(counter: Any) -> None:
    global _counter
    _counter = counter
    # On Ctrl-C the worker ends silently; the parent process prints the message.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when its parent process is gone: otherwise a pool's workers would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _work(plan: SynthPlan, shard: int, root: Path) -> list[ShardFile]:
    return make_shard(plan, shard, root, _count)


def _count() -> None:
    with _counter.get_lock():
        _counter.value += 1
