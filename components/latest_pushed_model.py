"""LatestPushedModel: the model in production, as the Evaluator's baseline and for a warm start.

TFX has a Resolver for this; open-source Kubeflow Pipelines rejects it, so this is a plain component.
"""

import shutil
from pathlib import Path
from typing import Final

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.standard_artifacts import Examples, Model
from tfx.utils import path_utils

from components.base.features import FINGERPRINT, GOLDEN_FILE, RECIPE, WINDOW
from components.base.recipe import recipe
from components.data.captcha_spec import CaptchaSpec
from components.evaluation import golden
from components.serving.serving_dir import best_on_golden_sets, check, latest_pushed, versions

HAS_MODEL: Final = "has_model"  # 1 or 0
VERSION: Final = "version"  # of the model, where there is one
REASON: Final = "reason"  # why there is none


@component
def LatestPushedModel(
    examples: InputArtifact[Examples],
    serving_dir: Parameter[str],
    spec: Parameter[str],
    settings: Parameter[str],
    epochs: Parameter[int],
    attempt: Parameter[int],
    as_of: Parameter[str],
    source_digest: Parameter[str],
    model: OutputArtifact[Model],
) -> None:
    """Copies the newest pushed version that `latest_pushed` finds into the artifact `model`.

    Where there is none, the artifact holds no model, and says why. Its property RECIPE is that of the model that is to be compared: such a
    model is never its own baseline. Beside the model, GOLDEN_FILE has which pushed model has read the golden set best so far, where that is
    known: it may be an older one.

    Args:
      examples: of CaptchaExampleGen; they say of which spans the model is made.
      serving_dir: TensorFlow Serving's base path.
      spec: the CaptchaSpec, as JSON. A version that reads something else is taken if there is no other: a trunk to go on from.
      settings: for the recipe, as are the next two; see `components.base.recipe.recipe`.
      epochs: of the fit.
      attempt: how often the same has been fitted before.
      as_of: names what was found when the run began. TFX cannot see what has been pushed: this tells it whether an earlier
        answer still holds.
      source_digest: of this step; another value has it run again.

    Raises:
      CaptchaPipelineError: the Pusher could not write to the folder, or a version in it is damaged.
    """
    del as_of, source_digest
    check(serving_dir)  # on Kubeflow this step is the first to see the folder, hours before the Pusher
    made_by = recipe(settings, examples.get_string_custom_property(WINDOW), epochs, attempt)
    pushed = latest_pushed(serving_dir, made_by, CaptchaSpec.model_validate_json(spec))
    model.set_string_custom_property(RECIPE, made_by)
    model.set_int_custom_property(HAS_MODEL, int(pushed is not None))
    if bests := best_on_golden_sets(serving_dir, made_by):
        Path(model.uri, GOLDEN_FILE).write_text(golden.to_json(bests), encoding="utf-8")
    if pushed:
        shutil.copytree(pushed.path, path_utils.serving_model_path(model.uri), dirs_exist_ok=True)
        model.set_int_custom_property(VERSION, pushed.version)
        model.set_string_custom_property(FINGERPRINT, pushed.fingerprint or "")
    else:
        found = len(versions(serving_dir))
        none = f"none of the {found} versions in {serving_dir} comes from this pipeline and from another run"
        model.set_string_custom_property(REASON, none if found else f"nothing has been pushed to {serving_dir}")
