"""A version in a serving folder, with the spans that prove its exports."""

from collections.abc import Sequence
from pathlib import Path

import keras

from components.data.captcha_spec import CaptchaSpec
from components.data.records import canonical_example
from components.data.span_writer import ShardWriter, new_span, rename_shards, write_manifest
from pipeline.config.config import Config
from tests.support.exported_model import EXAMPLES, LABELS, MAX_PIXELS, PICTURES, SPEC, export, random_model, transform_graph
