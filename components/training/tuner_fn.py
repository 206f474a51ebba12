"""The Tuner's `tuner_fn`: searches for better hyperparameters of the Trainer."""

import math
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial, TrialStatus
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.components.tuner.component import TunerFnResult

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.training.checkpoint import JUDGED_BY, Progress
from components.training.devices import choose_strategy
from components.training.hyperparameters import Hyperparameters
from components.training.run_fn import check_batch_size, compiled_model, find_examples, fit_to


def tuner_fn(fn_args: FnArgs) -> TunerFnResult:
    """Returns a random search (Bergstra and Bengio, "Random Search for Hyper-Parameter Optimization", 2012). TFX calls it.

    The score of a trial is the Trainer's own measure, `checkpoint.JUDGED_BY`, at the epoch that the Trainer would export. The first
    trial uses the current hyperparameters, so that the best ones found are never worse on the eval split. A killed search resumes with
    the interrupted trial.

    `fn_args.custom_config` has: `spec`, a CaptchaSpec in JSON; `trainer`, the fields of Hyperparameters; `fixed`, the names of the
    hyperparameters that do not change; `trials`, the number of trials; `epochs`, the number of epochs of each trial, 0 to choose it by
    the number of pictures; and `search_dir`, the folder that stores the search.

    Raises:
      CaptchaPipelineError: a split is empty, every hyperparameter is fixed, the strategy is unavailable, or its replicas cannot share a
        batch evenly.
    """
    config = fn_args.custom_config
    spec = CaptchaSpec.model_validate_json(config["spec"])
    now = Hyperparameters(**config["trainer"] | {"epochs": config["epochs"] or "auto"})
    strategy = choose_strategy(now.strategy)
    examples = find_examples(fn_args)
    check_batch_size(now.batch_size, strategy.num_replicas_in_sync, examples.count)
    space = search_space(now, spec, strategy.num_replicas_in_sync, config["fixed"])
    objective = keras_tuner.Objective(JUDGED_BY, "min")
    oracle = _FromHere(objective=objective, max_trials=config["trials"], seed=now.seed, hyperparameters=space, allow_new_entries=False)

    def run_trial(trial: Trial) -> dict[str, float]:
        keras.backend.clear_session()
        parameters = now.model_copy(update=trial.hyperparameters.values)
        length = parameters.fit_length(examples.count)
        keras.utils.set_random_seed(parameters.seed)
        with strategy.scope():
            model = compiled_model(spec, parameters, length.steps)
        progress = Progress(length.epochs, parameters.patience, chooses=examples.choose)
        fit_to(examples, model, spec, parameters, length, strategy, 0, [progress])
        best = progress.history[progress.best_epoch - 1]
        values = ", ".join(f"{name} {value:.3g}" for name, value in trial.hyperparameters.values.items())
        print(
            f"trial {int(trial.trial_id) + 1}/{config['trials']}: {values}: best epoch {progress.best_epoch} of {length.epochs}, "
            f"eval cross-entropy {best[JUDGED_BY]:.4f}, eval full-sequence accuracy {best['val_sequence_accuracy']:.2%}",
            flush=True,
        )
        # KerasTuner cannot sort NaN, which results from a learning rate that is far too high.
        return {JUDGED_BY: math.inf if math.isnan(best[JUDGED_BY]) else best[JUDGED_BY]}

    return TunerFnResult(tuner=_Search(run_trial, oracle, config["search_dir"]), fit_kwargs={"verbose": 0})


def search_space(now: Hyperparameters, spec: CaptchaSpec, replicas: int, fixed: list[str]) -> keras_tuner.HyperParameters:
    """Returns the search space: the hyperparameters that matter most by docs/recipe.md, each with its current value as the default.

    Args:
      now: the current hyperparameters.
      spec: the image size, which limits the shift.
      replicas: the number of replicas that share a batch.
      fixed: the names of the hyperparameters that do not change.

    Raises:
      CaptchaPipelineError: every hyperparameter is fixed.
    """
    space = keras_tuner.HyperParameters()
    rate = now.learning_rate
    choices: dict[str, list[Any]] = {
        "batch_size": [size * replicas for size in (16, 32, 64, 128)],
        "label_smoothing": [0.0, 0.05, 0.1, 0.2],
        "shift": [shift for shift in (0, 1, 2, 4) if shift < min(spec.width, spec.height)],
    }
    if "learning_rate" not in fixed:
        space.Float("learning_rate", min(1e-3, rate), max(3e-2, rate), sampling="log", default=rate)
    for name, values in choices.items():
        if name not in fixed:
            value = getattr(now, name)
            space.Choice(name, sorted({*values, value}), default=value)
    if not space.space:
        raise CaptchaPipelineError(
            f"The configuration sets {', '.join(fixed)}: nothing is left to search for. Remove the settings that the search may choose."
        )
    return space


class _FromHere(keras_tuner.oracles.RandomSearchOracle):
    def populate_space(self, trial_id: str) -> dict[str, Any]:
        if not self.trials:
            return {"status": TrialStatus.RUNNING, "values": dict(self.hyperparameters.values)}
        return super().populate_space(trial_id)


class _Search(BaseTuner):
    """Runs trials with a function. Prints no summaries, because the command prints the results."""

    def __init__(self, function: Any, oracle: keras_tuner.Oracle, directory: str):
        self._function = function
        super().__init__(oracle, directory=directory, project_name="search")

    def run_trial(self, trial: Trial, **_: Any) -> dict[str, float]:
        return self._function(trial)

    def search_space_summary(self, extended: bool = False) -> None: ...

    def results_summary(self, num_trials: int = 10) -> None: ...
