"""The paths of the checkout and of its configurations."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SUPPORT: Final = Path(__file__).parent
TINY: Final = ROOT / "configs" / "tiny.yaml"


def tiny_options(root: Path) -> list[str]:
    """Returns the command-line options for configs/tiny.yaml with its output and its data in a folder."""
    return ["--config", str(TINY), "--set", f"root={root / 'output'}", "--set", f"data.root={root / 'data'}"]
