"""DriftGate: records the distance of the newest span from the other spans of the window, and stops the run if configured to."""

import json
import os
from typing import Final

from absl import logging
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types.standard_artifacts import ExampleAnomalies, ExampleStatistics

from components.base.errors import CaptchaPipelineError
from components.base.features import DRIFT_FILE, PROFILES_FILE
from components.data.drift import Profile, complain, describe

STOP: Final = "stop"


@component
def DriftGate(
    profiles: InputArtifact[ExampleStatistics],
    anomalies: OutputArtifact[ExampleAnomalies],
    thresholds: Parameter[str],
    action: Parameter[str],
    source_digest: Parameter[str],
) -> None:
    """Writes DRIFT_FILE into the artifact `anomalies`, as `components.data.drift.describe` returns it.

    Args:
      profiles: the output of CaptchaExampleGen.
      anomalies: the output.
      thresholds: JSON: for each measure a distance of 0 to 1, or null for no limit.
      action: "warn" or "stop".
      source_digest: the hash of this step's code; another value makes the step run again.

    Raises:
      CaptchaPipelineError: the newest span differs by more than a threshold, and `action` is "stop".
    """
    del source_digest
    with fileio.open(os.path.join(profiles.uri, PROFILES_FILE)) as file:
        by_span = {span: Profile(counts) for span, counts in json.loads(file.read()).items()}
    found = describe(by_span, json.loads(thresholds))
    with fileio.open(os.path.join(anomalies.uri, DRIFT_FILE), "w") as file:
        file.write(json.dumps(found, indent=1, ensure_ascii=False))
    if complaint := complain(found):
        if action == STOP:
            raise CaptchaPipelineError(
                f"{complaint}\nLook at the span with `captcha-pipeline data show`. To train on it, raise these thresholds or set "
                "drift.action to warn. To exclude it, add its number to data.exclude."
            )
        logging.warning("%s", complaint)
