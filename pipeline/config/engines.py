"""On which engine the Beam steps run: the section `beam` of the configuration, and the options of Beam that it stands for.

The steps themselves know of no engine. Profiles to start from are in configs/beam/; docs/scaling.md says which is for what.
"""

from typing import Any, Final, Literal, NamedTuple

from pydantic import Field, model_validator

from components.base.section import Section

# What may run on an engine of its own: the Beam steps of the graph, by their names there, and `data synth`.
GraphStep = Literal["CaptchaExampleGen", "StatisticsGen", "Transform", "CaptchaEvaluator"]
EngineStep = Literal["synth", GraphStep]
LOCAL: Final = "FnApiRunner"
FLINK: Final = "FlinkRunner"
PORTABLE: Final = "PortableRunner"
# Of worker_pool.py: where it listens, and what it says when it has imported what its workers need. It answers before.
POOL_PORT: Final = 50_000
POOL_READY: Final = "Python workers start at once."


class _Options(NamedTuple):
    """By which of its options a runner is told where its engine is, and how much of it to use; None where there is no such option."""

    endpoint: str | None
    parallelism: str | None


_RUNNERS: Final = {
    LOCAL: _Options(None, "direct_num_workers"),
    FLINK: _Options("flink_master", "parallelism"),
    "SparkRunner": _Options("spark_master_url", None),
    "DataflowRunner": _Options(None, "max_num_workers"),
    PORTABLE: _Options("job_endpoint", None),
}


class Environment(Section):
    """Where the engine's workers run Python. See Beam's page "SDK harness configuration"."""

    type: Literal["EXTERNAL", "DOCKER", "PROCESS", "LOOPBACK"]
    config: str | None = Field(None, description="EXTERNAL: HOST:PORT of the worker pool, as the workers see it; DOCKER: the image")


class Engine(Section):
    runner: str = Field(LOCAL, min_length=1, description="Beam's name of it; FnApiRunner is in memory, on this machine")
    endpoint: str | None = Field(None, min_length=1, description="HOST:PORT of the engine: Flink's REST, Spark's master, a job server")
    environment: Environment | None = Field(None, description="where Python runs; null for the engine's own choice")
    parallelism: int | None = Field(None, ge=1, description="how many workers; null for the engine's own choice, here one")
    args: tuple[str, ...] = Field((), description="further options of Beam, such as --region=europe-west4")

    @model_validator(mode="after")
    def _known(self) -> "Engine":
        options = _RUNNERS.get(self.runner, _Options(None, None))
        for key in ("endpoint", "parallelism"):
            if getattr(self, key) is not None and getattr(options, key) is None:
                raise ValueError(f"{self.runner} has no {key}; give its options in args")
        if options.endpoint and self.endpoint is None:
            raise ValueError(f"{self.runner} takes an endpoint, HOST:PORT")
        return self

    def beam_args(self, job: str = "") -> list[str]:
        """Returns Beam's command line, for a job that the engine lists under this name."""
        options = _RUNNERS.get(self.runner, _Options(None, None))
        args = [f"--runner={self.runner}"]
        if self.endpoint:
            args.append(f"--{options.endpoint}={self.endpoint}")
        if self.runner == LOCAL:
            args += _NO_PACKAGE
            if (self.parallelism or 1) > 1:
                args += ["--direct_running_mode=multi_processing", f"--{options.parallelism}={self.parallelism}"]
        elif self.parallelism:
            args.append(f"--{options.parallelism}={self.parallelism}")
        if self.environment:
            args.append(f"--environment_type={self.environment.type}")
            args += [f"--environment_config={self.environment.config}"] if self.environment.config else []
            args += _NO_PACKAGE
        if job and self.runner != LOCAL:
            args += [f"--job_name={job}", _NO_LIST]
        return [*args, *self.args]

    def __str__(self) -> str:
        return f"{self.runner} at {self.endpoint}" if self.endpoint else self.runner


# Unless told that the workers have an image, TFX packages itself for them at every step, which takes a second, and leaves the package
# in the temporary folder. Ours have all they need: they are this very environment, or have the project installed.
_NO_PACKAGE: Final = ["--sdk_container_image=none"]
# Of the packages that are installed here, which Beam would ask pip for at every job, in vain where there is none.
_NO_LIST: Final = "--experiments=disable_logging_submission_environment"


class BeamConfig(Engine):
    """The engine of all Beam steps, and those of steps that want another."""

    steps: dict[EngineStep, Engine] = Field({}, description="by step, what is otherwise; a runner of its own takes nothing over")

    @model_validator(mode="before")
    @classmethod
    def _take_over(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("steps"), dict):
            return values
        common = {key: value for key, value in values.items() if key != "steps"}
        merged = {
            step: changes if not isinstance(changes, dict) or "runner" in changes else common | changes
            for step, changes in values["steps"].items()
        }
        return values | {"steps": merged}

    def of(self, step: EngineStep) -> Engine:
        """Returns the engine of a step."""
        return self.steps.get(step) or Engine(**self.model_dump(exclude={"steps"}))
