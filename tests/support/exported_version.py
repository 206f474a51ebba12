"""A version in a serving folder, and a span whose test split proves its exports."""

from pathlib import Path

from components.data.records import canonical_example
from components.data.span_writer import ShardWriter, new_span, rename_shards, write_manifest
from pipeline.config.config import Config
from tests.support.exported_model import LABELS, MAX_PIXELS, PICTURES, SPEC, export, random_model, transform_graph


def make_version(folder: Path) -> tuple[Config, Path]:
    """Exports a random model as version 1, and writes PICTURES as a span. Returns the configuration and the folder of the version."""
    config = Config.model_validate(
        {
            "name": "random",
            "root": str(folder / "output"),
            "captcha": SPEC.model_dump(),
            "data": {"root": str(folder / "data"), "max_pixels": MAX_PIXELS},
        }
    )
    making = new_span(Path(config.data.root))
    with making as draft:
        with ShardWriter(draft, "shard-00000", "canonical") as writer:
            for split in ("train", "test"):
                for picture, label in zip(PICTURES, LABELS, strict=True):
                    writer.write(split, canonical_example(picture, label, "test", {}).SerializeToString())
        files = rename_shards(draft, writer.files, 1)
        write_manifest(draft, layout="canonical", spec=SPEC, seed=None, source="test", params={}, files=files)
    version = Path(config.serving_dir) / "1"
    version.parent.mkdir(parents=True)
    return config, export(version, random_model(), transform_graph(folder / "transform"))
