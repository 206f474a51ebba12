"""One worker of a fit on several machines: calls the Trainer's `run_fn` in a process of its own.

    TF_CONFIG='{"cluster": {…}, "task": {"type": "worker", "index": 0}}' python -m components.training.worker fn_args.json

Every worker, including the chief, is started with the same file and its own TF_CONFIG. `write_fn_args` makes the file from the arguments
that TFX gives to the Trainer. Only the chief writes: the model, the history, TensorBoard's files and the checkpoints.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from tfx.components.trainer.fn_args_utils import FnArgs

from components.base.errors import CaptchaPipelineError
from components.training.run_fn import run_fn

_FIELDS: Final = ("train_files", "eval_files", "transform_output", "serving_model_dir", "model_run_dir", "base_model", "custom_config")


def write_fn_args(fn_args: FnArgs, path: str | Path) -> None:
    """Writes the arguments that `run_fn` uses as JSON. The paths in them must be valid for every worker."""
    fields: dict[str, Any] = {name: getattr(fn_args, name) for name in _FIELDS}
    Path(path).write_text(json.dumps(fields), encoding="utf-8")


def read_fn_args(path: str | Path) -> FnArgs:
    """Returns the arguments that `write_fn_args` wrote."""
    return FnArgs(**json.loads(Path(path).read_text(encoding="utf-8")))


def main() -> None:
    try:
        (path,) = sys.argv[1:]
    except ValueError:
        sys.exit("usage: python -m components.training.worker FN_ARGS.json")
    try:
        run_fn(read_fn_args(path))
    except CaptchaPipelineError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
