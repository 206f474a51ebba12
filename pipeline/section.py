"""What sections of the configuration are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Byte = Annotated[int, Field(ge=0, le=255)]


class Section(BaseModel):
    """A part of the configuration: frozen, and without keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
