"""The spans that a run reads, and the records of them that later spans correct or remove."""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.base.errors import CaptchaPipelineError
from components.base.features import CORRECTIONS, SPLITS
from components.data.spans import Span, list_spans


def replacements(spans: Iterable[Span]) -> dict[bytes, int]:
    """Returns, by the key of each picture that these spans correct or remove, the number of the newest span that does so.

    A record of the picture counts only in that span and in later spans.
    """
    newest: dict[bytes, int] = {}
    for span in spans:
        for key in map(bytes.fromhex, span.manifest.supersedes):
            newest[key] = max(span.number, newest.get(key, 0))
    return newest


def check_background(spans: Iterable[Span], background: Sequence[int]) -> None:
    """Checks that the keys in `supersedes` are those of pictures on this background.

    The key of a picture with transparent pixels depends on `data.background`. With another background, a correction would not find it.

    Args:
      spans: the spans that are used.
      background: RGB, 0 to 255.

    Raises:
      CaptchaPipelineError: a span that corrects or removes pictures was made with another background.
    """
    for span in spans:
        made_with = span.manifest.params.get("background", list(background))
        if span.manifest.supersedes and list(made_with) != list(background):
            again = f", or drop the span (`captcha-pipeline data drop {span.number}`) and correct the labels again"
            remedy = again if span.manifest.source == CORRECTIONS else ""  # another span has labels that replace those of models
            raise CaptchaPipelineError(
                f"The corrections in {span.path} were made with data.background {list(made_with)}. With {list(background)}, they would "
                f"miss pictures that have transparent pixels. Change data.background back{remedy}."
            )


def judging_spans(spans: Sequence[Span]) -> list[Span]:
    """Returns the spans whose pictures judge models: those that people have labelled, or, if there are none, those that are drawn.

    A model that is trained to read real pictures must not be measured on drawn ones, which are often easier.
    """
    return [span for span in spans if span.is_imported] or [span for span in spans if span.is_drawn]


@dataclass(frozen=True)
class Window:
    """The spans that a run reads.

    Attributes:
      spans: the spans used to train and to judge models, oldest first.
      golden: the span whose test split is always used to judge models, whether it is in `spans` or not; None for no such span.
      corrections: further spans, whose records are not read, but which supersede records of the other spans.
    """

    spans: tuple[Span, ...]
    golden: Span | None
    corrections: tuple[Span, ...] = ()

    @property
    def newest(self) -> Span:
        """The newest span that judges models. If there is none, the newest span."""
        return (self.judging or self.spans)[-1]

    def age(self, span: Span) -> int:
        """Returns how many spans that judge models are newer than this one. Corrections make no span older."""
        return sum(other.number > span.number for other in self.judging)

    def only_trains(self, span: Span) -> bool:
        """Returns whether a span does not judge models, because its pictures are drawn and other spans have labels of people."""
        return span.is_drawn and span not in self.judging

    def use_of(self, span: Span, split: str) -> str:
        """Returns the split in which a run uses the records of this split. The test split of the golden span always judges models."""
        judges = not self.only_trains(span) or (span == self.golden and split == SPLITS[-1])
        return split if judges else SPLITS[0]

    @functools.cached_property
    def judging(self) -> tuple[Span, ...]:
        """The spans that judge models, oldest first."""
        return tuple(judging_spans(self.spans))

    def superseded(self, span: Span) -> frozenset[bytes]:
        """Returns the keys of the pictures whose records in this span are left out, because a later span corrects or removes them."""
        return frozenset(key for key, number in self._replaced.items() if number > span.number)

    @functools.cached_property
    def _replaced(self) -> dict[bytes, int]:
        return replacements((*self.corrections, *self.spans))

    def only(self, span: Span) -> "Window":
        """Returns a window that reads one of the spans, and leaves out the same records of it."""
        return Window((span,), None, (*self.corrections, *self.spans))

    @property
    def digest(self) -> str:
        """A hexadecimal SHA-256 over the numbers and manifests of all spans, golden included, and so over their contents."""
        digest = hashlib.sha256()
        for span in (*self._all, *self.corrections):
            digest.update(f"{span.number} {span.manifest.model_dump_json()}\n".encode())
        return digest.hexdigest()

    @property
    def as_of(self) -> str:
        """A hexadecimal SHA-256 over `digest` and the sizes and modification times of the shards.

        It changes if a shard is replaced or removed, even if the manifest stays, and also if a shard is only touched, because no shard is
        read to compute it.
        """
        digest = hashlib.sha256(self.digest.encode())
        for path in (span.path / file.path for span in self._all for file in span.manifest.files):
            digest.update(_state(path).encode() + b"\n")
        return digest.hexdigest()

    @property
    def _all(self) -> tuple[Span, ...]:
        return (*self.spans, *([self.golden] if self.golden else []))


def window(root: str | Path, n: int | None, exclude: Iterable[int] = (), golden: int | None = None) -> Window:
    """Returns the window of the newest `n` spans.

    Args:
      root: the data folder.
      n: the number of spans that judge models, see `judging_spans`; None for all. Others that are newer than the oldest of these are also
        in the window.
      exclude: numbers of spans that are not used.
      golden: the number of the span whose test split is used to judge every model; None for no such span.

    Raises:
      CaptchaPipelineError: there is no span to use, or the golden span does not exist.
    """
    spans = list_spans(root)
    if not spans:
        raise CaptchaPipelineError(f"There are no spans in {root}. Make one with `captcha-pipeline data synth` or `data import`.")
    used = [span for span in spans if span.number not in set(exclude)]
    if not used:
        raise CaptchaPipelineError(f"data.exclude excludes all {len(spans)} spans in {root}. Remove one from data.exclude, or make a span.")
    kept = {span.number: span for span in spans}
    if golden is not None and golden not in kept:
        there = ", ".join(map(str, kept))
        raise CaptchaPipelineError(f"data.golden is {golden}, but {root} has the spans {there}. Put the span back, or change data.golden.")
    counted = [span.number for span in judging_spans(used)]
    oldest = 0 if n is None or len(counted) < n else counted[-n]
    chosen = tuple(span for span in used if span.number >= oldest)
    if golden is None:
        return Window(chosen, None)
    # A wrong label in the golden set would judge again when its correction is no longer in the window.
    older = (span for span in used if golden < span.number < chosen[0].number)
    return Window(chosen, kept[golden], tuple(span for span in older if span.manifest.supersedes))


def window_as_of(as_of: str, root: str | Path, n: int | None, exclude: Iterable[int] = (), golden: int | None = None) -> Window:
    """Returns the window that had this `as_of`, even if spans were added since. Returns the current window for "".

    Args:
      as_of: the `Window.as_of` to find, or "".
      root, n, exclude, golden: see `window`.

    Raises:
      CaptchaPipelineError: a span of the window was removed or changed since, or as `window`.
    """
    there = window(root, n, exclude, golden)
    later: set[int] = set()
    while as_of and there.as_of != as_of:
        later.add(there.spans[-1].number)
        try:
            there = window(root, n, {*exclude, *later}, golden)
        except CaptchaPipelineError:
            raise CaptchaPipelineError(f"A span in {root} was removed or changed after the run began. Start the run again.") from None
    return there


def _state(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"
