"""Runs one process of a fit whose result can be compared with a fit on one device.

Dropout is off, because each replica draws its own. The epsilon of the optimizer is large, so that the rounding errors of vanishing
gradients do not become full steps.

python tests/support/worker_run.py FN_ARGS.json [LOGICAL_DEVICES]

Works like `python -m components.training.worker`. With LOGICAL_DEVICES, MirroredStrategy on that many parts of the CPU replaces the
configured strategy.
"""

import dataclasses
import functools
import sys

import tensorflow as tf

from components.training import run_fn, worker
from components.training.model import PRESETS
from components.training.optimizer import Muon


def main(fn_args: str, logical_devices: str = "") -> None:
    without_dropout = {name: dataclasses.replace(preset, dropout=0.0) for name, preset in PRESETS.items()}
    setattr(run_fn, "PRESETS", without_dropout)  # noqa: B010
    setattr(run_fn, "Muon", functools.partial(Muon, epsilon=1e-2))  # noqa: B010
    if logical_devices:
        count = int(logical_devices)
        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
        strategy = tf.distribute.MirroredStrategy([f"/cpu:{number}" for number in range(count)])
        setattr(run_fn, "choose_strategy", lambda name: strategy)  # noqa: B010
    sys.argv[1:] = [fn_args]
    worker.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
