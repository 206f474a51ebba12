"""Starts the Python workers of an engine's jobs: python -m pipeline.runners.beam.worker_pool [PORT]

Beam's own program for it listens on every interface, and runs what it is sent as code; this one listens on loopback, which is enough
for an engine on the same machine or in the same pod. Beam's ends a worker by its id, which Flink gives anew in every TaskManager: the
end of one takes another's. Here a worker ends when the engine closes its control channel.

A worker of Beam's pool is an interpreter of its own, which imports Beam, TFX and TensorFlow before it does anything. Here one process
imports them, starts no thread in Python, and is forked.
"""

import importlib
import multiprocessing
import signal
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Annotated, Any, Final

import grpc
import typer
from apache_beam.portability.api import beam_fn_api_pb2 as api
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.sdk_worker import SdkHarness

from pipeline.config.engines import POOL_PORT, POOL_READY

_STATE_CACHE: Final = 100 << 20  # bytes, of what a worker has read of side inputs: Beam's default where it starts workers itself
# Beam's worker, and the graph with all its steps.
_IMPORTED: Final = ["apache_beam.runners.worker.sdk_worker", "pipeline.graph"]


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Beam's service of that name. Each worker is a process."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_IMPORTED)
        forkserver.ensure_running()
        self._workers: list[BaseProcess] = []

    def StartWorker(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Starts a worker."""
        worker = self._context.Process(target=work, args=(request.control_endpoint.url, request.worker_id))
        worker.start()
        self._workers = [other for other in self._workers if other.is_alive()] + [worker]
        return api.StartWorkerResponse()

    def StopWorker(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Lets the worker end by itself: see the module."""
        return api.StopWorkerResponse()

    def wait(self) -> None:
        """Waits until what the workers need has been imported. Raises SystemExit if it cannot be; the forked process has said why."""
        # The process that forks says nothing of what it cannot import.
        first = self._context.Process(target=import_all, args=(_IMPORTED,))
        first.start()
        first.join()
        if first.exitcode:
            raise SystemExit("No worker could do anything: what all of them need cannot be imported.")

    def end(self) -> None:
        """Ends the workers that are there."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()


def import_all(modules: list[str]) -> None:
    """Imports modules by their names. Raises SystemExit for the first that cannot be."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a module does when it is imported
            raise SystemExit(f"Cannot import {module}: {type(error).__name__}: {error}") from None


def work(control: str, worker_id: str) -> None:
    """Is a worker of the engine whose control service is at the address `control`, until that closes."""
    SdkHarness(control, worker_id=worker_id, state_cache_size=_STATE_CACHE).run()


def main(port: Annotated[int, typer.Argument(min=1, max=65_535)] = POOL_PORT) -> None:
    """Start workers until SIGTERM or Ctrl-C, and then end them."""
    pool = WorkerPool()
    # One request at a time: the list of workers has no lock, and a fork takes no time.
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop(0))
    server.start()
    pool.wait()
    print(f"{POOL_READY} Ask at 127.0.0.1:{port}.", flush=True)
    server.wait_for_termination()
    pool.end()


if __name__ == "__main__":
    typer.run(main)
