"""A picture's split depends on its visible pixels, and changes as little as possible when the shares change."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.data.pictures import PictureRules
from components.data.records import encode_png
from components.data.sources.seen import of_encoded
from components.data.splits import KEY_BYTES, bytes_key, holds, merge_keys, split_key, split_of
from tests.support.encoded import encode

RULES = PictureRules(10_000, (250, 240, 230), "resize")
WEIGHTS = {"train": 10, "eval": 1, "test": 1}
KEYS = [bytes_key(b"%d" % i) for i in range(6000)]
PARTS = st.integers(0, 1000)


def key_of(data, rules=RULES):
    return of_encoded(data, "", "", rules).key


@pytest.mark.parametrize("weights", [WEIGHTS, {"train": 98, "eval": 1, "test": 1}, {"train": 1, "eval": 2, "test": 3}])
def test_splits_have_about_the_configured_sizes(weights):
    splits = [split_of(key, weights) for key in KEYS]
    for split, weight in weights.items():
        expected = len(KEYS) * weight / sum(weights.values())
        assert splits.count(split) == pytest.approx(expected, abs=5 * expected**0.5)


@given(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), st.integers(1, 1000), PARTS, PARTS, PARTS, PARTS)
def test_a_picture_moves_only_between_train_and_the_split_whose_share_changes(key, total, test, other_test, eval_, other_eval):
    """The shares add up to `total + 2000`, so that train is never empty."""

    def split(test, eval_):
        return split_of(key, {"train": total + 2000 - test - eval_, "eval": eval_, "test": test})

    test, other_test = sorted((test, other_test))
    eval_, other_eval = sorted((eval_, other_eval))
    small, large = split(test, eval_), split(other_test, other_eval)
    if small != "train":
        assert large == small, "test and eval of smaller shares are parts of those of larger ones"
    if large == "train":
        assert small == "train", "train of larger shares of test and eval is part of that of smaller ones"
    # If only one share changes, the other split stays exactly as it is.
    assert (split(other_test, eval_) == "eval") == (small == "eval")
    assert (split(test, other_eval) == "test") == (small == "test")


@given(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), PARTS, PARTS, st.integers(1, 1000), st.integers(1, 9))
def test_only_the_proportion_of_the_shares_counts(key, test, eval_, train, factor):
    weights = {"train": train, "eval": eval_, "test": test}
    assert split_of(key, weights) == split_of(key, {split: factor * weight for split, weight in weights.items()})


def test_a_split_without_a_share_gets_no_picture():
    for point in (0, 2**64 - 1):
        key = point.to_bytes(8, "big") + bytes(8)
        assert split_of(key, {"train": 1, "eval": 0, "test": 0}) == "train"
    assert [split_of(point.to_bytes(8, "big"), WEIGHTS) for point in (0, 2**63, 2**64 - 1)] == ["test", "train", "eval"]


def test_the_key_does_not_depend_on_the_encoding():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8), np.uint8)
    grey = Image.fromarray(pixels)
    sixteen = Image.fromarray(pixels.astype(np.uint16) * 256 + 77)
    transparent = grey.convert("RGBA")
    files = [
        encode_png(grey),
        encode(grey.convert("RGB"), "BMP"),
        encode(grey, "TIFF"),
        encode(grey.convert("RGB"), "WEBP", lossless=True),
        encode(grey.convert("P"), "PNG"),
        encode(grey, "GIF"),
        encode_png(sixteen),
        encode_png(transparent),
    ]
    assert {key_of(file) for file in files} == {split_key(grey)}
    assert len(split_key(grey)) == KEY_BYTES


def test_transparent_pixels_count_as_the_background():
    layer = Image.new("RGBA", (9, 8), (1, 2, 3, 0))
    layer.putpixel((0, 0), (9, 9, 9, 255))
    seen = Image.new("RGB", (9, 8), RULES.background)
    seen.putpixel((0, 0), (9, 9, 9))
    assert key_of(encode_png(layer)) == split_key(seen)


def test_different_pictures_have_different_keys():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 4), np.uint8)
    changed = pixels.copy()
    changed[4, 4, 3] ^= 128
    keys = {key_of(encode_png(Image.fromarray(one))) for one in (pixels, changed)}
    assert len(keys) == 2
    assert split_key(Image.new("L", (2, 3))) != split_key(Image.new("L", (3, 2)))


@pytest.mark.parametrize("data", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_the_key_of_other_files_is_the_hash_of_their_bytes(data):
    assert key_of(data) == bytes_key(data) == hashlib.sha256(data).digest()[:KEY_BYTES]


def test_a_picture_over_the_limit_is_not_decoded():
    data = encode_png(Image.new("L", (11, 10)))
    assert key_of(data, PictureRules(109, RULES.background, "resize")) == bytes_key(data)
    assert key_of(data, PictureRules(110, RULES.background, "resize")) != bytes_key(data)


@given(st.lists(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)), st.lists(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)))
def test_keys_are_found_in_merged_keys(some, others):
    merged = merge_keys([b"".join(some), b"", b"".join(some[:3])])
    assert len(merged) == KEY_BYTES * len(set(some))
    for key in some + others:
        assert holds(merged, key) == (key in some)
