"""The configuration: one typed, frozen tree. pipeline/config/loading.py reads it from a file."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, field_validator, model_validator

from components.base.files import pattern_characters
from components.base.section import Byte, Fraction, LocalPath, Section
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.painting import SynthConfig
from components.data.pictures import PictureRules
from components.data.window import Window, window
from components.evaluation.gate import Gate
from components.training.hyperparameters import Hyperparameters
from pipeline.config.engines import BeamConfig
from pipeline.config.server import ServerConfig


class Splits(Section):
    """Relative sizes of the splits. A hash of a picture's pixels decides its split, so sizes are approximate.

    See docs/explanation/data.md.
    """

    train: int = Field(10, ge=1, description="relative size of the split that models are trained on")
    eval: int = Field(
        1, ge=1, description="relative size of the split that calibrates confidences, and chooses the best epoch if it is large"
    )
    test: int = Field(1, ge=1, description="relative size of the split that judges models")


class DataConfig(Section):
    """The labelled pictures: where they are, which spans are used, and which pictures are valid."""

    root: LocalPath = Field("data", description="folder of the spans span-000001, span-000002, …")
    window: int | None = Field(
        None, ge=1, description="number of newest spans; null: all; corrections, pseudo-labels and drawn beside labelled ones do not count"
    )
    half_life: float | None = Field(
        None, gt=0, description="a span this many spans older than the newest gives half of its training pictures; null for all pictures"
    )
    exclude: tuple[int, ...] = Field((), description="numbers of spans to leave out")
    golden: int | None = Field(
        None, ge=1, description="number of the span whose test split judges every model, even outside the window; null for no golden set"
    )
    splits: Splits = Field(Splits(), description="relative sizes of the splits")
    max_bad_fraction: Fraction = Field(0.01, description="a run stops if a span has a larger share of invalid records than this")
    max_pixels: int = Field(4_000_000, ge=64, description="pictures with more pixels are refused before they are decoded")
    wrong_size: Literal["resize", "refuse"] = Field(
        "resize", description="how a run and the served model treat pictures that do not have the size of the section captcha"
    )
    background: tuple[Byte, Byte, Byte] = Field((255, 255, 255), description="RGB colour shown through transparent pixels, 0 to 255 each")

    @property
    def picture_rules(self) -> PictureRules:
        """The rules by which pictures are accepted and decoded."""
        return PictureRules(max_pixels=self.max_pixels, background=self.background, wrong_size=self.wrong_size)

    @property
    def unused(self) -> tuple[int, ...]:
        """The numbers of the spans that no run reads. The golden span judges models even if it is excluded."""
        return tuple(number for number in self.exclude if number != self.golden)

    def read_window(self) -> Window:
        """Returns the spans that a run would read now. Raises CaptchaPipelineError as `components.data.window.window`."""
        return window(self.root, self.window, self.exclude, self.golden)


class PusherConfig(Section):
    """Where blessed models are pushed."""

    serving_dir: LocalPath | None = Field(None, description="folder for pushed versions; null for ROOT/NAME/serving/NAME")
    keep: int = Field(10, ge=2, description="number of newest versions to keep in the serving folder; a push removes older versions")


class DriftConfig(Section):
    """Limits for the distance of the newest span from the other spans of the window, 0 to 1; null for no limit.

    See docs/how-to/retraining.md.
    """

    action: Literal["warn", "stop"] = Field("warn", description="reaction to drift; stop ends the run before training")
    brightness: Fraction | None = Field(0.05, description="limit for the Jensen-Shannon divergence of brightness")
    contrast: Fraction | None = Field(0.05, description="limit for the Jensen-Shannon divergence of contrast")
    sharpness: Fraction | None = Field(0.05, description="limit for the Jensen-Shannon divergence of sharpness")
    size: Fraction | None = Field(0.1, description="limit for the largest difference in the share of a picture size")
    source: Fraction | None = Field(0.5, description="limit for the largest difference in the share of a source")
    characters: Fraction | None = Field(0.05, description="limit for the largest difference in the share of a character")
    positions: Fraction | None = Field(0.1, description="limit for the largest difference in the share of a character at one position")

    @property
    def thresholds(self) -> dict[str, float | None]:
        """Thresholds by measure, as in components/data/drift.py; None for no limit."""
        return self.model_dump(exclude={"action"})


class RetrainingConfig(Section):
    """Reasons for `retrain` to start a run. A changed configuration, changed code and an interrupted run are always reasons."""

    every_span: bool = Field(
        True, description="every new span is a reason; with false, only a span that has drifted or that the production model reads badly"
    )
    min_sequence_accuracy: Fraction | None = Field(
        None, description="lowest full-sequence accuracy of the production model on the newest span, 0 to 1; null for no limit"
    )
    max_age: float | None = Field(None, gt=0, description="highest age of the last trained model in days; null for no limit")


class GcConfig(Section):
    """Removal of output of old runs. Runs whose version is in the serving folder are always kept.

    See docs/how-to/retraining.md.
    """

    keep_runs: int = Field(5, ge=1, description="number of newest runs whose artifacts, logs and reports are kept")
    after_run: bool = Field(True, description="remove old output at the end of each run; with false, only `captcha-pipeline gc` removes it")


class Toleration(Section):
    """A toleration of a Kubernetes pod, with the fields of Kubernetes."""

    key: str | None = Field(None, description="key of the taint; null, with the operator Exists, for all keys")
    operator: Literal["Equal", "Exists"] = Field("Equal", description="how the taint's value is compared")
    value: str | None = Field(None, description="value of the taint, for Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="effect of the taint; null for all effects"
    )


class PodConfig(Section):
    """The resources that a step's pod requests from Kubernetes."""

    cpu: float | None = Field(None, gt=0, description="number of cores; null for the cluster's default")
    memory: float | None = Field(None, gt=0, description="memory in 10^9 bytes; null for the cluster's default")
    shared_memory: float | None = Field(
        None,
        gt=0,
        description="size of /dev/shm in 10^9 bytes, part of `memory`; several GPUs exchange data there; null for 64 MiB",
    )
    gpus: int = Field(0, ge=0, description="number of GPUs")
    gpu: str = Field("nvidia.com/gpu", min_length=1, description="resource name of the GPUs in the cluster's device plugin")
    node_selector: dict[str, str] = Field({}, description="labels that the node must have")
    tolerations: tuple[Toleration, ...] = Field((), description="tolerations for tainted nodes")


def _no_pattern(path: str | None) -> str | None:
    """Refuses pattern characters in a path, because TFX and Beam would not find the artifacts under it. Raises ValueError."""
    if path and (found := pattern_characters(path)):
        raise ValueError(f"TFX reads {' '.join(found)} in a path as a pattern; choose a folder without these characters")
    return path


class KubeflowConfig(Section):
    """How the steps run on Kubeflow Pipelines."""

    image: str | None = Field(None, min_length=1, description="image of this project that the cluster pulls")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="when a node pulls the image; null for the cluster's default"
    )
    image_pull_secrets: tuple[str, ...] = Field((), description="names of the secrets with the credentials of the registry")
    user: int = Field(10001, ge=1, description="numeric user and group of the pods; must be able to write to the volumes")
    root: str | None = Field(None, pattern=r"^(s3|gs|minio)://[^/]+", description="URL for artifacts, such as s3://bucket/folder")
    volumes: dict[str, str] = Field(
        {}, description="PersistentVolumeClaims by mount path; root and data.root must be paths under these mounts"
    )
    retries: int = Field(2, ge=0, description="number of retries of a failed step")
    steps: PodConfig = Field(PodConfig(), description="resources of the pods of all steps except the Trainer")
    trainer: PodConfig = Field(PodConfig(), description="resources of the Trainer's pod")

    _root_is_no_pattern = field_validator("root")(_no_pattern)


class Config(Section):
    """The configuration of a pipeline. Its output is in ROOT/NAME, from the keys `root` and `name`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="name of the pipeline: lower-case letters, digits and dashes")
    root: LocalPath = Field("output", description="folder for artifacts, metadata, reports and served models")
    captcha: CaptchaSpec = Field(CaptchaSpec(), description="the texts and pictures that the model reads")
    data: DataConfig = Field(DataConfig(), description="the labelled pictures, and the spans that are used")
    synth: SynthConfig = Field(SynthConfig(), description="how `data synth` draws pictures")
    drift: DriftConfig = Field(DriftConfig(), description="limits for the distance of the newest span from the other spans")
    trainer: Hyperparameters = Field(Hyperparameters(), description="how the model is trained")
    evaluator: Gate = Field(Gate(), description="conditions that a model must meet to be pushed")
    pusher: PusherConfig = Field(PusherConfig(), description="where blessed models are pushed")
    server: ServerConfig = Field(ServerConfig(), description="how `serve` answers requests")
    retraining: RetrainingConfig = Field(RetrainingConfig(), description="reasons for `retrain` to start a run")
    gc: GcConfig = Field(GcConfig(), description="removal of output of old runs")
    beam: BeamConfig = Field(BeamConfig(), description="engine of the Beam steps")
    kubeflow: KubeflowConfig = Field(KubeflowConfig(), description="how the steps run on Kubeflow Pipelines")

    @model_validator(mode="after")
    def _shift_within_the_picture(self) -> "Config":
        most, shift = min(self.captcha.width, self.captcha.height), self.trainer.shift
        if shift > most:  # a shift fills the border with the picture, mirrored once
            size = f"{self.captcha.width} x {self.captcha.height}"
            raise ValueError(f"trainer.shift is {shift} pixels; pictures of {size} can be shifted by at most {most} pixels")
        return self

    @model_validator(mode="after")
    def _pictures_within_the_limit(self) -> "Config":
        pixels = self.captcha.width * self.captcha.height
        if pixels > self.data.max_pixels:
            size = f"{self.captcha.width} x {self.captcha.height}"
            raise ValueError(
                f"data.max_pixels is {self.data.max_pixels}, which refuses pictures of captcha's size {size}; set it to {pixels} or more"
            )
        return self

    @model_validator(mode="after")
    def _drawn_pictures_are_taken(self) -> "Config":
        own, spec = self.synth.free or self.synth.style, self.captcha
        if own and self.data.wrong_size == "refuse" and not own.has_one_size(spec.width, spec.height):
            size = f"{spec.width} x {spec.height}"
            raise ValueError(
                f"synth.{self.synth.own_style} draws sizes other than captcha's {size}, which data.wrong_size=refuse refuses; "
                "set data.wrong_size to resize"
            )
        return self

    _root_is_no_pattern = field_validator("root")(_no_pattern)

    def as_yaml(self) -> str:
        """Returns the configuration as YAML, with every default."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))

    @property
    def pipeline_root(self) -> str:
        """The folder of the artifacts of all runs."""
        return str(Path(self.root) / self.name / "artifacts")

    @property
    def metadata_path(self) -> str:
        """The SQLite file of ML Metadata."""
        return str(Path(self.root) / self.name / "metadata.sqlite")

    @property
    def run_lock(self) -> str:
        """The lock file of the one process that may change the pipeline's folder."""
        return str(Path(self.root) / self.name / "run.lock")

    @property
    def checkpoint_dir(self) -> str:
        """The folder of checkpoints, from which an interrupted fit resumes."""
        return str(Path(self.root) / self.name / "checkpoints")

    @property
    def log_dir(self) -> str:
        """TensorBoard's `--logdir`. It has a folder for each trained model, named after the model's fingerprint."""
        return str(Path(self.root) / self.name / "logs")

    @property
    def tuned_path(self) -> str:
        """The result of `tune`: a file with a `trainer` section. Its values apply to keys that the configuration does not set."""
        return str(Path(self.root) / self.name / "tuned.yaml")

    @property
    def search_dir(self) -> str:
        """The folder from which interrupted searches for hyperparameters resume."""
        return str(Path(self.root) / self.name / "searches")

    @property
    def exports_dir(self) -> str:
        """The folder of exports: one folder per version, with one folder per format."""
        return str(Path(self.root) / self.name / "exports")

    @property
    def engine_log(self) -> str:
        """The file with the output of a Beam engine that failed its trial job before a run."""
        return str(Path(self.root) / self.name / "engine.log")

    @property
    def quarantine_dir(self) -> str:
        """The folder of quarantined records of a run that stopped because of too many invalid records."""
        return str(Path(self.root) / self.name / "quarantine")

    @property
    def audit_dir(self) -> str:
        """The folder of the latest audit: its page, and the labels that are probably wrong."""
        return str(Path(self.root) / self.name / "audit")

    @property
    def strength_dir(self) -> str:
        """The folder of the page that `strength` writes."""
        return str(Path(self.root) / self.name / "strength")

    @property
    def report_dir(self) -> str:
        """The folder of the reports and the trend page."""
        return str(Path(self.root) / self.name / "reports")

    @property
    def serving_dir(self) -> str:
        """TensorFlow Serving's base path: one numbered folder per version."""
        return self.pusher.serving_dir or str(Path(self.root) / self.name / "serving" / self.name)

    @property
    def served_name(self) -> str:
        """The name of the model in requests to `serve`."""
        return self.server.name or self.name
