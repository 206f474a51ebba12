"""Pictures to import, the plan of an import, and the records of a span."""

import json
from typing import Any

import numpy as np
from PIL import Image

from components.base.features import PSEUDO
from components.data.captcha_spec import CaptchaSpec
from components.data.example_proto import Example
from components.data.pictures import PictureRules
from components.data.records import encode_png
from components.data.sources.sift import ImportPlan
from components.data.tfrecords import read_records

SPEC = CaptchaSpec(width=20, height=10)


WEIGHTS = {"train": 10, "eval": 1, "test": 1}


def picture(seed, size=(20, 10)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return encode_png(Image.fromarray(pixels))


def plan(root, **changes):
    options: dict[str, Any] = {
        "root": root,
        "spec": SPEC,
        "splits": WEIGHTS,
        "source": "shop",
        "rules": PictureRules(10_000, (255, 255, 255), "resize"),
    }
    return ImportPlan(**(options | changes))


def records(span):
    for split in WEIGHTS:
        for path in span.files(split):
            yield from (record.data for record in read_records(path))


def labelled(span):
    """Returns {label: (picture, params)} of a canonical span."""
    found = {}
    for data in records(span):
        values = {name: feature.bytes_list.value[0] for name, feature in Example.FromString(data).features.feature.items()}
        assert values["source"] in (b"shop", PSEUDO.encode())
        found[values["label"].decode()] = values["image"], json.loads(values["params"])
    return found
