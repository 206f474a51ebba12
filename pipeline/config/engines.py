"""The section `beam` of the configuration: the engine of the Beam steps, and its translation to Beam's options.

The steps themselves do not depend on an engine. configs/beam/ has example profiles; docs/how-to/beam-engines.md says when to use them.
"""

from typing import Any, Final, Literal, NamedTuple

from pydantic import Field, model_validator

from components.base.section import Section

# Steps that can have their own engine: the Beam steps of the graph, by their node names, and `data synth`.
GraphStep = Literal["CaptchaExampleGen", "StatisticsGen", "Transform", "CaptchaEvaluator"]
EngineStep = Literal["synth", GraphStep]
LOCAL: Final = "FnApiRunner"
FLINK: Final = "FlinkRunner"
PORTABLE: Final = "PortableRunner"
# The port of worker_pool.py, and the line it prints when the imports of its workers are done. It accepts connections before that.
POOL_PORT: Final = 50_000
POOL_READY: Final = "Python workers start at once."


class _Options(NamedTuple):
    """The names of a runner's Beam options for the engine's address and for the number of workers; None if there is no such option."""

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

    type: Literal["EXTERNAL", "DOCKER", "PROCESS", "LOOPBACK"] = Field(description="Beam's environment_type")
    config: str | None = Field(
        None, description="Beam's environment_config: HOST:PORT of the worker pool, as the workers see it (EXTERNAL), or the image (DOCKER)"
    )


class Engine(Section):
    """An engine that runs Beam steps."""

    runner: str = Field(LOCAL, min_length=1, description="Beam's name of the runner; FnApiRunner runs in memory on this machine")
    endpoint: str | None = Field(
        None, min_length=1, description="HOST:PORT of the engine: Flink's REST API, Spark's master, or a Beam job server"
    )
    environment: Environment | None = Field(None, description="where workers run Python; null for the engine's default")
    parallelism: int | None = Field(
        None, ge=1, description="number of workers; null for the engine's default, which is one worker for FnApiRunner"
    )
    args: tuple[str, ...] = Field((), description="more Beam options, such as --region=europe-west4")

    @model_validator(mode="after")
    def _known(self) -> "Engine":
        options = _RUNNERS.get(self.runner, _Options(None, None))
        for key in ("endpoint", "parallelism"):
            if getattr(self, key) is not None and getattr(options, key) is None:
                raise ValueError(f"{self.runner} has no {key}; set its Beam options in args")
        if options.endpoint and self.endpoint is None:
            raise ValueError(f"{self.runner} needs an endpoint; set it to HOST:PORT of the engine")
        return self

    def beam_args(self, job: str = "") -> list[str]:
        """Returns Beam's command-line options. The engine lists the job under the name `job`; "" for no name."""
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


# Without this option, TFX packages itself for the workers in every step, which takes a second and leaves the package in the temporary
# folder. The workers do not need it: they use this environment, or have the project installed.
_NO_PACKAGE: Final = ["--sdk_container_image=none"]
# Without this option, Beam asks pip for the list of installed packages in every job, which fails if there is no pip.
_NO_LIST: Final = "--experiments=disable_logging_submission_environment"


class BeamConfig(Engine):
    """The engine of all Beam steps, and the exceptions of single steps."""

    steps: dict[EngineStep, Engine] = Field(
        {}, description="settings that differ for single steps, by step; a step that sets its own runner inherits no other setting"
    )

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
