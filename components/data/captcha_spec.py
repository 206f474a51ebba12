"""CaptchaSpec: what is written on the pictures and how large they are.

The one source that the schema, the labels, the heads of the model and the decoding of its answers are built from.
"""

import functools
import unicodedata
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

CHARSETS: Final = {
    "digits": "0123456789",
    "upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "lower": "abcdefghijklmnopqrstuvwxyz",
    "alnum": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
}


class LabelError(ValueError):
    """A label that the spec does not allow.

    `reason` is the name under which such records are counted: `label_empty`, `label_length` or `label_charset`.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class LengthRange(BaseModel):
    """An inclusive range of label lengths, written `{min: 4, max: 8}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: int = Field(ge=1, le=64)
    max: int = Field(ge=1, le=64)

    @model_validator(mode="after")
    def _ordered(self) -> "LengthRange":
        if self.min >= self.max:
            raise ValueError(f"length.min ({self.min}) must be below length.max ({self.max}); for one length write length: {self.max}")
        return self


class CaptchaSpec(BaseModel):
    """Charset, length and image size of one kind of captcha.

    A label is a string of `min_length` to `max_length` characters of `characters`. The model has `max_length` heads of
    `num_classes` classes each: class i is `characters[i]`, and where the length varies one more class, `blank_id`, says that
    no character stands at that position.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    charset: str = Field("digits", min_length=1, description="digits, upper, lower, alnum, or the characters themselves")
    case_sensitive: bool = Field(True, description="false folds labels to the case that the charset has")
    length: Annotated[int, Field(ge=1, le=64)] | LengthRange = Field(4, description="a number, or {min: 4, max: 8}")
    width: int = Field(100, ge=8, le=2048, description="pixels")
    height: int = Field(30, ge=8, le=2048, description="pixels")
    channels: int = Field(3, description="3 for colour, 1 for grey")
    fit: Literal["pad", "stretch"] = Field("pad", description="pad keeps the aspect ratio of a picture of another size; stretch does not")

    @field_validator("channels")
    @classmethod
    def _grey_or_colour(cls, channels: int) -> int:
        if channels not in (1, 3):
            raise ValueError(f"channels must be 3 (colour) or 1 (grey), not {channels}")
        return channels

    @model_validator(mode="after")
    def _distinct_characters(self) -> "CaptchaSpec":
        characters = self.characters
        seen: dict[str, str] = {}
        for character in characters:
            if character.isspace() or unicodedata.category(character)[0] in "CM":
                raise ValueError(
                    f"charset holds {character!r} (U+{ord(character):04X}): spaces, control characters and combining marks "
                    "cannot be read from a picture; leave it out"
                )
            folded = character if self.case_sensitive else character.casefold()
            if folded in seen:
                hint = "" if seen[folded] == character else "; set case_sensitive: true, or keep one case"
                raise ValueError(f"charset holds {character!r} twice (as {seen[folded]!r}){hint}")
            seen[folded] = character
        if len(characters) < 2:
            raise ValueError("charset needs at least two characters")
        return self

    @functools.cached_property
    def characters(self) -> str:
        """The characters in class order, NFC-normalised, one code point each."""
        return unicodedata.normalize("NFC", CHARSETS.get(self.charset, self.charset))

    @property
    def min_length(self) -> int:
        return self.length if isinstance(self.length, int) else self.length.min

    @property
    def max_length(self) -> int:
        """The number of positions, which is the number of heads."""
        return self.length if isinstance(self.length, int) else self.length.max

    @property
    def blank_id(self) -> int | None:
        """The class for "no character here"; None where every label has the same length."""
        return None if isinstance(self.length, int) else len(self.characters)

    @property
    def num_classes(self) -> int:
        return len(self.characters) + (self.blank_id is not None)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {self._fold(character): i for i, character in enumerate(self.characters)}

    def _fold(self, character: str) -> str:
        return character if self.case_sensitive else character.casefold()

    def canonical(self, label: str) -> str:
        """Returns the label as the charset writes it: NFC, and in the charset's case where case does not matter.

        Raises:
          LabelError: it is empty, has a wrong length, or holds a character outside the charset.
        """
        label = unicodedata.normalize("NFC", label)
        if not label:
            raise LabelError("label_empty", "the label is empty")
        for position, character in enumerate(label, start=1):
            if self._fold(character) not in self._ids:
                raise LabelError("label_charset", f"label {label!r} has {character!r} at position {position}, which is not in the charset")
        if not self.min_length <= len(label) <= self.max_length:
            allowed = str(self.length) if isinstance(self.length, int) else f"{self.min_length} to {self.max_length}"
            raise LabelError("label_length", f"label {label!r} has {len(label)} characters, not {allowed}")
        return "".join(self.characters[self._ids[self._fold(character)]] for character in label)

    def encode(self, label: str) -> list[int]:
        """Returns the label's class ids, `max_length` of them, padded with `blank_id`.

        Raises:
          LabelError: as `canonical`.
        """
        ids = [self._ids[self._fold(character)] for character in self.canonical(label)]
        padding = self.max_length - len(ids)
        return ids if self.blank_id is None else ids + [self.blank_id] * padding

    def decode(self, ids: list[int]) -> str:
        """Returns the text of class ids. A blank yields no character, wherever it stands."""
        return "".join(self.characters[i] for i in ids if i != self.blank_id)
