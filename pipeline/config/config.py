"""The configuration: one typed, frozen tree. pipeline/config/loading.py reads it."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from components.base.files import pattern_characters
from components.base.section import Byte, Fraction, LocalPath, Section
from components.data.captcha_spec import CaptchaSpec
from components.data.pictures import PictureRules
from components.data.sources.painting import SynthConfig
from components.data.spans import Window, window
from components.evaluation.gate import Gate
from components.training.hyperparameters import Hyperparameters
from pipeline.config.engines import BeamConfig


class Splits(Section):
    """Relative sizes of the splits. A hash of its pixels decides a picture's split, so sizes are approximate. See docs/retraining.md."""

    train: int = Field(10, ge=1)
    eval: int = Field(1, ge=1)
    test: int = Field(1, ge=1)


class DataConfig(Section):
    root: LocalPath = Field("data", description="the folder that holds span-000001, span-000002, …")
    window: int | None = Field(None, ge=1, description="train on the newest N spans; null for all")
    half_life: float | None = Field(None, gt=0, description="of a span N spans older than the newest, train on half; null for all of each")
    exclude: tuple[int, ...] = Field((), description="numbers of spans that are not used")
    golden: int | None = Field(None, ge=1, description="the span whose test split judges every model, in the window or not")
    splits: Splits = Splits()
    max_bad_fraction: Fraction = Field(0.01, description="stop when more of the records of a span than this are not right")
    max_pixels: int = Field(4_000_000, ge=64, description="larger pictures are refused before they are decoded")
    wrong_size: Literal["resize", "refuse"] = Field("resize", description="what import and served model do with pictures of another size")
    background: tuple[Byte, Byte, Byte] = Field((255, 255, 255), description="RGB that shows through transparent pixels")

    @property
    def picture_rules(self) -> PictureRules:
        return PictureRules(max_pixels=self.max_pixels, background=self.background, wrong_size=self.wrong_size)

    def read_window(self) -> Window:
        """Returns the spans that a run would read now. Raises CaptchaPipelineError as `components.data.spans.window`."""
        return window(self.root, self.window, self.exclude, self.golden)


class PusherConfig(Section):
    serving_dir: LocalPath | None = Field(None, description="where versions are pushed; null for ROOT/serving/NAME")
    keep: int = Field(10, ge=2, description="versions that stay there; a push removes older ones")


class DriftConfig(Section):
    """From where on the newest span differs from the others of the window: distances of 0 to 1, null for never. See docs/retraining.md."""

    action: Literal["warn", "stop"] = Field("warn", description="stop: train nothing before someone has looked")
    brightness: Fraction | None = 0.05
    contrast: Fraction | None = 0.05
    sharpness: Fraction | None = 0.05
    size: Fraction | None = 0.1
    source: Fraction | None = 0.5
    characters: Fraction | None = 0.05
    positions: Fraction | None = 0.1

    @property
    def thresholds(self) -> dict[str, float | None]:
        """By measure, see components/data/drift.py."""
        return self.model_dump(exclude={"action"})


class RetrainingConfig(Section):
    """What is a reason for `retrain`, besides another configuration or code, and a run that was cut short."""

    every_span: bool = Field(True, description="a new span; else only one that has drifted, or that is read badly")
    min_sequence_accuracy: Fraction | None = Field(None, description="of the newest span, by the model in production: below is read badly")
    max_age: float | None = Field(None, gt=0, description="days since a model was last trained")


class GcConfig(Section):
    """What stays of old runs, besides what the versions in the serving folder were made from. See docs/retraining.md."""

    keep_runs: int = Field(5, ge=1, description="the newest runs whose artifacts, logs and reports stay")
    after_run: bool = Field(True, description="remove the rest at the end of each run; else `captcha-pipeline gc` alone does")


class Toleration(Section):
    """As in a Kubernetes pod."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class PodConfig(Section):
    """What a step's pod asks Kubernetes for."""

    cpu: float | None = Field(None, gt=0, description="cores; null for the cluster's default")
    memory: float | None = Field(None, gt=0, description="10^9 bytes; null for the cluster's default")
    gpus: int = Field(0, ge=0)
    gpu: str = Field("nvidia.com/gpu", min_length=1, description="the name by which the cluster's device plugin offers them")
    node_selector: dict[str, str] = Field({}, description="labels that the node must have")
    tolerations: tuple[Toleration, ...] = Field((), description="taints of nodes that the pod may run on all the same")


def _no_pattern(path: str | None) -> str | None:
    """TFX and Beam would look for the artifacts under it in vain."""
    if path and (found := pattern_characters(path)):
        raise ValueError(f"TFX takes {' '.join(found)} in a path for a pattern: name a folder without")
    return path


class KubeflowConfig(Section):
    """How the steps run on Kubeflow Pipelines."""

    image: str | None = Field(None, min_length=1, description="of this project, as the cluster pulls it")
    root: str | None = Field(None, pattern=r"^(s3|gs|minio)://[^/]+", description="where artifacts go, such as s3://bucket/folder")
    volumes: dict[str, str] = Field({}, description="by mount path, the PersistentVolumeClaim; data.root and root are paths in them")
    retries: int = Field(2, ge=0, description="of a step that failed")
    steps: PodConfig = PodConfig()
    trainer: PodConfig = PodConfig()

    _root_is_no_pattern = field_validator("root")(_no_pattern)


class Config(Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="the pipeline's name (lower case, digits, dashes)")
    root: LocalPath = Field("output", description="where artifacts, metadata, reports and served models go")
    captcha: CaptchaSpec = CaptchaSpec()
    data: DataConfig = DataConfig()
    synth: SynthConfig = SynthConfig()
    drift: DriftConfig = DriftConfig()
    trainer: Hyperparameters = Hyperparameters()
    evaluator: Gate = Gate()
    pusher: PusherConfig = PusherConfig()
    retraining: RetrainingConfig = RetrainingConfig()
    gc: GcConfig = GcConfig()
    beam: BeamConfig = BeamConfig()
    kubeflow: KubeflowConfig = KubeflowConfig()

    @model_validator(mode="after")
    def _shift_within_the_picture(self) -> "Config":
        most, shift = min(self.captcha.width, self.captcha.height), self.trainer.shift
        if shift > most:  # what moves in is the picture, mirrored once: see components.training.batches.random_shift
            size = f"{self.captcha.width} x {self.captcha.height}"
            raise ValueError(f"trainer.shift is {shift} pixels; pictures of {size} can be moved by {most} at most")
        return self

    @model_validator(mode="after")
    def _pictures_within_the_limit(self) -> "Config":
        pixels = self.captcha.width * self.captcha.height
        if pixels > self.data.max_pixels:
            size = f"{self.captcha.width} x {self.captcha.height}"
            raise ValueError(f"data.max_pixels is {self.data.max_pixels}; a picture of captcha's {size} has {pixels}, and would be refused")
        return self

    @model_validator(mode="after")
    def _drawn_pictures_are_taken(self) -> "Config":
        free, spec = self.synth.free, self.captcha
        if free and self.data.wrong_size == "refuse" and not free.has_one_size(spec.width, spec.height):
            size = f"{spec.width} x {spec.height}"
            raise ValueError(f"synth.free draws other sizes than captcha's {size}, which data.wrong_size=refuse refuses: set it to resize")
        return self

    _root_is_no_pattern = field_validator("root")(_no_pattern)

    @property
    def pipeline_root(self) -> str:
        """Where TFX keeps the artifacts of every run."""
        return str(Path(self.root) / self.name / "artifacts")

    @property
    def metadata_path(self) -> str:
        """The SQLite file of ML Metadata."""
        return str(Path(self.root) / self.name / "metadata.sqlite")

    @property
    def run_lock(self) -> str:
        """Held by the one process that may change what is in the pipeline's folder."""
        return str(Path(self.root) / self.name / "run.lock")

    @property
    def checkpoint_dir(self) -> str:
        """Where a fit leaves what it needs to go on after a kill."""
        return str(Path(self.root) / self.name / "checkpoints")

    @property
    def log_dir(self) -> str:
        """TensorBoard's `--logdir`: a folder for each model that is fitted, by its fingerprint."""
        return str(Path(self.root) / self.name / "logs")

    @property
    def tuned_path(self) -> str:
        """What `tune` found: a `trainer` section, for every key of it that the configuration does not set."""
        return str(Path(self.root) / self.name / "tuned.yaml")

    @property
    def search_dir(self) -> str:
        """Where searches for hyperparameters leave what they need to go on after a kill."""
        return str(Path(self.root) / self.name / "searches")

    @property
    def engine_log(self) -> str:
        """What an engine said that cannot do the work of a run."""
        return str(Path(self.root) / self.name / "engine.log")

    @property
    def quarantine_dir(self) -> str:
        """Where the records of a run that stopped at too many bad ones are kept."""
        return str(Path(self.root) / self.name / "quarantine")

    @property
    def report_dir(self) -> str:
        return str(Path(self.root) / self.name / "reports")

    @property
    def serving_dir(self) -> str:
        """TensorFlow Serving's base path: one numbered folder a version."""
        return self.pusher.serving_dir or str(Path(self.root) / self.name / "serving" / self.name)
