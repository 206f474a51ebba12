"""Cross-validation of a configuration on the transformed examples of a run."""

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
    """Measures a configuration, not one model, with `components.training.cross_validation.cross_validate`.

    Args:
      config: gives the trainer's settings and the confidence of the intervals.
      run: the run whose transformed examples are used, from the splits train and eval. The test split stays unused, because it measures
        the model that is chosen from these results.
      folds: the number of fits.
      on_fold: called after each fit with the results so far.

    Returns:
      The results over all folds.

    Raises:
      CaptchaPipelineError: the run has no transformed examples, too few of them, or another section captcha than the configuration.
    """
    from components.training.batches import record_files
    from components.training.cross_validation import cross_validate

    folder = run.artifact_uri("Transform", "transformed_examples")
    if folder is None or not Path(folder).is_dir():
        raise CaptchaPipelineError(f"Run {run.run_id} has no transformed examples. Run `captcha-pipeline run` first.")
    if (yaml.safe_load(run.configuration) or {}).get("captcha") != config.captcha.model_dump(mode="json"):
        raise CaptchaPipelineError("The section captcha differs from that of the latest complete run. Run `captcha-pipeline run` first.")
    files = [file for split in SPLITS[:2] for file in record_files([str(Path(folder, f"Split-{split}", "*"))], split)]
    parameters = config.trainer
    confidence = config.evaluator.confidence
    with tempfile.TemporaryDirectory(dir=config.root) as directory:
        counts = cross_validate(
            files, config.captcha, parameters, folds, Path(directory), lambda counted: on_fold(counted.results(confidence))
        )
    return counts.results(confidence)
