"""The base class and the field types of the sections of the configuration."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from components.base.errors import CaptchaPipelineError


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


_Section = TypeVar("_Section", bound="Section")


class Section(BaseModel):
    """A section of the configuration. It is immutable and rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_values(cls: type[_Section], values: Mapping[str, Any]) -> _Section:
        """Returns the section with these values, which a step gets as properties or as parameters of a run.

        Raises:
          CaptchaPipelineError: a value is invalid. The message names each.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, it['loc']))}: {it['msg']}" for it in error.errors())
            raise CaptchaPipelineError(
                f"Invalid parameters of the run: {found}. Give valid values in the configuration or with -p."
            ) from None
