"""The endpoints of the labelling page: what they answer, and what they refuse."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from components.base.errors import CaptchaPipelineError
from pipeline.labelling.app import Goal, LabelApp
from pipeline.labelling.opening import opened
from pipeline.labelling.run import listener
from pipeline.labelling.session import Session
from tests.support import labelling
from tests.support.label_client import ADDRESS, Client
from tests.support.labelling import draw

pytestmark = pytest.mark.slow
COUNT = 20


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    draw(tmp_path / "shop", COUNT)
    Image.new("RGBA", (40, 24)).save(tmp_path / "shop" / "transparent.gif")
    with opened(labelling.config(tmp_path), tmp_path / "shop") as session:
        yield session


@pytest.fixture
def client(session: Session, tmp_path: Path) -> Iterator[Client]:
    with Client(LabelApp(labelling.config(tmp_path), session, Goal(0.98, 50)).starlette()) as client:
        yield client


def post(client: Client, path: str, **content: Any) -> httpx.Response:
    return client.post(path, json={"window": "a", **content})


def shown(client: Client, window: str = "a") -> dict[str, Any]:
    picture: dict[str, Any] = post(client, "/next", window=window).json()["picture"]
    return picture


def decide(client: Client, picture: dict[str, Any], text: str, **content: Any) -> httpx.Response:
    return post(client, "/decide", **{"key": picture["key"], "kind": "label", "text": text, "seen": picture["seen"], **content})


def test_a_picture_is_shown_labelled_and_corrected(client: Client) -> None:
    first = shown(client)
    assert first["reading"] is None
    assert (first["text"], first["seen"], first["decision"]) == ("", 0, None)
    answer = decide(client, first, "01")
    assert answer.status_code == 200
    state = post(client, "/state", key=None).json()
    assert state["counts"] == {"labelled": 1, "skipped": 0, "unreadable": 0, "left": COUNT}
    assert state["training"]["words"] == "The first model is trained after 59 more labels."
    again = post(client, "/show", key=first["key"]).json()["picture"]
    assert (again["text"], again["seen"], again["decision"]) == ("01", answer.json()["id"], "label")
    assert decide(client, again, "02").status_code == 200
    assert post(client, "/show", key=first["key"]).json()["picture"]["text"] == "02"


def test_a_refused_label_says_why(client: Client) -> None:
    answer = decide(client, shown(client), "9")
    assert answer.status_code == 422
    assert answer.json() == {"error": "Label '9' has '9' at position 1, which is not in the charset."}


def test_an_outdated_decision_is_refused(client: Client) -> None:
    first = shown(client)
    decide(client, first, "01")
    answer = decide(client, first, "02", window="b")
    assert answer.status_code == 409
    assert "Another window" in answer.json()["error"]


def test_a_closed_window_gives_its_picture_back(client: Client) -> None:
    first = shown(client, "a")
    assert shown(client, "b")["key"] != first["key"]
    assert post(client, "/leave", window="a").status_code == 200
    assert shown(client, "c")["key"] == first["key"]


def test_a_draft_is_stored_with_each_change(client: Client) -> None:
    first = shown(client)
    for text in ("0", "01", ""):
        assert post(client, "/draft", key=first["key"], text=text).status_code == 200
        picture = shown(client)
        assert (picture["text"], picture["is_draft"]) == (text, True)


def test_the_picture_is_a_png_of_the_visible_pixels(client: Client, session: Session) -> None:
    names = [entry.name for entry in session.catalogue.entries]
    answer = client.get(f"/picture/{session.catalogue.keys[names.index('transparent.gif')].hex()}")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["x-content-type-options"] == "nosniff"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.convert("RGB").getcolors() == [(40 * 24, (255, 255, 255))]
    assert client.get("/picture/00").status_code == 404
    assert client.get("/picture/x").status_code == 404


@pytest.mark.parametrize("path", ["/next", "/show", "/draft", "/decide", "/state", "/leave"])
def test_other_sites_can_change_nothing(client: Client, path: str, session: Session) -> None:
    content = {"window": "a", "key": session.catalogue.keys[0].hex(), "kind": "label", "text": "01", "seen": 0}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert client.post(path, content="{}", headers={"content-type": kind}).status_code == 415
    foreign = {"origin": "http://evil.example"}
    assert client.post(path, json=content, headers=foreign).status_code == 403
    assert client.post(path, json=content, headers={"origin": "null"}).status_code == 403
    rebound = {"host": "evil.example:8502", "origin": "http://evil.example:8502"}
    assert client.post(path, json=content, headers=rebound).status_code == 400
    assert client.get("/", headers={"host": "evil.example:8502"}).status_code == 400
    assert session.decisions.counts()["left"] == COUNT + 1
    assert client.post(path, json=content, headers={"origin": ADDRESS}).status_code == 200
    assert client.get(path).status_code == 405


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("/next", {"window": ""}, 400),
        ("/next", {"window": "a" * 65}, 400),
        ("/next", {"window": 1}, 400),
        ("/show", {"key": None}, 404),
        ("/show", {"key": "zz"}, 404),
        ("/show", {"key": "00" * 16}, 404),
        ("/draft", {"text": "a" * 257}, 400),
        ("/draft", {"text": None}, 400),
        ("/decide", {"kind": "other"}, 400),
        ("/decide", {"kind": ["label"]}, 400),
        ("/decide", {"seen": "0"}, 400),
        ("/decide", {"text": ["01"]}, 400),
    ],
)
def test_malformed_requests_are_refused(client: Client, session: Session, path: str, content: dict[str, Any], status: int) -> None:
    valid = {"window": "a", "key": session.catalogue.keys[0].hex(), "kind": "label", "text": "01", "seen": 0}
    answer = client.post(path, json=valid | content)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert session.decisions.counts()["left"] == COUNT + 1


def test_bodies_have_a_limit_and_must_be_objects(client: Client) -> None:
    headers = {"content-type": "application/json"}
    assert client.post("/next", content=b" " * 70_000, headers=headers).status_code == 413
    assert client.post("/next", content=b"[]", headers=headers).status_code == 400
    assert client.post("/draft", content=b'{"window": "a", "key": "00", "text": "\\ud800"}', headers=headers).status_code in (400, 404)


def test_the_files_of_the_page_have_a_strict_policy(client: Client) -> None:
    for path in ("/", "/page/label.js", "/page/label.css", "/page/style.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert answer.headers["cache-control"] == "no-cache"
    assert "Text in the picture" in client.get("/").text
    assert client.get("/page/..%2fapp.py").status_code == 404


def test_a_training_does_not_inherit_the_port() -> None:
    with listener(0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"
        assert not bound.get_inheritable()
        with pytest.raises(CaptchaPipelineError, match="another port with --port"):
            listener(bound.getsockname()[1])


def test_a_full_disk_is_reported_and_labelling_goes_on_afterwards(client: Client, session: Session) -> None:
    database = session._journal._database
    ((most,),) = database.execute("PRAGMA max_page_count")
    database.execute("PRAGMA max_page_count = 1")  # SQLite reports a full disk as soon as it needs a further page
    answers = [post(client, "/draft", key=key.hex(), text="0" * 256) for key in session.catalogue.keys]
    full = next(answer for answer in answers if answer.status_code != 200)
    assert full.status_code == 507
    assert "The disk is full" in full.json()["error"]
    database.execute(f"PRAGMA max_page_count = {most}")
    first = shown(client)
    assert decide(client, first, "01").status_code == 200
    assert post(client, "/show", key=first["key"]).json()["picture"]["text"] == "01"
