"""The parts of a cluster that Kubeflow's driver and launcher need, on loopback: ML Metadata, object storage, Kubernetes objects."""

import base64
import contextlib
import json
import re
from collections.abc import Iterator
from concurrent import futures
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import boto3
import grpc
import yaml
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2, metadata_store_service_pb2
from moto.server import ThreadedMotoServer

from tests.support.paths import ROOT

MANIFESTS = ROOT / "kubeflow" / "manifests"
ACCESS_KEY, SECRET_KEY = "access", "secret"
# gRPC status codes by number; ML Metadata uses the same numbers.
CODES = {code.value[0]: code for code in grpc.StatusCode}


class Cluster(NamedTuple):
    metadata_port: int
    kubeconfig: Path
    storage: Any  # boto3's client


@contextlib.contextmanager
def cluster(folder: Path, bucket: str) -> Iterator[Cluster]:
    """Yields a started cluster with its files in `folder`. It has the bucket, and kfp-launcher of kubeflow/manifests."""
    with contextlib.ExitStack() as ended:
        storage = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        storage.start()
        ended.callback(storage.stop)
        endpoint = "{}:{}".format(*storage.get_host_and_port())
        keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
        client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1", **keys)
        client.create_bucket(Bucket=bucket)
        kubeconfig = folder / "kubeconfig.yaml"
        server = {"name": "loopback", "cluster": {"server": ended.enter_context(_kubernetes(_objects(endpoint)))}}
        context = {"name": "loopback", "context": {"cluster": "loopback", "user": ""}}
        kubeconfig.write_text(yaml.safe_dump({"clusters": [server], "contexts": [context], "current-context": "loopback"}))
        yield Cluster(ended.enter_context(_metadata(folder / "metadata.sqlite")), kubeconfig, client)


def _objects(endpoint: str) -> dict[str, dict[str, Any]]:
    """Returns objects by path: the ConfigMap of the manifests, for this endpoint instead of Amazon's, and its secret."""
    (launcher,) = yaml.safe_load_all((MANIFESTS / "object-storage" / "launcher.yaml").read_text(encoding="utf-8"))
    providers = yaml.safe_load(launcher["data"]["providers"])
    providers["s3"]["default"] |= {"endpoint": endpoint, "disableSSL": True}
    launcher["data"]["providers"] = yaml.safe_dump(providers)
    reference = providers["s3"]["default"]["credentials"]["secretRef"]
    data = {reference["accessKeyKey"]: ACCESS_KEY, reference["secretKeyKey"]: SECRET_KEY}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": reference["secretName"]},
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }
    prefix = "/api/v1/namespaces/kubeflow"
    return {f"{prefix}/configmaps/kfp-launcher": launcher, f"{prefix}/secrets/{reference['secretName']}": secret}


@contextlib.contextmanager
def _kubernetes(objects: dict[str, dict[str, Any]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = objects.get(self.path)
            status = HTTPStatus.OK if found else HTTPStatus.NOT_FOUND
            missing = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": self.path}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(found or missing).encode())

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def _metadata(database: Path) -> Iterator[int]:
    """Yields the port of a gRPC server that answers like ML Metadata's, on the C++ store of its Python package."""
    config = metadata_store_pb2.ConnectionConfig()
    config.sqlite.filename_uri = str(database)
    store = metadata_store.MetadataStore(config)

    def answer(function: Any, request: bytes, context: grpc.ServicerContext) -> bytes:
        response, message, status = function(store._metadata_store, request)
        if status:
            context.abort(CODES[status], message.decode())
        return response

    def executions_of_context(function: Any, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Filters here: ML Metadata 1.21 cannot, but the server that Kubeflow ships can. The driver sends only this filter."""
        asked = metadata_store_service_pb2.GetExecutionsByContextRequest.FromString(request)
        dag = re.fullmatch(r"custom_properties\.parent_dag_id\.int_value = (\d+)", asked.options.filter_query)
        asked.options.ClearField("filter_query")
        response = metadata_store_service_pb2.GetExecutionsByContextResponse.FromString(
            answer(function, asked.SerializeToString(), context)
        )
        if dag:
            kept = [it for it in response.executions if it.custom_properties["parent_dag_id"].int_value == int(dag[1])]
            del response.executions[:]
            response.executions.extend(kept)
        return response.SerializeToString()

    service = metadata_store_service_pb2.DESCRIPTOR.services_by_name["MetadataStoreService"]
    functions = {method.name: getattr(metadata_store.metadata_store_serialized, method.name, None) for method in service.methods}
    ways = {"GetExecutionsByContext": executions_of_context}
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(partial(ways.get(name, answer), function))
        for name, function in functions.items()
        if function
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)
