"""LatestPushedModel: the model in production, as the Evaluator's baseline and for a warm start.

TFX has a Resolver for this; open-source Kubeflow Pipelines rejects it, so this is a plain component.
"""

import shutil
from pathlib import Path
from typing import Final

from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import Model
from tfx.utils import path_utils

from components import golden
from components.captcha import CaptchaSpec
from components.features import GOLDEN_FILE
from components.serving_dir import best_on_golden_sets, check, latest_pushed, versions

HAS_MODEL: Final = "has_model"  # 1 or 0
VERSION: Final = "version"  # of the model, where there is one
REASON: Final = "reason"  # why there is none


@component
def LatestPushedModel(
    serving_dir: Parameter[str], fingerprint: Parameter[str], spec: Parameter[str], as_of: Parameter[str], model: OutputArtifact[Model]
) -> None:
    """Copies the newest pushed version that `latest_pushed` finds into the artifact `model`.

    Where there is none, the artifact holds no model, and says why. Beside the model, GOLDEN_FILE has which pushed model has read the golden
    set best so far, where that is known: it may be an older one.

    Args:
      serving_dir: TensorFlow Serving's base path.
      fingerprint: of the model that is to be compared; it is never its own baseline.
      spec: the CaptchaSpec, as JSON. A version that reads something else is taken if there is no other: a trunk to go on from.
      as_of: names what was found when the run began. TFX cannot see what has been pushed: this tells it whether an earlier
        answer still holds.

    Raises:
      CaptchaPipelineError: the Pusher could not write to the folder, or a version in it is damaged.
    """
    del as_of
    check(serving_dir)  # on Kubeflow this step is the first to see the folder, hours before the Pusher
    pushed = latest_pushed(serving_dir, fingerprint, CaptchaSpec.model_validate_json(spec))
    model.set_int_custom_property(HAS_MODEL, int(pushed is not None))
    if bests := best_on_golden_sets(serving_dir, fingerprint):
        Path(model.uri, GOLDEN_FILE).write_text(golden.to_json(bests), encoding="utf-8")
    if pushed:
        shutil.copytree(pushed.path, path_utils.serving_model_path(model.uri), dirs_exist_ok=True)
        model.set_int_custom_property(VERSION, pushed.version)
    else:
        found = len(versions(serving_dir))
        none = f"none of the {found} versions in {serving_dir} comes from this pipeline and from another run"
        model.set_string_custom_property(REASON, none if found else f"nothing has been pushed to {serving_dir}")
