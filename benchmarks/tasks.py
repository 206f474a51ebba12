"""The two tasks that the accuracy figures are about, with their own data: made once, with a seed of its own."""

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pipeline.config import Config, load_config

_CONFIGS: Final = Path(__file__).parents[1] / "configs"


def digits() -> Config:
    """Four digits on 100 x 30: 20,000 pictures to train, 10,000 for decisions about the recipe, 10,000 for the final figure."""
    return _config("digits", "digits-recipe", count=40_000, splits="{train: 2, eval: 1, test: 1}")


def alnum() -> Config:
    """Four of 36 digits and capitals on 128 x 64: 128,000 pictures to train, 4,000 for decisions, 10,000 for the final figure."""
    return _config("alnum", "alnum", count=142_000, splits="{train: 64, eval: 2, test: 5}")


def _config(base: str, name: str, count: int, splits: str) -> Config:
    return load_config(
        _CONFIGS / f"{base}.yaml",
        [
            f"name={name}",
            "root=output/benchmarks",
            f"data.root=data/benchmarks/{base}",
            f"data.splits={splits}",
            f"synth.count={count}",
            "synth.seed=7",
        ],
    )


TASKS: Final = MappingProxyType[str, Callable[[], Config]]({"digits": digits, "alnum": alnum})
