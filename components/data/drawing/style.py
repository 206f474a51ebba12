"""A style of pictures as data: the canvas, text, background, lines and dots, and what happens to the finished picture.

`captcha-pipeline synth fit` finds the style of real pictures. All lengths are pixels of the drawn picture.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

from components.base.section import Byte, Section


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the smallest value must come first, not {bounds[0]:g}")
    return bounds


# A distance in pixels, such as from the left edge of a picture. It may be negative.
_Length = Annotated[float, Field(ge=-4096, le=4096)]
Lengths = Annotated[tuple[_Length, _Length], AfterValidator(_ordered)]
_Size = Annotated[float, Field(ge=0, le=512)]
Sizes = Annotated[tuple[_Size, _Size], AfterValidator(_ordered)]
_Count = Annotated[int, Field(ge=0, le=2000)]
Counts = Annotated[tuple[_Count, _Count], AfterValidator(_ordered)]
_Angle = Annotated[float, Field(ge=-360, le=360)]
Angles = Annotated[tuple[_Angle, _Angle], AfterValidator(_ordered)]
_Quality = Annotated[int, Field(ge=1, le=95)]
Colour = tuple[Byte, Byte, Byte]


class Palette(Section):
    """Colours to choose from."""

    colours: tuple[Colour, ...] = Field(min_length=1, max_length=64, description="RGB, 0 to 255 each; one of them is taken")
    spread: Byte = Field(0, description="the largest random change of each channel")


class TextStyle(Section):
    """The characters: their shape, their places and their colours."""

    size: Sizes = Field(description="font size")
    size_each: bool = Field(False, description="whether each character has its own size")
    stretch: Sizes = Field((1.0, 1.0), description="how many times wider characters are than in the font")
    stroke: Sizes = Field((0.0, 0.0), description="how much wider strokes are on each side than in the font")
    start: Lengths = Field(
        description="from the left edge to the first character's pen position, or to the middle of the text if `centred`"
    )
    centred: bool = Field(False, description="whether `start` is the middle of the text")
    pitch: Sizes | None = Field(
        None, description="from the middle of a character to the middle of the next; null for the font's own widths"
    )
    gap: Lengths = Field((0.0, 0.0), description="further space between two characters; negative values make them overlap")
    baseline: Lengths = Field(description="from the upper edge to the baseline")
    lift: Lengths = Field((0.0, 0.0), description="how far a character stands below the baseline; negative values raise it")
    angle: Angles = Field((0.0, 0.0), description="degrees by which a character is turned, counter-clockwise")
    wave: Sizes = Field((0.0, 0.0), description="amplitude of the waves into which the text is bent")
    wave_length: Sizes = Field((40.0, 80.0), description="length of these waves")
    scatter: Sizes = Field((0.0, 0.0), description="how far the text's pixels are scattered: standard deviation")
    scatter_at: Lengths | None = Field(None, description="where pixels are scattered most, from the left edge; null for everywhere")
    scatter_reach: Sizes = Field((30.0, 30.0), description="how far the scatter reaches from `scatter_at`: standard deviation")
    palette: Palette = Field(description="colours of the text")
    colour_each: bool = Field(False, description="whether each character has its own colour")


class GroundStyle(Section):
    """The background."""

    palette: Palette = Field(description="its colours; with a gradient, those at its start")
    end: Palette | None = Field(None, description="the colours at the end of a gradient; null for a background of one colour")
    angle: Angles = Field((0.0, 0.0), description="direction of the gradient: 0 from left to right, 90 from top to bottom")
    grain: Sizes = Field((0.0, 0.0), description="random changes of brightness: standard deviation, 0 to 255")
    grain_each: bool = Field(False, description="whether the red, green and blue of a pixel change independently")
    grain_scale: float = Field(0.0, ge=0, le=64, description="how large the spots of grain are: standard deviation; 0 for single pixels")
    frame: int = Field(0, ge=0, le=32, description="width of a frame at the edges, under text and lines; 0 for none")
    frame_palette: Palette = Field(Palette(colours=((0, 0, 0),)), description="colours of the frame")


class LineStyle(Section):
    """Lines of one kind, straight or bent."""

    count: Counts = Field(description="lines in a picture")
    x: Lengths = Field(description="from the left edge to the start of a line")
    y: Lengths = Field(description="from the upper edge to the start of a line")
    dx: Lengths = Field(description="from its start to its end, to the right")
    dy: Lengths = Field(description="from its start to its end, downwards")
    bend: Lengths = Field((0.0, 0.0), description="how far its middle is moved downwards")
    width: Sizes = Field((1.0, 1.0), description="width at its start")
    end_width: Sizes | None = Field(None, description="width at its end; null for the same width")
    palette: Palette | None = Field(None, description="its colours; null for a colour of the text")
    over: bool = Field(True, description="whether lines are over the text")


class DotStyle(Section):
    """Dots over the text."""

    count: Counts = Field((0, 0), description="dots in a picture")
    radius: Sizes = Field((0.5, 1.0), description="half of the width of a dot")
    palette: Palette | None = Field(None, description="colours of the dots; null for a colour of the text")


class Style(Section):
    """Pictures of one size in one style. All lengths are pixels, and each range is written as its smallest and its largest value."""

    width: int = Field(ge=8, le=2048, description="of the picture")
    height: int = Field(ge=8, le=2048, description="of the picture")
    grey: bool = Field(False, description="whether pictures are grey")
    smooth: bool = Field(True, description="whether edges of text and lines are smooth")
    text: TextStyle = Field(description="the characters")
    ground: GroundStyle = Field(description="the background")
    lines: tuple[LineStyle, ...] = Field((), max_length=8, description="kinds of lines")
    dots: DotStyle = Field(DotStyle(), description="dots over the text")
    blur: Sizes = Field((0.0, 0.0), description="blur of the whole picture: standard deviation")
    jpeg: tuple[_Quality, _Quality] | None = Field(
        None, description="quality of the JPEG in which a picture was once stored; null for none"
    )
    variation: float = Field(0.0, ge=0, le=2, description="widens all ranges: 0 leaves them as they are, 1 draws very different pictures")

    def has_one_size(self, width: int, height: int) -> bool:
        """Returns whether every picture has this size, in pixels."""
        return (self.width, self.height) == (width, height)
