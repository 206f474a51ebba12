"""The section `server` of the configuration."""

from typing import Final

from pydantic import Field, model_validator

from components.base.section import Fraction, LocalPath, Section

_MIB: Final = 2**20


class PredictionLogConfig(Section):
    """Stores a share of the pictures and their readings, in folders that `data ingest` can read."""

    folder: LocalPath | None = Field(None, description="folder of the log; null for no log")
    share: Fraction = Field(0.01, description="share of the pictures that are stored, 0 to 1")
    max_mib: int = Field(1000, ge=1, description="size limit in MiB; the oldest pictures are removed")

    @property
    def max_bytes(self) -> int:
        """`max_mib` in bytes."""
        return self.max_mib * _MIB


class LiveDriftConfig(Section):
    """Compares the pictures that a server reads with those that its model was trained on.

    See docs/explanation/live-drift.md.
    """

    watch: bool = Field(True, description="watch for drift; takes at most 2 % of the time of a core")
    webhook: str | None = Field(
        None,
        pattern=r"^https?://",
        description="URL to which alarms are posted as JSON; null for none",
    )


class ServerConfig(Section):
    """How `captcha-pipeline serve` answers requests. See docs/how-to/serving.md."""

    name: str | None = Field(None, pattern=r"^[^/:]+$", description="name of the model in requests; null for the pipeline's name")
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 for all networks of this machine")
    port: int = Field(8501, ge=0, le=65535, description="TCP port; 0 for any free port")
    workers: int = Field(1, ge=1, le=64, description="processes that share the port; each loads the model")
    batch_size: int = Field(64, ge=1, description="largest number of pictures that the model reads together")
    batch_wait_ms: float = Field(
        2, ge=0, le=1000, description="longest time that a batch waits for further pictures under load, in milliseconds"
    )
    queue: int = Field(
        512,
        ge=1,
        description="most pictures that may wait; further requests get status 429, longer ones 413",
    )
    connections: int = Field(1000, ge=1, description="largest number of open connections; further requests get status 503")
    max_body_mib: float = Field(16, gt=0, description="largest body of a request, in MiB")
    max_bodies_mib: float = Field(256, gt=0, description="largest sum of the bodies of all open requests, in MiB; then status 503")
    body_seconds: float = Field(10, gt=0, description="time for a client to send the head of a request, and then its body, in seconds")
    drain_seconds: int = Field(30, ge=0, description="time to answer open requests after SIGTERM, in seconds")
    poll_seconds: float = Field(2, gt=0, description="how often to look for new versions in the serving folder, in seconds")
    labels: dict[str, int] = Field({}, description="versions that stay loaded, by label, such as {stable: 1795906067}")
    access_log: bool = Field(True, description="print a line of JSON for each request")
    drift: LiveDriftConfig = Field(LiveDriftConfig(), description="drift of the pictures that are read")
    log: PredictionLogConfig = Field(PredictionLogConfig(), description="log of pictures and their readings")

    @property
    def max_body_bytes(self) -> int:
        """`max_body_mib` in bytes."""
        return int(self.max_body_mib * _MIB)

    @property
    def max_bodies_bytes(self) -> int:
        """`max_bodies_mib` in bytes."""
        return int(self.max_bodies_mib * _MIB)

    @model_validator(mode="after")
    def _one_body_fits(self) -> "ServerConfig":
        if self.max_body_mib > self.max_bodies_mib:
            raise ValueError(f"server.max_bodies_mib is {self.max_bodies_mib:g}; it must be at least max_body_mib, {self.max_body_mib:g}")
        return self
