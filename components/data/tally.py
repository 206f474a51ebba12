"""Counts of good and bad records, by span and in all: the quarantine's summary, and whether a run must stop."""

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from components.base.features import SPLITS

_EXAMPLES_PER_REASON: Final = 3
_LINES_IN_MESSAGE: Final = 3


class Tally:
    """Counts records: of a shard, a span, or all.

    Attributes:
      total: all of them.
      good: by split, those that come out.
      reasons: by reason, count and first examples of those that are not right.
      overlap: likewise, of those that are right and left out because the test or eval split has the same picture.
    """

    def __init__(self) -> None:
        self.total = 0
        self.good: collections.Counter[str] = collections.Counter()
        self.reasons: dict[str, dict[str, Any]] = {}
        self.overlap: dict[str, dict[str, Any]] = {}

    def add_bad(self, reason: str, count: int, where: Mapping[str, Any]) -> None:
        """Counts records that are not right; `where` has file, index and detail of the first."""
        _add(self.reasons, reason, count, [where])

    def add_overlap(self, split: str, where: Mapping[str, Any]) -> None:
        """Counts a record whose picture the split has as well; `where` has file, index and detail."""
        _add(self.overlap, f"also_in_{split}", 1, [where])

    def merge(self, other: Mapping[str, Any]) -> None:
        """Adds what `to_json` of another returned."""
        self.total += other["total"]
        self.good.update(other["good"])
        for mine, theirs in ((self.reasons, other["reasons"]), (self.overlap, other["overlap"])):
            for reason, entry in theirs.items():
                _add(mine, reason, entry["count"], entry["examples"])

    def to_json(self) -> dict[str, Any]:
        """Returns the counts, the commonest reasons first. `bad` is the sum over the reasons."""
        reasons, overlap = (dict(sorted(it.items(), key=lambda item: (-item[1]["count"], item[0]))) for it in (self.reasons, self.overlap))
        bad = sum(entry["count"] for entry in reasons.values())
        return {"total": self.total, "bad": bad, "good": self.good, "reasons": reasons, "overlap": overlap}


def _add(entries: dict[str, dict[str, Any]], reason: str, count: int, examples: Sequence[Mapping[str, Any]]) -> None:
    entry = entries.setdefault(reason, {"count": 0, "examples": []})
    entry["count"] += count
    entry["examples"] = [*entry["examples"], *examples][:_EXAMPLES_PER_REASON]


def summarise(parts: Sequence[bytes]) -> bytes:
    """Merges what CheckShard emits under SUMMARY to the quarantine's summary."""
    total, spans, changed = Tally(), collections.defaultdict[str, Tally](Tally), []
    for part in map(json.loads, sorted(parts)):
        total.merge(part["tally"])
        spans[part["span"]].merge(part["tally"])
        changed += part["changed"]
    by_span = {name: spans[name].to_json() for name in sorted(spans)}
    return json.dumps(total.to_json() | {"spans": by_span, "changed": changed}, indent=1, ensure_ascii=False).encode()


def stop_reason(summary: Mapping[str, Any], newest: str, golden: str | None, max_bad_fraction: float) -> str:
    """Returns why a run must stop, or "".

    Args:
      summary: of the quarantine, as JSON.
      newest: the name of the newest span in the window.
      golden: likewise of the golden one; None if there is none.
      max_bad_fraction: how much of the records of a span may be bad, 0 to 1.
    """
    if summary["changed"]:
        return _first(summary["changed"], "files")
    spans = summary["spans"]
    if over := [name for name, tally in spans.items() if tally["bad"] > max_bad_fraction * tally["total"]]:
        return _first([_too_bad(name, spans[name], max_bad_fraction) for name in over], "spans")
    if not sum(_good(spans, newest).values()):
        remedy = "make a span with more pictures, or leave this one out with data.exclude"
        return f"There is no good record in {newest}, the newest span; {remedy}." + _left_out(spans.get(newest))
    if golden and not _good(spans, golden).get("test"):
        return f"There is no good record in the test split of {golden}; set data.golden to another span." + _left_out(spans.get(golden))
    if empty := [split for split in SPLITS if not summary["good"].get(split)]:
        head = f"There is no good record in the split {empty[0]}, of {summary['total']:,} records in all; make a span with more pictures."
        return head + _left_out(summary)
    return ""


def _good(spans: Mapping[str, Any], name: str) -> Mapping[str, int]:
    """The good records of a span by split; a span without shards has no tally."""
    good: Mapping[str, int] = spans[name]["good"] if name in spans else {}
    return good


def _first(lines: Sequence[str], what: str) -> str:
    further = len(lines) - _LINES_IN_MESSAGE
    return "\n".join([*lines[:_LINES_IN_MESSAGE], *([f"The same is true of {further:,} more {what}."] if further > 0 else [])])


def _too_bad(span: str, tally: Mapping[str, Any], max_bad_fraction: float) -> str:
    bad, total = tally["bad"], tally["total"]
    head = f"{bad:,} of {total:,} records of {span} ({bad / total:.1%}) are not right; data.max_bad_fraction allows {max_bad_fraction:.1%}."
    return head + _lines(tally["reasons"])


def _left_out(tally: Mapping[str, Any] | None) -> str:
    return _lines({**tally["reasons"], **tally["overlap"]}) if tally else ""


def _lines(reasons: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a line for each of the first reasons, with a line break before it."""
    text = ""
    for reason, entry in list(reasons.items())[:_LINES_IN_MESSAGE]:
        example = entry["examples"][0]
        text += f"\n  {reason} ({entry['count']:,}), such as {example['file']}, record {example['index']}: {example['detail']}"
    return text
