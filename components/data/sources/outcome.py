"""The result of an import: which pictures were imported, which were left out, and which may be wrong."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from components.base.errors import CaptchaPipelineError
from components.data.spans import Span

_EXAMPLES: Final = 5  # cases of each kind that are named
_CONTRADICTIONS: Final = 100  # contradictions that are named
_CONTRADICTED: Final = (
    "Correct the labels and import again. If the label in a span is wrong, correct it there (`captcha-pipeline data correct`)."
)


@dataclass
class Found:
    """The number of cases of one kind, and the first few of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Counts a case."""
        self.count += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)

    def __str__(self) -> str:
        return f"{', '.join(self.examples)}{' …' if self.count > len(self.examples) else ''}"


@dataclass
class Imported:
    """The result of an import.

    Attributes:
      span: the new span; not set after a dry run, or if nothing was imported.
      counts: the number of imported records, by split.
      reasons: the pictures and records that were left out, by reason, except contradictions.
      contradictions: pictures that were left out because they already exist with another label: a line for each, with both places and
        labels.
      refused_labels: a line for each label that the spec refuses. The pictures are imported, and a run quarantines them.
      refused_pictures: pictures that a run will quarantine, by reason. They are imported as well.
      doubtful: pictures that look like a picture with another label. They are imported.
      known: the number of pictures that are already in a span with the same label.
      alike: the number of pictures that were put into the split of a picture that they look like.
      sizes: the number of pictures, by width and height in pixels.
      superseded: the keys of pictures whose label from a model is replaced by the label from this import.
    """

    span: Span = field(init=False, repr=False)
    counts: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Found] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)
    refused_labels: list[str] = field(default_factory=list)
    refused_pictures: dict[str, Found] = field(default_factory=dict)
    doubtful: Found = field(default_factory=Found)
    known: int = 0
    alike: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    superseded: list[bytes] = field(default_factory=list)

    @property
    def left_out(self) -> dict[str, int]:
        """The number of pictures and records that were left out, by reason, except contradictions."""
        return {why: found.count for why, found in self.reasons.items()}

    def leave_out(self, why: str, where: str) -> None:
        """Notes that a picture or record is left out.

        Args:
          why: the reason.
          where: names the picture or record.
        """
        self.reasons.setdefault(why, Found()).add(where)

    def describe(self) -> str:
        """Returns a line for each reason in `reasons`, with the first few cases, and a line for each contradiction."""
        by_count = sorted(self.reasons.items(), key=lambda item: -item[1].count)
        lines = [f"{found.count:,} left out: {why}: {found}" for why, found in by_count]
        if self.contradictions:
            further = len(self.contradictions) - _CONTRADICTIONS
            lines += [
                f"{len(self.contradictions):,} left out: the picture already exists with another label:",
                *(f"  {line}" for line in self.contradictions[:_CONTRADICTIONS]),
                *([f"  … and {further:,} more"] if further > 0 else []),
                _CONTRADICTED,
            ]
        return "\n".join(lines)


class NothingNew(CaptchaPipelineError):
    """Nothing was imported or corrected, because the spans already have all of these pictures and labels.

    Attributes:
      result: counts the known pictures, and has those that were left out for other reasons.
    """

    def __init__(self, result: Imported):
        super().__init__("All pictures are already in a span.")
        self.result = result
