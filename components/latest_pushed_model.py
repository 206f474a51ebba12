"""LatestPushedModel: provides the production model as the Evaluator's baseline and for a warm start.

TFX has a Resolver for this. Open-source Kubeflow Pipelines rejects Resolvers, so this is a plain component.
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
VERSION: Final = "version"  # of the model, if there is one
REASON: Final = "reason"  # why there is no model


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

    If there is no such version, the artifact has no model, and its property REASON says why. The property RECIPE is the recipe of the
    candidate model: a pushed model with this recipe is never the baseline. The file GOLDEN_FILE next to the model says which pushed model
    has read the golden set best so far, if that is known. It may be an older version.

    Args:
      examples: the output of CaptchaExampleGen. Its property WINDOW identifies the spans of the candidate model.
      serving_dir: TensorFlow Serving's base path.
      spec: the CaptchaSpec, as JSON. A version with another spec is used only if no version has this spec: a warm start can use its trunk.
      settings: for the recipe, see `components.base.recipe.recipe`.
      epochs: for the recipe: passes over the training split; 0 derives the number from the size of the split.
      attempt: for the recipe: the number of earlier attempts with these inputs.
      as_of: identifies the versions in the folder when the run began. TFX cannot see pushes; this value tells TFX whether an earlier
        output of this step is still valid.
      source_digest: the hash of this step's code; another value makes the step run again.
      model: the output.

    Raises:
      CaptchaPipelineError: the Pusher could not write to the folder, or a version in it is damaged.
    """
    del as_of, source_digest
    check(serving_dir)  # on Kubeflow this is the first step that sees the folder, hours before the Pusher
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
        none = f"{serving_dir} has no version from another run of this pipeline (versions in total: {found})"
        model.set_string_custom_property(REASON, none if found else f"nothing has been pushed to {serving_dir}")
