"""The base class and the field types of the sections of the configuration."""

import difflib
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

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_values(cls: type[_Section], values: Mapping[str, Any]) -> _Section:
        """Returns the section with these values, which a step gets as properties or as parameters of a run.

        Raises:
          CaptchaPipelineError: a value is invalid. The message names each.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            found = "; ".join(problems(error, cls))
            raise CaptchaPipelineError(
                f"Invalid parameters of the run: {found}. Give valid values in the configuration or with -p."
            ) from None


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Returns in words what is wrong with each key: "trainer.epochs: Input should be greater than 0 (it is -1)".

    Args:
      error: raised by `model`.
      model: the section, or the whole configuration.
    """
    lines = []
    for item in error.errors():
        if item["type"] == "extra_forbidden":
            message = f"unknown key{_nearest(item['loc'], model)}"
        elif item["type"] == "missing":
            message = "this key is required"
        else:
            message = item["msg"].removeprefix("Value error, ")
            if isinstance(item["input"], str | int | float):
                message += f" (it is {item['input']!r})"
        key = _key(item["loc"], model)  # "" if keys contradict each other: the message names them
        lines.append(f"{key}: {message}" if key else message)
    return lines


def _key(location: tuple[int | str, ...], model: Any) -> str:
    """Returns the key as the user wrote it, without the names that pydantic adds for the members of a union."""
    known: list[str] = []
    for part in location:
        fields = getattr(model, "model_fields", {})
        if fields and part not in fields and known and part != location[-1]:
            continue
        if not fields and isinstance(part, str) and known:
            continue
        known.append(str(part))
        model = fields[part].annotation if part in fields else None
    return ".".join(known)


def _nearest(location: tuple[int | str, ...], model: Any) -> str:
    """Returns a suggestion of the known key that is most similar to an unknown key; "" if no key is similar."""
    for part in location[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else None
    close = difflib.get_close_matches(str(location[-1]), getattr(model, "model_fields", {}), n=1)
    return f"; did you mean {close[0]}?" if close else ""
