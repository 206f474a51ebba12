"""Draws the shards of a span as one Beam pipeline, on any runner, for more pictures than one machine can draw in reasonable time."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import apache_beam as beam

from components.base.features import SPLITS
from components.base.files import write_whole
from components.data.drawing.painting import SynthPlan
from components.data.drawing.synthetic import in_processes
from components.data.spans import ShardFile

_MADE: Final = "made.jsonl"


def make_shards(plan: SynthPlan, folder: Path, beam_args: Sequence[str]) -> list[list[ShardFile]]:
    """Writes all shards of a span into `folder`. The workers must see the folder under the same path.

    Args:
      plan: of the span.
      folder: of the span.
      beam_args: Beam's command line.

    Returns:
      The manifest's entries for the files, shard by shard.

    Raises:
      RuntimeError: raised by Beam for any error in a worker.
    """
    with beam.Pipeline(argv=list(beam_args)) as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create(range(plan.shards))
            | "Distribute" >> beam.Reshuffle()
            | "Draw" >> beam.Map(_draw, plan, str(folder))
            | "Gather" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
            # Beam's own writer treats a path as a pattern.
            | "Write" >> beam.Map(lambda lines, path: write_whole(path, "\n".join(sorted(lines))), folder / _MADE)
        )
    made = folder / _MADE
    shards = [json.loads(line) for line in made.read_text(encoding="utf-8").splitlines()]
    made.unlink()
    return [[ShardFile.model_validate(file) for file in files] for _, files in sorted(shards)]


def _draw(shard: int, plan: SynthPlan, folder: str) -> str:
    """Draws one shard. A runner may do this twice, even at the same time: a shard's files appear complete, and are identical each time.

    A separate process draws the shard, because the captcha library uses the global `random`, and so do other threads of a worker, among
    them Beam's own.
    """
    for split in SPLITS:
        (Path(folder) / split).mkdir(exist_ok=True)
    attempt = Path(tempfile.mkdtemp(prefix=".attempt-", dir=folder))
    try:
        (files,) = in_processes(plan, attempt, shards=[shard])
        for file in files:
            (attempt / file.path).replace(Path(folder) / file.path)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
    return json.dumps([shard, [file.model_dump() for file in files]])
