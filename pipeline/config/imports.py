"""The plan of an import, from the configuration."""

from pathlib import Path

from components.data.sources.sift import ImportPlan
from components.data.spans import Layout
from pipeline.config.config import Config


def import_plan(config: Config, source: str, layout: Layout = "canonical", *, only_new: bool = False, dry_run: bool = False) -> ImportPlan:
    """Returns the plan of an import into the data folder of a configuration. The other arguments are attributes of the plan."""
    return ImportPlan(
        root=Path(config.data.root),
        spec=config.captcha,
        splits=config.data.splits.model_dump(),
        source=source,
        rules=config.data.picture_rules,
        layout=layout,
        shard_size=config.synth.shard_size,
        exclude=config.data.unused,
        only_new=only_new,
        dry_run=dry_run,
    )
