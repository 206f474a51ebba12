"""A set in the legacy layout, made with the published writer, trains unchanged.

The writer below is the published code, with misprints corrected (`1abel_raw`, `tf.train_Feature`) and `tf.python_io` updated.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from captcha.image import ImageCaptcha

from components.data.spans import list_spans
from components.serving import serving_dir
from pipeline.config.loading import load_config
from pipeline.reporting import results
from tests.support.command import call
from tests.support.paths import TINY, tiny_options
from tests.support.recorded_run import last_run

pytestmark = pytest.mark.long

CHARSET, LENGTH, HEIGHT, WIDTH = "012", 2, 24, 40
LAYOUTS = ["canonical", "book"]


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def write_legacy_set(folder: Path, count: int, files: int, seed: int) -> None:
    folder.mkdir()
    with open(folder / "data_info.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "type", "shape", "isbyte", "length_type", "default"])
        writer.writerow(["image_raw", "uint8", f"({HEIGHT}, {WIDTH}, 3)", "True", "fixed", ""])
        writer.writerow(["label_raw", "int64", f"({LENGTH},)", "True", "fixed", ""])
        writer.writerow(["map_raw", "int64", f"({LENGTH}, {len(CHARSET)})", "True", "fixed", ""])
    generator = ImageCaptcha(width=WIDTH, height=HEIGHT, font_sizes=(16, 18))
    rng = np.random.default_rng(seed)
    for number in range(files):
        with tf.io.TFRecordWriter(str(folder / f"captcha_{number}.tfrecord")) as records:
            for _ in range(count // files):
                label = rng.integers(0, len(CHARSET), LENGTH)
                image = np.array(generator.create_captcha_image("".join(CHARSET[i] for i in label), (20, 20, 120), (250, 250, 250)))
                features = tf.train.Features(
                    feature={
                        "image_raw": _bytes_feature(image.tobytes()),
                        "label_raw": _bytes_feature(label.astype(np.int64).tobytes()),
                        "map_raw": _bytes_feature(np.eye(len(CHARSET), dtype=np.int64)[label].tobytes()),
                    }
                )
                records.write(tf.train.Example(features=features).SerializeToString())


def test_legacy_records_train(tmp_path: Path) -> None:
    """The records are imported into both layouts."""
    options = tiny_options(tmp_path)
    options += ["--set", "captcha.channels=3"]
    for seed, layout in enumerate(LAYOUTS):
        folder = tmp_path / layout
        write_legacy_set(folder, 600, 3, seed)
        call("data", "import", str(folder), "--layout", layout, *options)
    config = load_config(TINY, options[3::2])
    manifests = [span.manifest for span in list_spans(config.data.root)]
    assert [manifest.layout for manifest in manifests] == LAYOUTS
    assert [sum(manifest.counts.values()) for manifest in manifests] == [600, 600]
    call("run", *options)
    figures = results.result_of(config, last_run(config)).evaluation.results
    assert figures.example_count == sum(manifest.counts["test"] for manifest in manifests)
    # More than a model that learns the records of one layout and guesses the others.
    assert figures.sequence_accuracy.lower > (1 + 1 / len(CHARSET) ** LENGTH) / 2
    assert len(serving_dir.versions(config.serving_dir)) == 1
