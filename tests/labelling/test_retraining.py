"""Models that are trained while a person labels: when, from what, and how they are swapped in."""

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.base.features import DRAWN, TEXT
from components.base.files import locked
from components.data.sources.imported import import_folder
from components.data.spans import list_spans
from components.serving.serving_dir import versions
from pipeline.config.config import Config
from pipeline.config.imports import import_plan
from pipeline.config.loading import load_config
from pipeline.labelling import retraining
from pipeline.labelling.app import Goal, LabelApp
from pipeline.labelling.journal import Kind
from pipeline.labelling.models import Models
from pipeline.labelling.opening import folder_of, opened
from pipeline.labelling.retraining import FIRST, labelling_config, take_over_production
from pipeline.labelling.session import Session
from tests.support import labelling
from tests.support.encoded import encode
from tests.support.exported_model import MAX_PIXELS, SPEC, answers_in_python
from tests.support.label_client import Client
from tests.support.transform_run import draw

pytestmark = pytest.mark.slow
COUNT = 150
EVERY = 20


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures that the model of tests.support.exported_model reads. Their labels are in their names."""
    folder = tmp_path_factory.mktemp("drawn")
    for seed in range(COUNT):
        label = "".join(SPEC.characters[(seed // 5**place) % 5] for place in range(3))
        (folder / f"{label} {seed:03d}.png").write_bytes(encode(draw(SPEC, label, seed)))
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config.model_validate(
        {
            "name": "letters",
            "root": str(tmp_path / "output"),
            "captcha": SPEC.model_dump(),
            "data": {"root": str(tmp_path / "data"), "max_pixels": MAX_PIXELS},
            "evaluator": {"min_sequence_accuracy": 0.99},
        }
    )


@pytest.fixture
def session(config: Config, drawn: Path) -> Iterator[Session]:
    with opened(config, drawn) as session:
        yield session


@contextmanager
def page(config: Config, session: Session) -> Iterator[tuple[Client, LabelApp]]:
    app = LabelApp(config, session, Goal(0.98, EVERY))
    with Client(app.starlette()) as client:
        yield client, app


def label(session: Session, count: int) -> list[int]:
    found = []
    for _ in range(count):
        number = session.next("a")
        assert number is not None
        session.decide("a", number, 0, Kind.LABEL, session.catalogue.entries[number].name.split()[0])
        found.append(number)
    return found


def trains_with(monkeypatch: pytest.MonkeyPatch, program: str, *arguments: object) -> None:
    """Puts a program in the place of `captcha-pipeline retrain`. It gets the configuration file as its first argument."""

    def command(settings: Path, overrides: Sequence[str]) -> list[str]:
        assert overrides == []
        return [sys.executable, "-c", textwrap.dedent(program), str(settings), *map(str, arguments)]

    monkeypatch.setattr(retraining, "retrain_command", command)


PUSHES = """
    import sys
    from components.serving.serving_dir import push
    from pipeline.config.loading import load_config
    print(push(sys.argv[2], load_config(sys.argv[1]).serving_dir, 2))
"""


def state(client: Client) -> Any:
    return client.post("/state", json={"window": "a", "key": None}).json()


def test_a_new_model_reads_all_pictures_and_is_measured(
    config: Config, session: Session, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains_with(monkeypatch, PUSHES, model)
    with page(config, session) as (client, app):
        label(session, FIRST - 1)
        client.wait(lambda: state(client)["training"]["words"] == "The first model is trained after 1 more label.")
        assert list_spans(config.data.root) == []
        label(session, 1)
        client.wait(lambda: bool(state(client)["version"]))
        first = client.post("/next", json={"window": "a"}).json()["picture"]
        number = session.number(bytes.fromhex(first["key"]))
        assert number is not None
        expected = answers_in_python(model, {"serving_default": [session.catalogue.entries[number].path.read_bytes()]})
        assert first["reading"]["text"] == first["text"] == expected["serving_default"][TEXT][0].decode()
        client.wait(lambda: 0 < state(client)["reading"]["total"] == state(client)["reading"]["done"])
        (point,) = state(client)["points"]
        (span,) = list_spans(config.data.root)
        assert sum(span.manifest.counts.values()) == FIRST
        assert (point["labels"], point["count"]) == (FIRST, span.manifest.counts["test"])
        assert point["lower"] <= point["value"] <= point["upper"]
        later = label(session, 10)
        assert state(client)["since"]["count"] == sum(map(session.is_random, later))
        assert state(client)["training"]["words"] == f"The next model is trained after {EVERY - 10} more labels."
        assert app.retraining.imports[0].counts == span.manifest.counts
        app.retraining.finish()
    assert [sum(span.manifest.counts.values()) for span in list_spans(config.data.root)] == [FIRST, 10]
    assert versions(config.serving_dir) == []  # nothing has reached production


def test_a_failed_training_is_shown_and_tried_again_after_further_labels(
    config: Config, session: Session, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trains_with(monkeypatch, "import sys; print('first line'); print('no memory'); sys.exit(1)")
    with page(config, session) as (client, _):
        label(session, FIRST)
        client.wait(lambda: state(client)["training"]["state"] == "failed")
        found = state(client)["training"]
        assert "exit code 1" in found["words"]
        assert found["words"].endswith(f"The next try begins after {EVERY} more labels.")
        assert found["tail"] == "first line\nno memory"
        assert Path(found["log"]).read_text() == "first line\nno memory\n"
        assert client.post("/next", json={"window": "a"}).status_code == 200  # labelling goes on
        trains_with(monkeypatch, PUSHES, model)
        label(session, EVERY)
        client.wait(lambda: bool(state(client)["version"]))
        assert state(client)["training"]["tail"] == ""


def test_the_first_model_waits_for_random_pictures(config: Config, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    trains_with(monkeypatch, "raise SystemExit")
    trained = [number for number in range(COUNT) if not session.is_random(number)]
    with page(config, session) as (client, _):
        for number in trained[: FIRST + 5]:
            session.decide("a", number, 0, Kind.LABEL, "абв")
        client.wait(lambda: "when 4 pictures of the eval split are labelled; so far there are 0." in state(client)["training"]["words"])
        assert list_spans(config.data.root) == []


def test_a_folder_without_a_picture_for_a_split_says_so(config: Config, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retraining, "FIRST", 5)
    shares = config.data.splits.model_copy(update={"train": 10**6})
    config = config.model_copy(update={"data": config.data.model_copy(update={"splits": shares})})
    with opened(config, drawn) as session, page(config, session) as (client, _):
        label(session, 5)
        assert "No picture of the folder belongs to the eval split" in state(client)["training"]["words"]


def test_labels_are_those_of_people(config: Config, session: Session, drawn: Path) -> None:
    app = LabelApp(config, session, Goal(0.98, EVERY))
    label(session, 5)
    assert app.retraining.labels == 5
    app.retraining.finish()
    assert app.retraining.labels == 5
    import_folder(drawn, "{label} *.png", import_plan(config, DRAWN))
    again = LabelApp(config, session, Goal(0.98, EVERY))
    assert again.retraining.labels == 5


def test_a_training_waits_for_a_run_that_is_at_work(config: Config, session: Session, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trains_with(monkeypatch, PUSHES, model)
    with page(config, session) as (client, _):
        for lock in (config.run_lock, labelling_config(config).run_lock):
            with locked(Path(lock)):
                label(session, max(FIRST - session.decisions.counts()["labelled"], 0))
                client.wait(lambda: "is at work" in state(client)["training"]["words"])
                assert list_spans(config.data.root) == []
        client.wait(lambda: bool(state(client)["version"]))


def test_a_training_that_a_killed_process_has_left_is_waited_for(
    config: Config, session: Session, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = """
        import pathlib, sys, time
        from components.base.files import locked
        from components.serving.serving_dir import push
        from pipeline.config.loading import load_config
        config = load_config(sys.argv[1])
        with locked(pathlib.Path(config.run_lock)):
            pathlib.Path(sys.argv[3]).touch()
            time.sleep(4)
            push(sys.argv[2], config.serving_dir, 2)
    """
    # As `retrain` does when another run has just begun: it does nothing, and succeeds.
    program = """
        import pathlib, subprocess, sys, time
        begun = pathlib.Path(sys.argv[3])
        if not begun.exists():
            subprocess.Popen([sys.executable, "-c", sys.argv[4], *sys.argv[1:4]])
        while not begun.exists():
            time.sleep(0.1)
    """
    trains_with(monkeypatch, program, model, tmp_path / "begun", textwrap.dedent(left))
    seen = set[str]()
    with page(config, session) as (client, _):
        label(session, FIRST)

        def has_a_model() -> bool:
            found = state(client)
            seen.add(found["training"]["state"])
            return bool(found["version"])

        client.wait(has_a_model)
    assert seen == {"running", "waiting"}


def test_a_training_is_stopped_at_the_end(config: Config, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
        import pathlib, signal, sys, time
        # As captcha-pipeline does: a shell may start a process in the background with SIGINT ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            pathlib.Path(sys.argv[2]).touch()
            time.sleep(600)
        except KeyboardInterrupt:
            pathlib.Path(sys.argv[3]).touch()
    """
    begun, stopped = tmp_path / "begun", tmp_path / "stopped"
    trains_with(monkeypatch, program, begun, stopped)
    with page(config, session) as (client, _):
        label(session, FIRST)
        client.wait(begun.exists)
        assert state(client)["training"]["words"] == f"Training a model with {FIRST} labels …"
    assert stopped.exists()


def test_the_model_in_production_reads_from_the_beginning(config: Config, session: Session, model: Path) -> None:
    production = Path(config.serving_dir) / "7"
    shutil.copytree(model, production)
    take_over_production(config)
    take_over_production(config)  # once is enough
    assert len(versions(labelling_config(config).serving_dir)) == 1
    with page(config, session) as (client, _):
        client.wait(lambda: 0 < state(client)["reading"]["total"] == state(client)["reading"]["done"])
        assert state(client)["training"]["words"] == f"The next model is trained after {EVERY} more labels."
        assert client.post("/next", json={"window": "a"}).json()["picture"]["reading"]["text"]


def test_a_model_that_fails_does_not_stop_the_labelling(
    config: Config, session: Session, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("out of memory")

    monkeypatch.setattr(Models, "_call", fail)
    shutil.copytree(model, Path(config.serving_dir) / "7")
    take_over_production(config)
    with page(config, session) as (client, _):
        client.wait(lambda: "out of memory" in state(client)["problem"])
        assert client.post("/next", json={"window": "a"}).json()["picture"]["reading"] is None
        assert len(label(session, 3)) == 3


def test_the_trainings_have_a_pipeline_of_their_own(tmp_path: Path) -> None:
    settings = ("retraining.every_span=false", "data.golden=1", "data.window=2", "drift.action=stop")
    config = labelling.config(tmp_path, f"pusher.serving_dir={tmp_path / 'production'}", *settings)
    inner = labelling_config(config)
    for path in (inner.serving_dir, inner.metadata_path, inner.pipeline_root, inner.checkpoint_dir, inner.report_dir, inner.run_lock):
        assert Path(path).is_relative_to(folder_of(config))
    assert Path(folder_of(config)).is_relative_to(config.root)
    assert (inner.captcha, inner.trainer, inner.beam) == (config.captcha, config.trainer, config.beam)
    assert inner.data == config.data.model_copy(update={"window": None})  # a labelling makes many small spans
    assert inner.drift.action == "warn"
    assert inner.retraining.every_span
    assert inner.evaluator.min_sequence_accuracy == 0
    written = tmp_path / "pipeline.yaml"
    written.write_text(yaml.safe_dump(inner.model_dump(mode="json"), allow_unicode=True))
    assert load_config(written) == inner


@pytest.mark.long
def test_a_real_training_swaps_a_model_in(tmp_path: Path) -> None:
    labels = labelling.draw(tmp_path / "shop", 150)
    settings = ("trainer.epochs=30", f"pusher.serving_dir={tmp_path / 'production'}")
    config = labelling.config(tmp_path, *settings)
    with opened(config, tmp_path / "shop") as session, page(config, session) as (client, _):

        def label_as_they_are(count: int) -> None:
            for _ in range(count):
                number = session.next("a")
                assert number is not None
                session.decide("a", number, 0, Kind.LABEL, labels[session.catalogue.entries[number].name])

        def trained(models: int) -> bool:
            found = state(client)
            assert found["training"]["state"] != "failed", found["training"]
            return len(found["points"]) == models and found["reading"]["done"] == found["reading"]["total"]

        label_as_they_are(FIRST)
        client.wait(lambda: trained(1), 1200)
        first = session.model
        assert first is not None
        assert first.labels == FIRST
        label_as_they_are(EVERY)
        client.wait(lambda: trained(2), 1200)
        assert session.model is not None
        assert session.model.version > first.version
        inner = labelling_config(config)
        newest = versions(inner.serving_dir)[0]
        assert newest.version == session.model.version
        assert newest.about["warm_start"] is True
        assert all(session.readings.texts[number] for number in session.to_read())
    assert not (tmp_path / "production").exists()
