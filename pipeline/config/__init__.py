"""The configuration: its sections and defaults, and how it is loaded."""

from pathlib import Path
from typing import Final

DEFAULT_CONFIG: Final = Path("configs/digits.yaml")
