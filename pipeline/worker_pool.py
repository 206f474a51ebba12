"""Starts the Python workers of an engine's jobs: python -m pipeline.worker_pool [PORT]

Beam's own program for it listens on every interface, and starts what it is asked to: whoever reaches it runs code here. This one
listens on loopback alone, which is enough for an engine on the same machine or in the same pod.
"""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final

import grpc
import typer
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer, kill_process_gracefully

PORT: Final = 50_000


def serve(port: int) -> None:
    """Starts workers in processes of their own until SIGTERM or Ctrl-C, and then ends them.

    Raises:
      RuntimeError: grpc's, where the port is taken.
    """
    # Workers are started as `python`: as this very one.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    pool = BeamFnExternalWorkerPoolServicer(use_process=True)
    server = grpc.server(ThreadPoolExecutor())
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(f"Starts workers for who asks at 127.0.0.1:{port}.", flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop(0))
    server.wait_for_termination()
    for process in pool._worker_processes.values():
        kill_process_gracefully(process)


def main(port: Annotated[int, typer.Argument(min=1, max=65_535)] = PORT) -> None:
    serve(port)


if __name__ == "__main__":
    typer.run(main)
