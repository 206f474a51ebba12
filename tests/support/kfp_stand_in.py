"""Kubeflow Pipelines' REST API on loopback, by its published OpenAPI description (kfp_api_2.17.0.json, Apache 2.0).

A request whose query or body does not match the description is answered with 400, and so is a request whose answer does not match. An
unknown path is answered with 404.
"""

import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import jsonschema

from tests.support.paths import SUPPORT
from tests.support.strict_schema import closed

KINDS = {"pipelines": "pipeline_id", "versions": "pipeline_version_id", "experiments": "experiment_id"}
KINDS |= {"runs": "run_id", "recurringruns": "recurring_run_id"}
LISTS = {"pipelines": "pipelines", "versions": "pipeline_versions", "experiments": "experiments", "runs": "runs"}
LISTS |= {"recurringruns": "recurringRuns"}


DESCRIPTION = closed(json.loads((SUPPORT / "kfp_api_2.17.0.json").read_text(encoding="utf-8")))


class StandIn(ThreadingHTTPServer):
    """The server.

    Attributes:
        store: the objects, by kind and ID.
        requests: the received requests, as "POST /path".
        errors: the statuses of the next answers.
        token: the token that requests must have, or None.
        delay: the time before each answer, in seconds.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        self.requests: list[str] = []
        self.errors: list[int] = []
        self.token: str | None = None
        self.delay = 0.0

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Ignores errors of clients that have closed their connection."""

    def made(self) -> list[str]:
        """Returns the requests that change something, without IDs."""
        return [re.sub(r"[0-9a-f-]{36}", "ID", request) for request in self.requests if not request.startswith("GET")]


@contextmanager
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_DELETE = do_GET

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.server.requests.append(f"{self.command} {url.path}")
        time.sleep(self.server.delay)
        if self.server.token and self.headers.get("authorization") != f"Bearer {self.server.token}":
            self._send(401, {"error_message": "who are you?"})
        elif self.server.errors:
            self._send(self.server.errors.pop(0), {"error_message": "the database is away"})
        else:
            self._send(*self._outcome(url, body))

    def _outcome(self, url: SplitResult, body: bytes) -> tuple[int, dict[str, Any]]:
        try:
            operation = _operation(self.command, url.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            _check(operation, query, body)
            answer = self._act(url.path, query, body)
            _validate(answer, operation["responses"]["200"]["schema"])
        except KeyError as error:
            return 404, {"error_message": f"there is no {error}"}
        except jsonschema.ValidationError as error:
            return 400, {"error_message": f"not as described: {error.message}"}
        return 200, answer

    def _act(self, path: str, query: dict[str, str], body: bytes) -> dict[str, Any]:
        store, parts = self.server.store, path.removeprefix("/apis/v2beta1/").split("/")
        kind = "versions" if "versions" in parts or parts[-1] == "upload_version" else parts[0]
        if parts == ["healthz"]:
            return {}
        if parts[-1] in ("upload", "upload_version"):
            described = {"display_name": query["name"]} | {key: query[key] for key in ("description", "namespace") if key in query}
            if kind == "versions":
                described = {"display_name": query["name"], "pipeline_id": query["pipelineid"]}
            return self._add(kind, described)
        if self.command == "GET" and (len(parts) == 1 or parts[-1] == "versions"):
            of = {"pipeline_id": parts[1]} if kind == "versions" else {}
            if kind == "pipelines" and "namespace" in query:
                of = {"namespace": query["namespace"]}
            return self._list(kind, query, of)
        if self.command == "POST" and len(parts) == 1:
            return self._add(kind, json.loads(body))
        identity, _, action = parts[-1].partition(":")
        item = store[kind][identity]
        if self.command == "DELETE":
            del store[kind][identity]
            return {}
        if action:
            item["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[action]
            return {}
        return item

    def _add(self, kind: str, item: dict[str, Any]) -> dict[str, Any]:
        identity = str(uuid.uuid4())
        new = item | {KINDS[kind]: identity}
        if kind == "runs":
            new["state"] = "PENDING"
        if kind == "recurringruns":
            new["status"] = "ENABLED" if item["mode"] == "ENABLE" else "DISABLED"
            new["service_account"] = item.get("service_account") or "pipeline-runner"
        self.server.store[kind][identity] = new
        return new

    def _list(self, kind: str, query: dict[str, str], of: dict[str, str]) -> dict[str, Any]:
        found = [item for item in self.server.store[kind].values() if of.items() <= item.items()]
        for predicate in json.loads(query.get("filter", "{}")).get("predicates", []):
            assert predicate["operation"] in ("EQUALS", 1), predicate
            found = [item for item in found if item.get(predicate["key"]) == predicate["stringValue"]]
        return {LISTS[kind]: found}

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _operation(method: str, path: str) -> dict[str, Any]:
    for template, operations in DESCRIPTION["paths"].items():
        if re.fullmatch(re.sub(r"\\\{[^/]+?\\\}", "[^/:]+", re.escape(template)), path) and method.lower() in operations:
            operation: dict[str, Any] = operations[method.lower()]
            return operation
    raise KeyError(f"{method} {path}")


def _check(operation: dict[str, Any], query: dict[str, str], body: bytes) -> None:
    parameters = operation.get("parameters", [])
    known = {parameter["name"] for parameter in parameters if parameter["in"] == "query"}
    if unknown := query.keys() - known:
        raise jsonschema.ValidationError(f"the query has no {sorted(unknown)}")
    for parameter in parameters:
        if parameter["in"] == "body":
            _validate(json.loads(body), parameter["schema"])
        if parameter["in"] == "formData" and parameter["name"].encode() not in body:
            raise jsonschema.ValidationError(f"the form has no {parameter['name']}")


def _validate(message: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft4Validator(schema | {"definitions": DESCRIPTION["definitions"]}).validate(message)
