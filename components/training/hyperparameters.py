"""The section `trainer` of the configuration. Does not import Keras, because some commands that read the configuration do not need it."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from components.base.section import Fraction, Section

# The default number of passes over a training split: 8 over 20,000 pictures, more over fewer. The number of steps grows with the number of
# pictures to the power of 0.4. docs/recipe.md has the measurements used to choose it.
_PASSES: Final = 8
_PASSES_OVER: Final = 20_000
_EXPONENT: Final = 0.6
_FEWEST_PASSES, _MOST_PASSES = 3, 400
# An epoch with fewer steps is not worth an evaluation and a checkpoint.
_EPOCH_STEPS: Final = 150


@dataclass(frozen=True)
class FitLength:
    """The length of a fit.

    Attributes:
      epochs: the number of epochs. After each, the eval split is read and a checkpoint is written.
      passes: the number of passes over the training split in each epoch.
      epoch_steps: the number of steps in each epoch.
    """

    epochs: int
    passes: int
    epoch_steps: int

    @property
    def steps(self) -> int:
        """The number of steps of the whole fit."""
        return self.epochs * self.epoch_steps


class WarmStart(Section):
    """The settings of a fit that starts from the production model, where they differ from those of a cold start."""

    epochs: int = Field(2, ge=1, description="passes over the training split")
    learning_rate: float | None = Field(None, gt=0, description="the highest rate of the schedule; null for trainer.learning_rate")


class Hyperparameters(Section):
    """The network and its training."""

    preset: Literal["vgg-slim", "vgg16-bn", "vgg-book"] = Field("vgg-slim", description="network: see docs/explanation/model-and-recipe.md")
    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = Field("auto", description="passes over the training split; auto: by its size")
    max_minutes: float | None = Field(None, gt=0, description="a fit that would take longer gets fewer epochs; null for no limit")
    batch_size: int = Field(32, ge=1, description="pictures per step, over all GPUs or machines together")
    learning_rate: float = Field(7e-3, gt=0, description="the highest rate of the schedule")
    warmup: Fraction = Field(0.1, description="the share of the fit during which the learning rate rises")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="the share of a label that is spread over all classes")
    shift: int = Field(2, ge=0, le=16, description="the largest shift of training pictures in each direction, in pixels")
    patience: int | None = Field(
        None, ge=1, description="epochs without a lower cross-entropy on eval before stopping; null, or fewer than 500 eval pictures: never"
    )
    precision: Literal["auto", "float32", "mixed_bfloat16"] = Field("auto", description="auto: bfloat16 where it is faster")
    strategy: Literal["auto", "cpu", "one_gpu", "mirrored", "multi_worker"] = Field(
        "auto",
        description="auto: every GPU of this machine, or the CPU; multi_worker: the machines of TF_CONFIG, "
        "see docs/how-to/gpus-and-machines.md",
    )
    seed: int = Field(1, ge=0, description="of the weights, the order of the pictures and the augmentations")
    warm_start: WarmStart | None = Field(None, description="start from the production model, with these settings; null: cold start")

    @property
    def epochs_parameter(self) -> int:
        """`epochs` as a parameter of a run, which must be a number: 0 for auto."""
        return 0 if self.epochs == "auto" else self.epochs

    @property
    def warm(self) -> "Hyperparameters":
        """The hyperparameters of a warm start."""
        return self.model_copy(update=self.warm_start.model_dump(exclude_none=True) if self.warm_start else {})

    def fit_length(self, count: int) -> FitLength:
        """Returns the length of a fit to `count` pictures.

        With a configured number of epochs, an epoch is one pass. With auto, an epoch over few pictures has several passes, so that it has
        enough steps to be worth an evaluation.
        """
        if self.epochs != "auto":
            return FitLength(self.epochs, 1, -(-count // self.batch_size))
        passes = _passes(count)
        an_epoch = min(round(passes), -(-_EPOCH_STEPS * self.batch_size // count))
        return FitLength(round(passes / an_epoch), an_epoch, -(-an_epoch * count // self.batch_size))


def repeats(labelled: int, drawn: int) -> int:
    """Returns how often each labelled picture occurs in a pass over labelled and drawn pictures, at least 1.

    A fit of automatic length then sees the labelled pictures about as often as it would without the drawn ones, however many these are.

    Args:
      labelled: the number of labelled pictures.
      drawn: the number of drawn pictures.
    """
    return max(1, round(_passes(labelled) / _passes(labelled + drawn))) if labelled and drawn else 1


def _passes(count: int) -> float:
    """Returns the number of passes over `count` pictures in a fit of automatic length."""
    return min(max(_PASSES * (_PASSES_OVER / count) ** _EXPONENT, _FEWEST_PASSES), _MOST_PASSES)
