"""The paths of the checkout and of its configurations."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SUPPORT: Final = Path(__file__).parent
TINY: Final = ROOT / "configs" / "tiny.yaml"
