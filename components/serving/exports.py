"""What is written beside a SavedModel, into its folder assets.extra.

To add a format, write a module here with a function like `weights.export`, and list it in EXPORTS. A push, a rollback and a warm start copy
the whole folder of a version; servers ignore assets.extra. SPEC_FILE, with charset, length and size, is already there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import keras

from components.serving import weights

# From the float32 model and the folder assets.extra to one or more files in it.
Export = Callable[[keras.Model, Path], None]
EXPORTS: Final[tuple[Export, ...]] = (weights.export,)
