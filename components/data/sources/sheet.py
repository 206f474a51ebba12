"""Shows the data in the spans of a window: a contact sheet, and statistics of each split. Superseded records are left out."""

import contextlib
import io
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from captcha.image import DEFAULT_FONTS
from PIL import Image, ImageDraw, ImageFont, ImageOps

from components.base.errors import CaptchaPipelineError
from components.base.features import DATA_INFO, IMAGE, LABEL, SPLITS
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.painting import INSTALLED_FONTS, find_fonts
from components.data.example_proto import Example
from components.data.legacy_layout import DataInfo, legacy_label, legacy_picture
from components.data.pictures import ALLOWED_FORMATS, PictureRules
from components.data.sources.seen import of_record
from components.data.spans import Span
from components.data.tfrecords import Record
from components.data.window import Window

_SHEET_WIDTH: Final = 1200  # pixels, like the following lengths
_CELL_WIDTH: Final = 138
_GAP: Final = 10
_TEXT: Final = 16
_MAX_PIXELS: Final = 4_000_000  # a larger picture is shown as an empty cell


@dataclass(frozen=True)
class Sample:
    """A record.

    Attributes:
      label: its label; "" for a broken record.
      image: its picture, of which only the header may have been read so far; None for a broken record.
      stored_bytes: the size of the stored picture.
    """

    label: str
    image: Image.Image | None
    stored_bytes: int


@dataclass
class SplitStatistics:
    """Counts over the records of one split.

    Attributes:
      split: the name of the split.
      records: the number of records.
      broken: the number of records without a readable label or picture. The following counts leave them out.
      stored_bytes: the size of all stored pictures together.
      lengths: the number of labels, by their length in characters.
      characters: how often each character occurs in the labels.
      sizes: the number of pictures, by width and height in pixels.
    """

    split: str
    records: int = 0
    broken: int = 0
    stored_bytes: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    def share_of_characters(self) -> tuple[float, float, float]:
        """Returns the smallest, mean and largest share of a character among all characters of the labels, in [0, 1]."""
        total = self.characters.total() or 1
        shares = [count / total for count in self.characters.values()] or [0.0]
        return min(shares), sum(shares) / len(shares), max(shares)


def samples(span: Span, split: str, window: Window, rules: PictureRules) -> Iterator[Sample]:
    """Yields the records of a span, in either layout, that a run with this window uses as one split.

    Raises:
      CaptchaPipelineError: as for `Span.records`.
    """
    info = DataInfo.load(span.path / DATA_INFO) if span.manifest.layout == "book" else None
    superseded = window.superseded(span)
    parts = (span.records(part) for part in SPLITS if window.use_of(span, part) == split)
    for item in itertools.chain.from_iterable(parts):
        if superseded and isinstance(item, Record):
            seen = of_record(item.data, info, span.manifest.spec, rules)
            if seen and seen.key in superseded:
                continue
        sample = Sample("", None, 0)
        if isinstance(item, Record):
            # An unreadable record is shown as broken. Pillow raises almost any exception.
            with contextlib.suppress(Exception):
                sample = _canonical_sample(item.data) if info is None else _legacy_sample(item.data, info, span.manifest.spec)
        yield sample


def _canonical_sample(data: bytes) -> Sample:
    feature = Example.FromString(data).features.feature
    encoded = feature[IMAGE].bytes_list.value[0]
    image = Image.open(io.BytesIO(encoded), formats=ALLOWED_FORMATS)
    return Sample(feature[LABEL].bytes_list.value[0].decode(), image, len(encoded))


def _legacy_sample(data: bytes, info: DataInfo, spec: CaptchaSpec) -> Sample:
    example = Example.FromString(data)
    image = legacy_picture(example, info)
    return Sample(legacy_label(example, info, spec), image, len(image.tobytes()))


def span_statistics(window: Window, spec: CaptchaSpec, rules: PictureRules) -> list[SplitStatistics]:
    """Returns the statistics of each split over the spans of a window. A character of the spec that never occurs has the count 0.

    Reads every record, but only the headers of the pictures. If a later span supersedes records of a span, reads the pixels of that span's
    pictures too, because superseded records are found by their pixels.

    Raises:
      CaptchaPipelineError: as for `Span.records`.
    """
    statistics = [SplitStatistics(split, characters=Counter(dict.fromkeys(spec.characters, 0))) for split in SPLITS]
    for span, counts in itertools.product(window.spans, statistics):
        for sample in samples(span, counts.split, window, rules):
            counts.records += 1
            if sample.image is None:
                counts.broken += 1
                continue
            counts.stored_bytes += sample.stored_bytes
            counts.lengths[len(sample.label)] += 1
            counts.characters.update(sample.label)
            counts.sizes[sample.image.size] += 1
    return statistics


def contact_sheet(
    window: Window, statistics: Sequence[SplitStatistics], path: str | Path, per_split: int, spec: CaptchaSpec, rules: PictureRules
) -> None:
    """Writes a PNG with the first pictures of each split, spread over the spans, and their labels.

    Args:
      window: its spans are in either layout.
      statistics: of the same window.
      path: of the PNG.
      per_split: the maximum number of pictures of each split.
      spec: gives the aspect ratio of a cell, and the characters of the labels.
      rules: how pictures are decoded.

    Raises:
      CaptchaPipelineError: as for `Span.records`.
      OSError: the PNG cannot be written.
    """
    cell = (_CELL_WIDTH, max(1, round(_CELL_WIDTH * spec.height / spec.width)))
    columns = (_SHEET_WIDTH - _GAP) // (_CELL_WIDTH + _GAP)
    row = cell[1] + _TEXT + 2 * _GAP
    parts = [(counts, _first(window, counts.split, per_split, rules)) for counts in statistics]
    height = sum(_TEXT + 2 * _GAP + row * -(-len(shown) // columns) for _, shown in parts) + _GAP
    sheet = Image.new("RGB", (_SHEET_WIDTH, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = _font(window.spans, spec)
    top = _GAP
    for counts, shown in parts:
        draw.text((_GAP, top), f"{counts.split}: {counts.records:,} pictures", "black", _title_font())
        top += _TEXT + 2 * _GAP
        for index, sample in enumerate(shown):
            corner = _GAP + index % columns * (_CELL_WIDTH + _GAP), top + index // columns * row
            thumbnail = _thumbnail(sample, cell)
            sheet.paste(thumbnail, corner)
            draw.rectangle((corner[0] - 1, corner[1] - 1, corner[0] + cell[0], corner[1] + cell[1]), outline="#cccccc")
            draw.text((corner[0], corner[1] + cell[1] + 3), sample.label[: _CELL_WIDTH // 6] or "broken", "black", font)
        top += row * -(-len(shown) // columns)
    sheet.save(path, "PNG")


def _first(window: Window, split: str, count: int, rules: PictureRules) -> list[Sample]:
    streams = [samples(span, split, window, rules) for span in window.spans]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*streams))
    return list(itertools.islice((sample for sample in turns if sample is not None), count))


def _thumbnail(sample: Sample, cell: tuple[int, int]) -> Image.Image:
    canvas = Image.new("RGB", cell, "#eeeeee")
    image = sample.image
    if image is None or image.width * image.height > _MAX_PIXELS:
        return canvas
    try:
        fitted = ImageOps.contain(image.convert("RGB"), cell)
    # The header was valid, but the rest of the picture is not.
    except Exception:
        return canvas
    canvas.paste(fitted, ((cell[0] - fitted.width) // 2, (cell[1] - fitted.height) // 2))
    return canvas


def _title_font() -> ImageFont.FreeTypeFont:
    """Returns the captcha library's own font, which has characters of more scripts than Pillow's."""
    return ImageFont.truetype(DEFAULT_FONTS[0], _TEXT)


def _font(spans: Sequence[Span], spec: CaptchaSpec) -> ImageFont.FreeTypeFont:
    """Returns a font for the labels: one that the pictures were drawn with, or else one that has all characters, or else that of titles."""
    drawn = itertools.chain.from_iterable(span.manifest.params.get("fonts", ()) for span in spans)
    if own := next(filter(os.path.isfile, drawn), None):
        return ImageFont.truetype(own, _TEXT)
    for place in (DEFAULT_FONTS[0], INSTALLED_FONTS):
        with contextlib.suppress(CaptchaPipelineError):
            return ImageFont.truetype(find_fonts([place], spec.characters)[0], _TEXT)
    return _title_font()
