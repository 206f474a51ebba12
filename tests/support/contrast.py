"""How well a text on a page can be told from its background: the contrast of WCAG 2.2, as a function of an element in a browser."""

from typing import Final

CONTRAST: Final = """(element) => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  let behind = element, background;
  do { background = channels(getComputedStyle(behind).backgroundColor); behind = behind.parentElement } while (background[3] === 0);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const pair = [light(channels(getComputedStyle(element).color)), light(background)].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
}"""
