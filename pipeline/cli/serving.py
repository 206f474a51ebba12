"""`captcha-pipeline serve`."""

import importlib
from typing import Final

from components.base.errors import CaptchaPipelineError
from pipeline.cli.options import ConfigOption, SetOption
from pipeline.cli.terminal import console, stoppable
from pipeline.config import DEFAULT_CONFIG

_PACKAGES: Final = ("httptools", "orjson", "prometheus_client", "starlette", "uvicorn", "uvloop")  # of the extra `serve`


@stoppable("All open requests were answered, or server.drain_seconds ran out.")
def serve(config: ConfigOption = DEFAULT_CONFIG, overrides: SetOption = None) -> None:
    """Serve the newest pushed model over HTTP, with a page that reads pictures, and follow new versions and rollbacks.

    Speaks the REST interface of TensorFlow Serving and the Open Inference Protocol. The section `server` of the configuration has the
    settings, such as --set server.port=8080. Listens on this machine only, unless server.host says otherwise.
    """
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    check_packages("serve")
    from pipeline.server.run import listen, run

    listener = listen(settings.server)
    host, port = listener.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    name, url = settings.served_name, f"http://{address}/"
    console.print(f"Serving {name}: page at {url}, requests to {url}v1/models/{name}", highlight=False, soft_wrap=True)
    run(settings, listener)


def check_packages(command: str) -> None:
    """Checks that the packages of the extra `serve` are installed. Raises CaptchaPipelineError if one is not."""
    try:
        for package in _PACKAGES:
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise CaptchaPipelineError(
            f"`{command}` needs {error.name}, which is not installed. In the clone: pip install '.[serve]'."
        ) from None


COMMANDS: Final = (serve,)
