"""The base class and the field types of the sections of the configuration."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _local(path: str) -> str:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        raise ValueError("this must be a folder or file of this machine, not a URL; for a bucket, mount it and give the path of the mount")
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        raise ValueError(f"there is no home folder for {Path(path).parts[0]}") from None


Fraction = Annotated[float, Field(ge=0, le=1)]
Byte = Annotated[int, Field(ge=0, le=255)]
# The path of a folder or file on this machine; ~ is the home folder.
LocalPath = Annotated[str, Field(min_length=1), AfterValidator(_local)]


class Section(BaseModel):
    """A section of the configuration. It is immutable and rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
