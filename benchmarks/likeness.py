"""How well the perceptual hash of components/data/likeness.py separates different captchas from copies of the same captcha.

    uv run python -m benchmarks.likeness [FOLDER or TABLE …]

The captchas are drawn, or come from sets of real ones: folders whose file names are the labels, or tables. The fifth of a real set whose
SHA-256 is 0 modulo 5 is excluded, so that the test part of the set does not influence the choice of a hash and a distance.

Expected: with 256 bits, no two pictures with different labels are within MAX_DISTANCE, and all copies as JPEG of quality 75 to 95, or with
75 % to 125 % of the size, are. With 64 bits, the usual size, some pictures with different labels have the same hash. A minute on 2 cores.
"""

import hashlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from benchmarks.results import record
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.painting import CaptchaPainter, SynthConfig, SynthPlan
from components.data.likeness import MAX_DISTANCE, look_of
from components.data.sources.listing import folder_entries, table_entries
from pipeline.config.loading import load_config

_DRAWN = 1_500
_COPIED = 300
_QUALITIES = (75, 85, 95)
_SCALES = (0.75, 0.9, 1.1, 1.25)

Labelled = tuple[Image.Image, str]


def drawn(config: str) -> list[Labelled]:
    """Draws _DRAWN captchas of a configuration in configs/."""
    settings = load_config(Path(__file__).parents[1] / "configs" / f"{config}.yaml")
    return _paint(SynthPlan(settings.captcha, settings.synth.model_copy(update={"count": _DRAWN, "seed": 5}), {}))


def _paint(plan: SynthPlan) -> list[Labelled]:
    return [(captcha.image, captcha.label) for captcha in map(CaptchaPainter(plan).paint, range(plan.synth.count))]


def real(path: Path) -> list[Labelled]:
    """Reads a folder or table of captchas, without the fifth that is excluded."""
    entries = table_entries(path, outside=False) if path.is_file() else folder_entries(path, "{label}.*", lambda *_: None)
    return [(Image.open(entry.path).convert("RGB"), entry.label) for entry in entries if _is_used(entry.path.read_bytes())]


def _is_used(data: bytes) -> bool:
    return int.from_bytes(hashlib.sha256(data).digest(), "big") % 5 != 0


def reencoded(image: Image.Image) -> Iterator[Image.Image]:
    """Yields copies as JPEG, one for each of _QUALITIES."""
    for quality in _QUALITIES:
        yield as_jpeg(image, quality)


def resized(image: Image.Image) -> Iterator[Image.Image]:
    """Yields resized copies, one for each of _SCALES."""
    for scale in _SCALES:
        yield image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def both(image: Image.Image) -> Iterator[Image.Image]:
    """Yields one copy with the first of _SCALES, as JPEG with the first of _QUALITIES."""
    yield as_jpeg(next(resized(image)), _QUALITIES[0])


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Returns the picture after encoding it as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def usual(image: Image.Image) -> bytes:
    """Returns a perceptual hash of the usual size, 64 bits."""
    return np.packbits(imagehash.phash(image).hash).tobytes()


def ours(image: Image.Image) -> bytes:
    """Returns the hash of components/data/likeness.py, 256 bits."""
    look = look_of(image)
    assert look is not None
    return look


def distances(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the number of bits, int64 [N], in which a hash, uint8 [bytes], differs from each of others, uint8 [N, bytes]."""
    return np.unpackbits(one ^ others, axis=-1).sum(axis=-1, dtype=np.int64)


def measure(pictures: list[Labelled], hashed: Callable[[Image.Image], bytes]) -> list[str]:
    """Returns the cells of a row that follow the number of bits."""
    looks = np.stack([np.frombuffer(hashed(image), np.uint8) for image, _ in pictures])
    labels = np.array([label for _, label in pictures])
    same, different = [], []
    for index in range(1, len(looks)):
        found, alike = distances(looks[index], looks[:index]), labels[:index] == labels[index]
        same += found[alike].tolist()
        different.append((found[~alike].min(initial=999), int((found[~alike] <= MAX_DISTANCE).sum())))
    cells = [
        f"{len(looks) * (len(looks) - 1) // 2 - len(same):,}",
        str(min(nearest for nearest, _ in different)),
        f"{sum(near for _, near in different):,}",
        f"{min(same)} ({len(same):,} pairs)" if same else "no pair",
    ]
    for copies in (reencoded, resized, both):
        sample = range(0, len(pictures), max(1, len(pictures) // _COPIED))
        far = [distances(looks[i], np.frombuffer(hashed(copy), np.uint8)) for i in sample for copy in copies(pictures[i][0])]
        cells += [str(max(far)), f"{np.mean(np.array(far) > MAX_DISTANCE):.1%}"]
    return cells


def main() -> None:
    sets = {f"drawn, {name}": drawn(name) for name in ("digits", "alnum")}
    sets["drawn, one digit on 40x40"] = _paint(SynthPlan(CaptchaSpec(length=1, width=40, height=40), SynthConfig(count=_DRAWN, seed=5), {}))
    sets |= {name: real(Path(name)) for name in sys.argv[1:]}
    rows = [
        [name, f"{len(pictures):,}", bits, *measure(pictures, hashed)]
        for (name, pictures) in sets.items()
        for bits, hashed in (("64", usual), ("256", ours))
    ]
    record(
        "likeness",
        "The perceptual hash: distances between different captchas, and between copies",
        (
            "set",
            "pictures",
            "bits",
            "pairs with different labels",
            "smallest distance",
            f"pairs within {MAX_DISTANCE}",
            "smallest distance with the same label",
            "JPEG: largest distance",
            f"JPEG: beyond {MAX_DISTANCE}",
            "resized: largest distance",
            f"resized: beyond {MAX_DISTANCE}",
            "both: largest distance",
            f"both: beyond {MAX_DISTANCE}",
        ),
        rows,
        [
            f"Distances in bits. Imports treat pictures within {MAX_DISTANCE} of 256 bits as copies and put them into one split.",
            f"JPEG: qualities {', '.join(map(str, _QUALITIES))}. Copies are made of a sample of each set, at least {_COPIED} pictures.",
            f"Resized: {', '.join(f'{scale:.0%}' for scale in _SCALES)}. Both: {_SCALES[0]:.0%}, then JPEG of quality {_QUALITIES[0]}.",
            "64 bits are the usual size of such hashes. The fifth of each real set whose SHA-256 is 0 modulo 5 is excluded.",
        ],
    )


if __name__ == "__main__":
    main()
