"""Synthetic captchas, drawn by the captcha library.

Each picture depends on (seed, index) alone, each shard on its own pictures alone: the same seed gives the same bytes,
however many workers there are.
"""

import importlib.metadata
import io
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from captcha.image import DEFAULT_FONTS, ImageCaptcha, random_color
from PIL.Image import Image
from PIL.ImageFilter import SMOOTH

from components.captcha import CaptchaSpec
from components.disk import writing_in
from components.errors import CaptchaPipelineError
from components.features import DATA_INFO
from components.records import DataInfo, book_example, canonical_example, encode_png
from components.sources.span_writer import ShardWriter, new_span, write_manifest
from components.sources.spans import Layout, ShardFile, Span
from components.splits import split_key, split_of

SOURCE: Final = "synthetic"
# The library's defaults are for pictures of 160 x 60 pixels: fonts of 42, 50 and 56 points, and 30 dots.
_RELATIVE_FONT_SIZES: Final = (42 / 60, 50 / 60, 56 / 60)
_DOTS_PER_PIXEL: Final = 30 / (160 * 60)


@dataclass(frozen=True)
class SynthPlan:
    """All that decides the contents of a span, so that a shard can be made anywhere.

    Attributes:
      count: pictures in the span.
      shard_size: pictures a shard, over its three splits.
      fonts: paths of TrueType fonts, none for the library's own.
      font_sizes: in points, none for the library's own, in proportion to the height.
      splits: the relative size of each split.
      noise_dots: in a picture, None for as many as the library's own, in proportion to the area.
      background: the darkest and the brightest value that a channel of the background's colour may have; the library's own.
    """

    spec: CaptchaSpec
    count: int
    seed: int
    shard_size: int
    splits: dict[str, int]
    fonts: tuple[str, ...] = ()
    font_sizes: tuple[int, ...] = ()
    noise_dots: int | None = None
    noise_curve: bool = True
    background: tuple[int, int] = (238, 255)
    layout: Layout = "canonical"

    @property
    def shards(self) -> int:
        return -(-self.count // self.shard_size)

    @property
    def effective_font_sizes(self) -> tuple[int, ...]:
        return self.font_sizes or tuple(max(6, round(size * self.spec.height)) for size in _RELATIVE_FONT_SIZES)

    @property
    def effective_noise_dots(self) -> int:
        return round(_DOTS_PER_PIXEL * self.spec.width * self.spec.height) if self.noise_dots is None else self.noise_dots


@dataclass(frozen=True)
class Captcha:
    """One picture: RGB or L, of the spec's size, and its label. `params` says how it was drawn."""

    image: Image
    label: str
    params: dict[str, Any]


class CaptchaPainter(ImageCaptcha):
    """ImageCaptcha with a choice of noise. With the default choice it draws the same pictures."""

    def __init__(self, plan: SynthPlan):
        self._sizes = plan.effective_font_sizes
        super().__init__(plan.spec.width, plan.spec.height, list(plan.fonts) or None, self._sizes)
        self._plan = plan
        self._params = {
            "curve": plan.noise_curve,
            "dots": plan.effective_noise_dots,
            "font_sizes": self._sizes,
            "fonts": [Path(font).name for font in self._fonts],
        }

    def paint(self, index: int) -> Captcha:
        """Draws the picture with this index in the span. Seeds the global `random`, which the library draws from."""
        plan, spec = self._plan, self._plan.spec
        random.seed(f"{plan.seed}/{index}")
        length = random.randint(spec.min_length, spec.max_length)  # noqa: S311
        label = "".join(random.choices(spec.characters, k=length))  # noqa: S311
        image, background, colour = self.draw(label)
        params = {"background": background, "colour": colour, **self._params}
        return Captcha(image if spec.channels == 3 else image.convert("L"), label, params)

    def draw(self, label: str) -> tuple[Image, tuple[int, ...], tuple[int, ...]]:
        """Draws as ImageCaptcha.generate_image does, in the same order of random numbers; returns the two colours as well."""
        background = random_color(*self._plan.background)
        colour = random_color(10, 200, random.randint(220, 255))  # noqa: S311
        image = self.create_captcha_image(label, colour, background)
        self.create_noise_dots(image, colour, number=self._plan.effective_noise_dots)
        if self._plan.noise_curve:
            self.create_noise_curve(image, colour)
        return image.filter(SMOOTH), background, colour


def make_shard(plan: SynthPlan, shard: int, root: str | Path, on_picture: Callable[[], None] | None = None) -> list[ShardFile]:
    """Writes one shard of each split under the folder `root`. Leaves the global `random` as it was.

    Args:
      plan: of the whole span.
      shard: its number, from 0.
      root: the folder of the span.
      on_picture: is called after each picture.

    Returns:
      What the manifest says of the files.
    """
    state = random.getstate()
    painter = CaptchaPainter(plan)
    with ShardWriter(Path(root), f"shard-{shard:05d}-of-{plan.shards:05d}", plan.layout) as writer:
        for index in range(shard * plan.shard_size, min((shard + 1) * plan.shard_size, plan.count)):
            captcha = painter.paint(index)
            writer.write(split_of(split_key(captcha.image), plan.splits), _example(plan, captcha).SerializeToString(deterministic=True))
            if on_picture:
                on_picture()
    random.setstate(state)
    return writer.files


def _example(plan: SynthPlan, captcha: Captcha) -> Any:
    if plan.layout == "book":
        shape = (plan.spec.height, plan.spec.width, plan.spec.channels)
        return book_example(np.asarray(captcha.image).reshape(shape), captcha.label, plan.spec)
    return canonical_example(encode_png(captcha.image), captcha.label, SOURCE, captcha.params)


def in_processes(
    plan: SynthPlan,
    root: Path,
    workers: int = 1,
    on_pictures: Callable[[int], None] = lambda count: None,
    shards: Sequence[int] = (),
) -> Iterator[list[ShardFile]]:
    """Writes the shards of these numbers, or all, with the given number of worker processes.

    `on_pictures` is called with the number of further pictures, a few times a second.
    """
    shards = shards or range(plan.shards)
    # Spawned, not forked: the caller may have TensorFlow's threads, and a forked copy of those can hang.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("Q", 0)
    with ProcessPoolExecutor(min(workers, len(shards)), context, _start_worker, (counter,)) as pool:
        # The workers inherit this: a Ctrl-C while they start waits until they can go without a word (_start_worker).
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            futures = [pool.submit(_work, plan, shard, root) for shard in shards]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        try:
            reported, pending = 0, set(futures)
            while pending:
                pending = wait(pending, timeout=0.25).not_done
                on_pictures(counter.value - reported)
                reported = counter.value
            yield from map(Future.result, futures)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


MakeShards = Callable[[SynthPlan, Path], Iterable[list[ShardFile]]]


def synthesise(plan: SynthPlan, root: str | Path, make_shards: MakeShards = in_processes) -> Span:
    """Makes a span in the folder `root`.

    Args:
      plan: of the span.
      root: the folder of all spans.
      make_shards: writes the shards into a folder, and returns what the manifest says of each: `in_processes`, or on Beam.

    Raises:
      CaptchaPipelineError: a font is not right, or the span cannot be written.
    """
    check_fonts(plan)
    making = new_span(root)
    with writing_in(root), making as draft:
        files = [file for shard in make_shards(plan, draft) for file in shard]
        if plan.layout == "book":
            DataInfo.for_spec(plan.spec).save(draft / DATA_INFO)
        params = {key: value for key, value in asdict(plan).items() if key not in ("spec", "seed", "layout")}
        # Another release of either draws other pictures from the same seed.
        params |= {"font_sizes": plan.effective_font_sizes, "noise_dots": plan.effective_noise_dots}
        params |= {name: importlib.metadata.version(name) for name in ("captcha", "pillow")}
        write_manifest(draft, layout=plan.layout, spec=plan.spec, seed=plan.seed, source=SOURCE, params=params, files=files)
    return making.span


_counter: Any = None


def _start_worker(counter: Any) -> None:
    global _counter
    _counter = counter
    # On Ctrl-C the worker goes without a word; the parent process says what there is to say.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when its parent process is gone: a pool's workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _work(plan: SynthPlan, shard: int, root: Path) -> list[ShardFile]:
    return make_shard(plan, shard, root, _count)


def _count() -> None:
    with _counter.get_lock():
        _counter.value += 1


def check_fonts(plan: SynthPlan) -> None:
    """Checks that every font is there and can write every character of the charset.

    Raises:
      CaptchaPipelineError: names the font, the characters and the remedy.
    """
    from fontTools.ttLib import TTFont, TTLibError

    remedy = "Name fonts that can with --set 'synth.fonts=[/path/to/font.ttf]'."
    for font in plan.fonts or DEFAULT_FONTS:
        try:
            with open(font, "rb") as file, TTFont(io.BytesIO(file.read()), fontNumber=0, lazy=True) as opened:
                known = opened.getBestCmap() or {}
        except OSError as error:
            raise CaptchaPipelineError(f"Cannot read the font {font}: {error.strerror}. {remedy}") from None
        except (TTLibError, KeyError) as error:
            raise CaptchaPipelineError(f"{font} is not a TrueType or OpenType font: {error}. {remedy}") from None
        missing = [character for character in plan.spec.characters if ord(character) not in known]
        if missing:
            shown = "".join(missing[:20]) + ("…" if len(missing) > 20 else "")
            raise CaptchaPipelineError(f"The font {font} has no glyphs for {len(missing)} characters of the charset: {shown}. {remedy}")
