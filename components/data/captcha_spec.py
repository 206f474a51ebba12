"""CaptchaSpec: the allowed text of the pictures, and their size.

The schema, the labels, the heads of the model and the decoding of its outputs are all derived from it.
"""

import functools
import unicodedata
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from components.base.section import Section

CHARSETS: Final = {
    "digits": "0123456789",
    "upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "lower": "abcdefghijklmnopqrstuvwxyz",
    "alnum": "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
}


class LabelError(ValueError):
    """A label that the spec does not allow.

    Attributes:
      reason: the name used to count such records: `label_empty`, `label_length` or `label_charset`.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class LengthRange(Section):
    """An inclusive range of label lengths, written as `{min: 4, max: 8}`."""

    min: int = Field(ge=1, le=64)
    max: int = Field(ge=1, le=64)

    @model_validator(mode="after")
    def _ordered(self) -> "LengthRange":
        if self.min >= self.max:
            raise ValueError(f"length.min ({self.min}) must be below length.max ({self.max}); for a fixed length, write length: {self.max}")
        return self


class CaptchaSpec(Section):
    """The charset, the label length and the image size of one kind of captcha.

    A label has `min_length` to `max_length` characters, all from `characters`. The model has `max_length` heads with `num_classes`
    classes each. Class i is `characters[i]`. If the length varies, there is one more class, `blank_id`: no character at this position.
    """

    charset: str = Field("digits", min_length=1, description="digits, upper, lower, alnum, or the characters themselves")
    case_sensitive: bool = Field(True, description="false converts labels to the case of the charset")
    length: Annotated[int, Field(ge=1, le=64)] | LengthRange = Field(4, description="a number, or {min: 4, max: 8}")
    width: int = Field(100, ge=8, le=2048, description="pixels")
    height: int = Field(30, ge=8, le=2048, description="pixels")
    channels: int = Field(3, description="3 for colour, 1 for grey")
    fit: Literal["pad", "stretch"] = Field("pad", description="how to resize: pad keeps the aspect ratio, stretch does not")

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
                    f"charset contains {character!r} (U+{ord(character):04X}): spaces, control characters and combining marks "
                    "cannot be read from a picture; remove it"
                )
            folded = character if self.case_sensitive else character.casefold()
            if folded in seen:
                hint = "" if seen[folded] == character else "; set case_sensitive: true, or keep only one case"
                raise ValueError(f"charset contains {character!r} twice (as {seen[folded]!r}){hint}")
            seen[folded] = character
        if len(characters) < 2:
            raise ValueError("charset needs at least two characters")
        return self

    @functools.cached_property
    def characters(self) -> str:
        """The characters in the order of the classes, NFC-normalised, one code point each."""
        return unicodedata.normalize("NFC", CHARSETS.get(self.charset, self.charset))

    @property
    def min_length(self) -> int:
        """The minimum number of characters in a label."""
        return self.length if isinstance(self.length, int) else self.length.min

    @property
    def max_length(self) -> int:
        """The maximum number of characters in a label, which is the number of heads."""
        return self.length if isinstance(self.length, int) else self.length.max

    @property
    def blank_id(self) -> int | None:
        """The class "no character at this position"; None if all labels have the same length."""
        return None if isinstance(self.length, int) else len(self.characters)

    @property
    def num_classes(self) -> int:
        """The number of classes of each head, including the blank class."""
        return len(self.characters) + (self.blank_id is not None)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {self._fold(character): i for i, character in enumerate(self.characters)}

    def _fold(self, character: str) -> str:
        return character if self.case_sensitive else character.casefold()

    def canonical(self, label: str) -> str:
        """Returns the label in the form of the charset: NFC-normalised, and in the charset's case if case does not matter.

        Raises:
          LabelError: the label is empty, has a wrong length, or contains a character outside the charset.
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
        """Returns the `max_length` class ids of a label, padded with `blank_id`.

        Raises:
          LabelError: as for `canonical`.
        """
        ids = [self._ids[self._fold(character)] for character in self.canonical(label)]
        padding = self.max_length - len(ids)
        return ids if self.blank_id is None else ids + [self.blank_id] * padding

    def decode(self, ids: list[int]) -> str:
        """Returns the text of class ids. Blanks are skipped at any position."""
        return "".join(self.characters[i] for i in ids if i != self.blank_id)
