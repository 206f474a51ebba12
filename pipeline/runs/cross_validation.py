"""Cross-validation of a configuration, on the pictures of a run."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

from components.base.errors import CaptchaPipelineError
from components.base.features import SPLITS
from components.evaluation.metrics import Results
from pipeline.config.config import Config
from pipeline.runs.history import RunRecord


def cross_validation(config: Config, run: RunRecord, folds: int, on_fold: Callable[[Results], None]) -> Results:
    """Measures the recipe of the configuration, not a model, by `components.training.cross_validation.cross_validate`.

    Args:
      config: of the trainer, and the confidence of the intervals.
      run: whose transformed pictures are used, those of the train and the eval split: the test split stays for what is chosen by this.
      folds: how many fits.
      on_fold: told the figures so far, after each.

    Raises:
      CaptchaPipelineError: the run has left no transformed pictures, or there are too few.
    """
    from components.training.batches import record_files
    from components.training.cross_validation import cross_validate

    folder = run.artifact_uri("Transform", "transformed_examples")
    if folder is None or not Path(folder).is_dir():
        raise CaptchaPipelineError(f"Run {run.run_id} has left no pictures to fit to: `captcha-pipeline run` first.")
    if (yaml.safe_load(run.configuration) or {}).get("captcha") != config.captcha.model_dump(mode="json"):
        raise CaptchaPipelineError("The section captcha differs from that of the latest complete run: `captcha-pipeline run` first.")
    files = [file for split in SPLITS[:2] for file in record_files([str(Path(folder, f"Split-{split}", "*"))], split)]
    parameters = config.trainer
    confidence = config.evaluator.confidence
    with tempfile.TemporaryDirectory(dir=config.root) as directory:
        counts = cross_validate(
            files, config.captcha, parameters, folds, Path(directory), lambda counted: on_fold(counted.results(confidence))
        )
    return counts.results(confidence)
