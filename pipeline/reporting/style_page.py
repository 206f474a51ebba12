"""Writes the page of `synth fit`: real and drawn pictures side by side, and the features that give the drawn ones away."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from components.base.files import write_whole
from components.data.style_fit.real_pictures import RealPictures
from components.data.style_fit.style_search import Fitted
from pipeline.reporting import filters

_SHOWN: Final = 24  # real pictures, and drawn ones, on the page
_SIGNS: Final = 8  # features on the page


def write_style_page(title: str, fitted: Fitted, real: RealPictures, section: str, path: Path) -> None:
    """Writes the page to `path` as UTF-8. The file appears complete or not at all. Missing folders are created.

    Args:
      title: of the page, such as the name of the folder with the real pictures.
      fitted: from `style_search.fit_style`.
      real: the real pictures.
      section: the section `synth` of the configuration, as YAML.
      path: of the page.

    Raises:
      CaptchaPipelineError: the disk is full, or the folder cannot be written.
    """
    html = filters.template("style.html.j2").render(
        title=title,
        fitted=fitted,
        comparison=fitted.comparison,
        judged=len(fitted.judged),
        pairs=list(_pairs(fitted, real)),
        signs=fitted.comparison.signs[:_SIGNS],
        left_out=real.left_out.most_common(),
        section=section,
    )
    write_whole(path, html)


def _pairs(fitted: Fitted, real: RealPictures) -> Iterator[tuple[str, bytes, str, bytes]]:
    """Yields pairs: the name and the PNG of a real picture that was not used for the search, the label and the PNG of a drawn one."""
    for number, (image, label) in zip(fitted.judged[:_SHOWN], fitted.drawn, strict=False):
        picture = Image.fromarray(real.pixels[number].astype(np.uint8))
        yield real.names[number], _png(picture), label, _png(image)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
