"""The end of `captcha-pipeline label`, a process of its own."""

import signal
from pathlib import Path

import pytest

from components.base.features import MANIFEST
from components.data.spans import list_spans, span_name
from pipeline.labelling.journal import Kind
from pipeline.labelling.opening import opened
from tests.support.labelling import config, draw, labelling

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_error_at_the_end_is_shown_and_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "shop"
    labels = draw(folder, 8)
    settings = config(tmp_path)
    with opened(settings, folder) as session:
        for picture, entry in enumerate(session.catalogue.entries):
            session.decide("a", picture, 0, Kind.LABEL, labels[entry.name])
    damaged = Path(settings.data.root, span_name(7))
    with labelling(tmp_path, folder) as program:
        damaged.mkdir(parents=True)
        (damaged / MANIFEST).write_text("{")
        code, told = program.stop(number)
    assert code == 1, told
    assert "is not a valid manifest" in told
    (damaged / MANIFEST).unlink()
    damaged.rmdir()
    with labelling(tmp_path, folder) as program:
        code, told = program.stop(number)
    assert code == 0, told
    assert [sum(span.manifest.counts.values()) for span in list_spans(settings.data.root)] == [len(labels)]
