"""Cost and benefit of the span index, DATA/.index.sqlite, in which imports look up the pictures that are already in the spans.

    uv run python -m benchmarks.index [PICTURES]

Expected: the index is built once, at more than 500 pictures per second, and takes less than 600 bytes per picture. After that, an ingest
without new pictures only takes the time to read the inbox, whatever the size of the spans. About ten minutes on 2 cores for 100,000
pictures.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.results import record
from components.data.drawing.painting import SynthConfig, SynthPlan
from components.data.drawing.synthetic import synthesise
from components.data.sources.imported import import_folder
from components.data.sources.index import SpanIndex
from components.data.sources.outcome import NothingNew
from components.data.sources.sheet import samples
from components.data.sources.sift import ImportPlan
from components.data.spans import list_spans
from components.data.window import Window
from pipeline.config.loading import load_config

_INBOX = 1_000


def timed(work: Callable[[], object]) -> float:
    """Returns the seconds that `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    config = load_config(Path(__file__).parents[1] / "configs" / "digits.yaml")
    splits = config.data.splits.model_dump()
    with tempfile.TemporaryDirectory() as name:
        root, inbox = Path(name, "data"), Path(name, "inbox")
        inbox.mkdir()
        span = synthesise(SynthPlan(config.captcha, SynthConfig(count=count), splits), root)
        for number, sample in zip(range(_INBOX), samples(span, "train", Window((span,), None), config.data.picture_rules), strict=False):
            assert sample.image is not None
            sample.image.save(inbox / f"{sample.label}_{number}.png")
        plan = ImportPlan(root, config.captcha, splits, "inbox", config.data.picture_rules, only_new=True)

        def refresh() -> None:
            with SpanIndex(root, plan.rules) as index:
                index.refresh(list_spans(root))

        def ingest() -> None:
            try:
                import_folder(inbox, "{label}_*", plan)
            except NothingNew:
                return
            raise AssertionError("The ingest imported pictures, but every picture of the inbox is already in the span.")

        made = timed(refresh)
        size = (root / ".index.sqlite").stat().st_size
        again = timed(refresh)
        ingested = timed(ingest)
        pictures = sum(path.stat().st_size for path in span.path.rglob("*.gz"))
        shutil.rmtree(root)
    record(
        "index",
        "The span index",
        (
            "pictures",
            "build time",
            "pictures/s",
            "bytes per picture",
            "share of the span's bytes",
            "time to reopen",
            f"ingest of {_INBOX:,} known pictures",
        ),
        [
            [
                f"{count:,}",
                f"{made:.0f} s",
                f"{count / made:,.0f}",
                f"{size / count:.0f}",
                f"{size / pictures:.1%}",
                f"{again:.2f} s",
                f"{ingested:.1f} s",
            ]
        ],
        ["Pictures of 100x30 in one span. Without the index, each ingest reads every record of every span."],
    )


if __name__ == "__main__":
    main()
