"""Runs the application with uvicorn, in one process or in several that share a port."""

import os
import resource
import signal
import socket
import sys
import tempfile
from typing import Final

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from starlette.applications import Starlette
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from components.base.errors import CaptchaPipelineError
from pipeline.config.config import Config
from pipeline.config.server import ServerConfig
from pipeline.logs import load_tensorflow, silence

_CONFIG_VARIABLE: Final = "CAPTCHA_PIPELINE_SERVED_CONFIG"  # hands the configuration to the workers
METRICS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client: where several workers share their metrics
_CREATE: Final = "pipeline.server.run:create"
_BACKLOG: Final = 2048


def run(config: Config, listener: socket.socket) -> None:
    """Answers requests until SIGINT or SIGTERM, and then answers the open ones.

    Args:
      config: its section `server` has the settings.
      listener: from `listen`.
    """
    os.environ[_CONFIG_VARIABLE] = config.model_dump_json()
    settings = config.server
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection needs a file descriptor, and the default is often 1,024
    if settings.workers == 1:
        uvicorn.Server(uvicorn_config(_CREATE, settings, factory=True)).run([listener])
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory() as shared:
        os.environ[METRICS_VARIABLE] = shared
        workers = _Workers(uvicorn_config(_CREATE, settings, factory=True), sockets=[listener])
        workers.run()
    if any(process.exitcode == STARTUP_FAILURE for process in workers.processes):
        raise CaptchaPipelineError("The workers could not start; the lines above say why.")
    for number, handler in handlers.items():  # uvicorn replaces them
        signal.signal(number, handler)
    signal.raise_signal(signal.SIGTERM)  # as uvicorn does with one worker, so that the command ends alike


def listen(settings: ServerConfig, choose: str = "server.host and server.port") -> socket.socket:
    """Returns a socket that is bound to the configured address.

    Args:
      settings: `host` and `port` are the address.
      choose: the settings to change if the address is taken, for the message.

    Raises:
      CaptchaPipelineError: the address does not exist or is in use.
    """
    try:
        ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. It ends those whose client does not read its answers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * settings.body_seconds))
        listener.bind(address)
    except OSError as error:
        raise CaptchaPipelineError(
            f"Cannot listen on {settings.host}, port {settings.port}: {error.strerror}. Choose {choose}, or stop the program that uses "
            "the port."
        ) from None
    listener.set_inheritable(True)
    return listener


def create() -> Starlette:
    """Returns the application for the configuration that `run` was given. Called in each worker."""
    silence()
    load_tensorflow(with_keras=False)
    from pipeline.server.access import log_as_json
    from pipeline.server.app import create_app

    log_as_json()
    try:
        return create_app(Config.model_validate_json(os.environ[_CONFIG_VARIABLE]))
    except CaptchaPipelineError as error:
        if METRICS_VARIABLE not in os.environ:
            raise
        print(f"Error: {error}", file=sys.stderr, flush=True)
        sys.exit(STARTUP_FAILURE)  # with another status, uvicorn would start the worker again and again


class _Workers(Multiprocess):
    def terminate_all(self) -> None:
        for listener in self.sockets:  # otherwise, connections would be accepted while the workers answer their last requests
            listener.close()
        super().terminate_all()

    def keep_subprocess_alive(self) -> None:
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for pid in before - {process.pid for process in self.processes}:
            mark_process_dead(pid)  # or its gauges would count for ever


def uvicorn_config(app: Starlette | str, settings: ServerConfig, *, factory: bool = False) -> uvicorn.Config:
    """Returns uvicorn's configuration with the limits of a server.

    Args:
      app: the application, or where a worker finds it, as `module:name`.
      settings: the limits, and the number of workers.
      factory: whether `app` names a function that returns the application.
    """
    from pipeline.server.limits import limited_to

    return uvicorn.Config(
        app,
        factory=factory,
        http=limited_to(settings.body_seconds, settings.connections),  # type: ignore[arg-type]  # it calls whatever makes a protocol
        ws="none",
        lifespan="on",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        workers=settings.workers,
        timeout_graceful_shutdown=settings.drain_seconds,
        backlog=_BACKLOG,
    )
