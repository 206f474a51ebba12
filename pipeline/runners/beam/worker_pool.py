"""Starts the Python workers of an engine's jobs: python -m pipeline.runners.beam.worker_pool [PORT]

Beam's own pool listens on every interface, and runs the code that it receives. This pool listens on loopback, which is enough for an
engine on the same machine or in the same pod.

Beam's pool ends a worker by its ID. Flink uses the same IDs in every TaskManager, so the end of one worker ends the worker of another
TaskManager. Here a worker ends when the engine closes its control channel.

A worker of Beam's pool is a new interpreter, which imports Beam, TFX and TensorFlow first. Here one process imports them, starts no
thread in Python, and is forked for each worker.
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

_STATE_CACHE: Final = 100 << 20  # bytes, for the side inputs that a worker has read: Beam's default for the workers that it starts itself
# Beam's worker, and the graph with all its steps.
_IMPORTED: Final = ["apache_beam.runners.worker.sdk_worker", "pipeline.graph"]


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """Beam's gRPC service BeamFnExternalWorkerPool. Each worker is a process."""

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
        """Does nothing, because a worker ends by itself: see the module."""
        return api.StopWorkerResponse()

    def wait(self) -> None:
        """Waits until the modules that the workers need have been imported.

        Raises:
          SystemExit: a module cannot be imported. The forked process has printed the error.
        """
        # The process that forks ignores failed imports, so a first worker reports them.
        first = self._context.Process(target=import_all, args=(_IMPORTED,))
        first.start()
        first.join()
        if first.exitcode:
            raise SystemExit("No worker can start, because a module that all workers need cannot be imported. The error is above.")

    def end(self) -> None:
        """Ends all workers."""
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.join()


def import_all(modules: list[str]) -> None:
    """Imports modules by their names.

    Raises:
      SystemExit: a module cannot be imported.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # a module can raise any error when it is imported
            raise SystemExit(f"Cannot import {module}: {type(error).__name__}: {error}") from None


def work(control: str, worker_id: str) -> None:
    """Runs a worker of the engine with its control service at the address `control`, until the service closes."""
    SdkHarness(control, worker_id=worker_id, state_cache_size=_STATE_CACHE).run()


def main(port: Annotated[int, typer.Argument(min=1, max=65_535)] = POOL_PORT) -> None:
    """Start workers on request until SIGTERM or Ctrl-C, then end them."""
    pool = WorkerPool()
    # One request at a time: the list of workers has no lock, and a fork is fast.
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop(0))
    server.start()
    pool.wait()
    print(f"{POOL_READY} The pool is at 127.0.0.1:{port}.", flush=True)
    server.wait_for_termination()
    pool.end()


if __name__ == "__main__":
    typer.run(main)
