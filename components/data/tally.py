"""Counts good and bad records, per span and in total, for the quarantine's summary, and decides whether a run must stop."""

import collections
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from components.base.features import SPLITS

_EXAMPLES_PER_REASON: Final = 3
_LINES_IN_MESSAGE: Final = 3


class Tally:
    """Counts the records of a shard, a span, or all spans.

    Attributes:
      total: the number of records.
      good: by split, the number of records that CheckShard emits.
      reasons: by reason, the count and the first examples of bad records.
      overlap: by reason, the count and the first examples of records that were left out because of another record of their picture, in
        the test or eval split or in a later span.
    """

    def __init__(self) -> None:
        self.total = 0
        self.good: collections.Counter[str] = collections.Counter()
        self.reasons: dict[str, dict[str, Any]] = {}
        self.overlap: dict[str, dict[str, Any]] = {}

    def add_bad(self, reason: str, count: int, where: Mapping[str, Any]) -> None:
        """Counts bad records. `where` has the file, index and detail of the first one."""
        _add(self.reasons, reason, count, [where])

    def add_overlap(self, reason: str, where: Mapping[str, Any]) -> None:
        """Counts a record that is left out because of another record of its picture. `where` has the file, index and detail."""
        _add(self.overlap, reason, 1, [where])

    def merge(self, other: Mapping[str, Any]) -> None:
        """Adds the counts of another tally, as its `to_json` returns them."""
        self.total += other["total"]
        self.good.update(other["good"])
        for mine, theirs in ((self.reasons, other["reasons"]), (self.overlap, other["overlap"])):
            for reason, entry in theirs.items():
                _add(mine, reason, entry["count"], entry["examples"])

    def to_json(self) -> dict[str, Any]:
        """Returns the counts, the most frequent reasons first. `bad` is the sum over the reasons."""
        reasons, overlap = (dict(sorted(it.items(), key=lambda item: (-item[1]["count"], item[0]))) for it in (self.reasons, self.overlap))
        bad = sum(entry["count"] for entry in reasons.values())
        return {"total": self.total, "bad": bad, "good": self.good, "reasons": reasons, "overlap": overlap}


def _add(entries: dict[str, dict[str, Any]], reason: str, count: int, examples: Sequence[Mapping[str, Any]]) -> None:
    entry = entries.setdefault(reason, {"count": 0, "examples": []})
    entry["count"] += count
    entry["examples"] = [*entry["examples"], *examples][:_EXAMPLES_PER_REASON]


def summarise(parts: Sequence[bytes]) -> bytes:
    """Merges the elements that CheckShard emits under SUMMARY into the quarantine's summary, JSON in UTF-8."""
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
      golden: the name of the golden span; None if there is no such span.
      max_bad_fraction: the largest share of a span's records that may be bad, 0 to 1.
    """
    if summary["changed"]:
        return _first(summary["changed"], "files")
    spans = summary["spans"]
    if over := [name for name, tally in spans.items() if tally["bad"] > max_bad_fraction * tally["total"]]:
        return _first([_too_bad(name, spans[name], max_bad_fraction) for name in over], "spans")
    if not sum(_good(spans, newest).values()):
        remedy = "Make a span with more pictures, or exclude this span with data.exclude"
        return f"There is no good record in {newest}, the newest span. {remedy}." + _left_out(spans.get(newest))
    if golden and not _good(spans, golden).get("test"):
        return f"There is no good record in the test split of {golden}. Set data.golden to another span." + _left_out(spans.get(golden))
    if empty := [split for split in SPLITS if not summary["good"].get(split)]:
        head = (
            f"There is no good record in the split {empty[0]}, of {summary['total']:,} records in total. Label more pictures, or make a "
            "span with more of them. Drawn pictures beside labelled ones only train."
        )
        return head + _left_out(summary)
    return ""


def _good(spans: Mapping[str, Any], name: str) -> Mapping[str, int]:
    """Returns the number of good records of a span by split; {} for a span without shards, which has no tally."""
    good: Mapping[str, int] = spans[name]["good"] if name in spans else {}
    return good


def _first(lines: Sequence[str], what: str) -> str:
    further = len(lines) - _LINES_IN_MESSAGE
    return "\n".join([*lines[:_LINES_IN_MESSAGE], *([f"{further:,} more {what} have the same problem."] if further > 0 else [])])


def _too_bad(span: str, tally: Mapping[str, Any], max_bad_fraction: float) -> str:
    bad, total = tally["bad"], tally["total"]
    head = f"{bad:,} of {total:,} records of {span} ({bad / total:.1%}) are bad; data.max_bad_fraction allows {max_bad_fraction:.1%}."
    return head + _lines(tally["reasons"])


def _left_out(tally: Mapping[str, Any] | None) -> str:
    return _lines({**tally["reasons"], **tally["overlap"]}) if tally else ""


def _lines(reasons: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a line for each of the first reasons, each with a line break before it."""
    text = ""
    for reason, entry in list(reasons.items())[:_LINES_IN_MESSAGE]:
        example = entry["examples"][0]
        text += f"\n  {reason} ({entry['count']:,}), such as {example['file']}, record {example['index']}: {example['detail']}"
    return text
