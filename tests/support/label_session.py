"""A labelling session without its page."""

from pipeline.config.config import Config
from pipeline.labelling.journal import Kind
from pipeline.labelling.labels import in_spans, write_span
from pipeline.labelling.session import Session


def name(session: Session, number: int) -> str:
    """Returns the file name of a picture."""
    return session.catalogue.entries[number].name


def label_some(session: Session, labels: dict[str, str], count: int, window: str = "a") -> list[int]:
    """Labels the next pictures as they are; returns them."""
    found = []
    for _ in range(count):
        number = session.next(window)
        assert number is not None
        session.decide(window, number, 0, Kind.LABEL, labels[name(session, number)])
        found.append(number)
    return found


def write(config: Config, session: Session) -> None:
    """Writes the labels that are not in a span yet as a span."""
    write_span(config, session.catalogue, session.decisions.unwritten())
    session.decisions.written(in_spans(config, session.catalogue))
