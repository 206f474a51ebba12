"""A real Transform of a few pictures, for the tests of later steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from PIL import Image, ImageDraw
from tensorflow_transform.coders import ExampleProtoCoder
from tensorflow_transform.tf_metadata import dataset_metadata
from tfx.components.trainer.fn_args_utils import FnArgs

from components.base.features import CHARACTERS
from components.data.captcha_spec import CaptchaSpec
from components.data.drift import Profile
from components.data.example_proto import Example
from components.data.pictures import PictureRules
from components.data.record_check import Shard, check_record
from components.data.records import canonical_example
from components.schema_gate import captcha_schema
from components.training.preprocessing import preprocessing_fn

# What CaptchaExampleGen would have counted.
PROFILE = Profile({"brightness": {"200": 150, "201": 30}, "contrast": {"60": 180}, "sharpness": {"12": 180}, "size": {"16x32": 180}})


def draw(spec: CaptchaSpec, label: str, seed: int = 0) -> Image.Image:
    """Draws a picture that is easy to learn: one bar a character, which is higher for later characters of the charset."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(200, 256, (spec.height, spec.width, 3), np.uint8)).convert("RGB" if spec.channels == 3 else "L")
    pen = ImageDraw.Draw(image)
    pitch = spec.width / spec.max_length
    for position, number in enumerate(spec.encode(label)):
        height = (number + 1) * spec.height / (spec.num_classes + 1)
        pen.rectangle([position * pitch + 1, spec.height - height, (position + 1) * pitch - 2, spec.height], fill=0)
    return image


def emitted(image: bytes, label: str, spec: CaptchaSpec, source: str = "test") -> bytes:
    """Returns the record that CaptchaExampleGen emits for a picture and its label."""
    record = canonical_example(image, label, source, {}).SerializeToString()
    shard, rules = Shard("train", "", "", 1, "", "test", None), PictureRules(10_000, (255, 255, 255), "resize")
    return check_record(record, shard, spec, rules).example.SerializeToString()


def _instance(serialized: bytes) -> dict[str, Any]:
    """Returns an emitted example as Beam's instance dictionary: CHARACTERS is a list, every other feature one value."""
    values = {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        for name, feature in Example.FromString(serialized).features.feature.items()
    }
    return {name: value if name == CHARACTERS else value[0] for name, value in values.items()}


def trainer_arguments(
    transformed: Path, folder: Path, checkpoints: Path, spec: CaptchaSpec, trainer: Mapping[str, Any], base: Path | None = None
) -> FnArgs:
    """Returns the Trainer's arguments for the output of `transform` in `transformed`; the fit writes `folder`/model and `folder`/logs."""
    (folder / "logs").mkdir(parents=True)
    return FnArgs(
        train_files=[str(transformed / "train-*")],
        eval_files=[str(transformed / "eval-*")],
        transform_output=str(transformed / "graph"),
        serving_model_dir=str(folder / "model"),
        model_run_dir=str(folder / "logs"),
        base_model=str(base) if base else None,
        custom_config={
            "spec": spec.model_dump_json(),
            "trainer": dict(trainer),
            "recipe": "abc",
            "checkpoint_dir": str(checkpoints),
            "log_dir": str(folder / "tensorboard"),
            "max_pixels": 1000,
            "wrong_size": "resize",
            "background": [255, 255, 255],
            "profiles": {"span-000001": PROFILE.to_json()},
        },
    )


def transform(spec: CaptchaSpec, splits: Mapping[str, Sequence[bytes]], folder: Path) -> tft.TFTransformOutput:
    """Analyses the "train" split of emitted examples; writes FOLDER/graph and FOLDER/<split>-*.gz, as TFX's Transform does."""
    metadata = dataset_metadata.DatasetMetadata(captcha_schema(spec))
    config = {"spec": spec.model_dump_json(), "background": (255, 255, 255)}
    graph = str(folder / "graph")
    with beam.Pipeline("FnApiRunner") as pipeline, tft_beam.Context(temp_dir=str(folder / "temporary"), force_tf_compat_v1=False):
        raw = {
            split: pipeline | f"Create {split}" >> beam.Create([_instance(row) for row in rows], reshuffle=False)
            for split, rows in splits.items()
        }
        transform_fn = (raw["train"], metadata) | tft_beam.AnalyzeDataset(lambda inputs: preprocessing_fn(inputs, config))
        _ = transform_fn | tft_beam.WriteTransformFn(graph)
        _ = metadata | tft_beam.WriteMetadata(f"{graph}/{tft.TFTransformOutput.RAW_METADATA_DIR}", pipeline=pipeline)
        for split, rows in raw.items():
            transformed, form = ((rows, metadata), transform_fn) | f"Transform {split}" >> tft_beam.TransformDataset()
            _ = (
                transformed
                | f"Encode {split}" >> beam.Map(ExampleProtoCoder(form.schema).encode)
                | f"Write {split}" >> beam.io.WriteToTFRecord(str(folder / split), file_name_suffix=".gz")
            )
    return tft.TFTransformOutput(graph)
