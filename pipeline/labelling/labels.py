"""Finds the labels that a folder's pictures already have in spans, and writes new labels and corrections to spans."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from components.base.features import CORRECTIONS, LABEL
from components.base.files import write_whole
from components.data.sources.corrections import KEY, Corrected, correct
from components.data.sources.imported import picture_item, source_name
from components.data.sources.index import Place, Progress, SpanIndex
from components.data.sources.outcome import Imported
from components.data.sources.sift import ImportPlan, Item, label_problem, save
from components.data.span_writer import lock_data
from components.data.spans import list_spans
from pipeline.config.config import Config
from pipeline.config.imports import import_plan
from pipeline.labelling.catalogue import Catalogue


@dataclass(frozen=True)
class InSpans:
    """What the spans say about the pictures of a catalogue, by index in the catalogue.

    Attributes:
      places: where a span has a picture with a valid label; the newest place of several. Labels that a model has given do not count, nor do
        labels that a later span corrects.
      removed: the pictures that a correction has removed.
    """

    places: Mapping[int, Place]
    removed: frozenset[int] = frozenset()


def in_spans(config: Config, catalogue: Catalogue, progress: Progress | None = None) -> InSpans:
    """Returns what the spans say about the pictures of a folder.

    Args:
      config: of the pipeline.
      catalogue: the pictures of the folder.
      progress: called while spans that are not in the index yet are read.

    Raises:
      CaptchaPipelineError: a span is damaged, or the data folder cannot be written.
    """
    root = Path(config.data.root)
    if not root.is_dir():
        return InSpans({})
    places, removed = dict[int, Place](), set[int]()
    with writing_in(root), lock_data(root), SpanIndex(root, config.data.picture_rules, config.data.unused) as index:
        index.refresh(list_spans(root), progress)
        for number, key in enumerate(catalogue.keys):
            if index.is_removed(key):
                removed.add(number)
            for place in index.current(key):
                if not index.is_pseudo(place) and not label_problem(place.label, config.captcha):
                    places[number] = place
    return InSpans(places, frozenset(removed))


def write_span(config: Config, catalogue: Catalogue, labels: Mapping[int, str]) -> Imported:
    """Writes labels to a new span, as `captcha-pipeline data import` does. The source of the span is the name of the folder.

    A picture whose file is gone or has changed is left out; its label stays in the journal.

    Args:
      config: of the pipeline.
      catalogue: the pictures of the folder.
      labels: by index in the catalogue.

    Returns:
      The result of the import. Its attribute `span` is not set if no picture was imported.

    Raises:
      CaptchaPipelineError: a span is damaged, or the data folder cannot be written.
    """
    plan = import_plan(config, source_name("", catalogue.folder))
    result = Imported()
    plan.root.mkdir(parents=True, exist_ok=True)
    try:
        return save(_items(catalogue, labels, plan, result), plan, result, None, None)
    except CaptchaPipelineError:
        if (result.reasons or result.contradictions) and not result.counts:  # every picture was left out; the result says why
            return result
        raise


def correct_spans(config: Config, corrections: Mapping[bytes, str], path: Path) -> Corrected:
    """Writes corrections to a table, and then to a new span, as `captcha-pipeline data correct` does.

    Args:
      config: of the pipeline.
      corrections: from `Decisions.corrections`, at least one.
      path: of the table, a CSV file. An earlier one is replaced.

    Raises:
      NothingNew: every picture already has the wanted label.
      NothingCorrected: no picture could be corrected.
      CaptchaPipelineError: a span is damaged, or a folder cannot be written.
    """
    rows = io.StringIO()
    table = csv.writer(rows)
    table.writerow([KEY, LABEL])
    table.writerows([key.hex(), label] for key, label in corrections.items())
    write_whole(path, rows.getvalue())
    return correct(path, import_plan(config, CORRECTIONS))


def _items(catalogue: Catalogue, labels: Mapping[int, str], plan: ImportPlan, result: Imported) -> Iterator[Item]:
    for number, label in sorted(labels.items()):
        data = catalogue.read(number, result)
        name = catalogue.entries[number].name
        if data is None or not (item := picture_item(data, label, name, plan, result)):
            continue
        if item.seen is None or item.seen.key != catalogue.keys[number]:
            result.leave_out("the file has changed since it was labelled", name)
            continue
        yield item
