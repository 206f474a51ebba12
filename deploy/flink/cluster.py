"""A Flink session cluster on this machine, to try the Beam steps: a JobManager, TaskManagers and a pool of Python workers.

    make flink-up        # downloads Flink and Beam's job server, then: python -m deploy.flink.cluster up DISTRIBUTION RELEASE FOLDER
    make flink-down

Everything listens on loopback. If a TaskManager dies, its tasks start again on the remaining TaskManagers.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from deploy.flink.job_server import job_server as get_job_server
from pipeline.config.engines import POOL_PORT, POOL_READY

REST: Final = "127.0.0.1:8081"
SLOTS: Final = 2  # per TaskManager
_JOB_MANAGER: Final = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER: Final = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
# The class that Flink's own scripts ask for the memory sizes of the JVM.
_RESOURCES: Final = "org.apache.flink.runtime.util.bash.BashJavaUtils"
_RESULT: Final = "BASH_JAVA_UTILS_EXEC_RESULT:"
_RUNNER_JAR: Final = "beam-runner.jar"
_FLINK_HAS: Final = (
    "org/apache/flink/",
    "org/slf4j/",
    "org/apache/commons/",
    "META-INF/services/org.apache.flink",
    "META-INF/services/org.apache.commons",
)
_START_SECONDS: Final = 120
_END_SECONDS: Final = 15

# As in Flink's default configuration, for Java 17.
_EXPORTS: Final = (
    "java.base/sun.net.util",
    "java.rmi/sun.rmi.registry",
    "jdk.compiler/com.sun.tools.javac.api",
    "jdk.compiler/com.sun.tools.javac.file",
    "jdk.compiler/com.sun.tools.javac.parser",
    "jdk.compiler/com.sun.tools.javac.tree",
    "jdk.compiler/com.sun.tools.javac.util",
    "java.security.jgss/sun.security.krb5",
)
_OPENS: Final = (
    "java.base/java.lang",
    "java.base/java.net",
    "java.base/java.io",
    "java.base/java.nio",
    "java.base/sun.nio.ch",
    "java.base/java.lang.reflect",
    "java.base/java.text",
    "java.base/java.time",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/java.util.concurrent.locks",
)
_SETTINGS: Final = {
    "jobmanager.rpc.address": "127.0.0.1",
    "jobmanager.rpc.port": "6123",
    "jobmanager.bind-host": "127.0.0.1",
    "jobmanager.memory.process.size": "1600m",
    "jobmanager.memory.jvm-metaspace.size": "512m",
    "rest.address": REST.partition(":")[0],
    "rest.bind-address": "127.0.0.1",
    "rest.port": REST.partition(":")[2],
    "taskmanager.host": "127.0.0.1",
    "taskmanager.bind-host": "127.0.0.1",
    "taskmanager.numberOfTaskSlots": str(SLOTS),
    "taskmanager.memory.process.size": "4608m",
    "taskmanager.memory.managed.size": "512m",
    # The data to and from the Python workers passes through this memory.
    "taskmanager.memory.task.off-heap.size": "1024m",
    "taskmanager.memory.jvm-metaspace.size": "768m",
    # Enough for the shuffles of Beam's steps, of which about a hundred may be open at once.
    "taskmanager.network.sort-shuffle.min-buffers": "64",
    "taskmanager.memory.network.min": "512m",
    "taskmanager.memory.network.max": "512m",
    "cluster.evenly-spread-out-slots": "true",
    # The runner's classes are on Flink's own class path, see _write_runner_classes.
    "classloader.resolve-order": "parent-first",
    "heartbeat.interval": "2000",
    "heartbeat.timeout": "10000",
    "restart-strategy": "fixed-delay",
    # Each part of a job that loses a task counts as one attempt.
    "restart-strategy.fixed-delay.attempts": "10",
    "restart-strategy.fixed-delay.delay": "2 s",
}
_LOGGING: Final = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c %m%n
"""


@dataclass(frozen=True)
class Cluster:
    """A Flink session cluster on this machine.

    Attributes:
      distribution: the folder with Flink's bin/ and lib/.
      job_server: Beam's jar.
      folder: the folder for the files of the cluster.
    """

    distribution: Path
    job_server: Path
    folder: Path

    def up(self, task_managers: int = 2) -> None:
        """Starts everything, and waits until the TaskManagers have registered and the pool is ready. Earlier logs are removed.

        Raises:
          SystemExit: the cluster already runs, or did not start within two minutes. The message names the folder of the logs.
        """
        if _processes(self.folder):
            raise SystemExit(f"A cluster already runs in {self.folder}. End it with `make flink-down`.")
        shutil.rmtree(self.folder / "log", ignore_errors=True)
        for name in ("conf", "log", "pids", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        settings = _SETTINGS | {"io.tmp.dirs": str(self.folder / "tmp")}
        # Flink 2 reads only the second file, as YAML, and this text is valid YAML.
        for name in ("flink-conf.yaml", "config.yaml"):
            (self.folder / "conf" / name).write_text("".join(f"{key}: {value}\n" for key, value in settings.items()), encoding="utf-8")
        (self.folder / "conf" / "log4j.properties").write_text(_LOGGING, encoding="utf-8")
        self._write_runner_classes()
        self._start("pool", [sys.executable, "-m", "pipeline.runners.beam.worker_pool"])
        self._start_java("job-manager", _JOB_MANAGER, "GET_JM_RESOURCE_PARAMS", ["--executionMode", "cluster"])
        for number in range(1, task_managers + 1):
            self.start_task_manager(number)
        self.wait_for(task_managers)

    def beam(self, parallelism: int) -> dict[str, Any]:
        """Returns the section `beam` of a configuration for this cluster."""
        return {
            "runner": "FlinkRunner",
            "endpoint": REST,
            "environment": {"type": "EXTERNAL", "config": f"localhost:{POOL_PORT}"},
            "parallelism": parallelism,
            "args": [f"--flink_job_server_jar={self.job_server}", "--environment_cache_millis=30000"],
        }

    def start_task_manager(self, number: int) -> None:
        """Starts the TaskManager with this number, counted from 1."""
        self._start_java(f"task-manager-{number}", _TASK_MANAGER, "GET_TM_RESOURCE_PARAMS", [])

    def kill(self, name: str) -> None:
        """Kills a process of the cluster with SIGKILL: pool, job-manager, task-manager-1, …"""
        file = self.folder / "pids" / name
        os.kill(int(file.read_text(encoding="utf-8")), signal.SIGKILL)
        file.unlink()

    def wait_for(self, task_managers: int) -> None:
        """Waits until this number of TaskManagers have registered and the pool is ready.

        Raises:
          SystemExit: that took more than two minutes.
        """
        pool = self.folder / "log" / "pool.log"
        limit = time.monotonic() + _START_SECONDS
        while time.monotonic() < limit:
            with contextlib.suppress(OSError):
                if POOL_READY in pool.read_text(errors="replace") and ask("/overview")["taskmanagers"] == task_managers:
                    return
            time.sleep(0.5)
        raise SystemExit(f"The cluster did not start within {_START_SECONDS} seconds. See the logs in {self.folder / 'log'}.")

    def _start_java(self, name: str, main: str, sizes: str, arguments: list[str]) -> None:
        jars = sorted((self.distribution / "lib").glob("*.jar"))
        path = ":".join(map(str, [*jars, *(self.distribution / "bin").glob("*.jar"), self.folder / _RUNNER_JAR]))
        logging = f"-Dlog4j.configurationFile=file:{self.folder}/conf/log4j.properties"
        opened = [f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTS] + [f"--add-opens={name}=ALL-UNNAMED" for name in _OPENS]
        where = ["--configDir", str(self.folder / "conf")]
        asked = subprocess.run(["java", logging, "-cp", path, _RESOURCES, sizes, *where], capture_output=True, text=True, check=True)
        jvm, flink = [line.removeprefix(_RESULT).split() for line in asked.stdout.splitlines() if line.startswith(_RESULT)]
        temporary = f"-Djava.io.tmpdir={self.folder}/tmp"
        self._start(name, ["java", *jvm, *opened, logging, temporary, "-cp", path, main, *where, *arguments, *flink])

    def _write_runner_classes(self) -> None:
        """Copies the job server's classes, except Flink's, to a jar for Flink's own class path.

        If each job loaded these classes, they would be in memory once per job, and the Python workers would start again for each stage.
        """
        with zipfile.ZipFile(self.job_server) as source, zipfile.ZipFile(self.folder / _RUNNER_JAR, "w") as target:
            for name in source.namelist():
                if not name.startswith(_FLINK_HAS):
                    target.writestr(name, source.read(name))

    def _start(self, name: str, command: list[str]) -> None:
        environment = os.environ | {"FLINK_CONF_DIR": str(self.folder / "conf"), "FLINK_LIB_DIR": str(self.distribution / "lib")}
        with (self.folder / "log" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
        (self.folder / "pids" / name).write_text(str(process.pid), encoding="utf-8")


def end(folder: Path) -> None:
    """Ends the processes of the cluster in a folder, and removes its temporary files."""
    for file, pid in _processes(folder):
        _end(pid)
        file.unlink()
    shutil.rmtree(folder / "tmp", ignore_errors=True)


def _processes(folder: Path) -> list[tuple[Path, int]]:
    """Returns the ID file and the ID of each live process of a cluster, the TaskManagers first.

    A process counts only if its environment names the folder, because its ID may have been reused by another process.
    """
    found = [(file, int(file.read_text(encoding="utf-8"))) for file in sorted((folder / "pids").glob("*"), reverse=True)]
    mine = str(folder).encode()
    return [(file, pid) for file, pid in found if mine in _read(f"/proc/{pid}/environ")]


def ask(path: str) -> Any:
    """Returns the answer of Flink's REST API, from JSON.

    Raises:
      OSError: nothing answers.
    """
    with urllib.request.urlopen(f"http://{REST}{path}", timeout=10) as answer:
        return json.loads(answer.read())


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        limit = time.monotonic() + _END_SECONDS
        while time.monotonic() < limit and b"State:\tZ" not in _read(f"/proc/{pid}/status"):
            os.kill(pid, 0)
            time.sleep(0.2)
        os.kill(pid, signal.SIGKILL)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


app = typer.Typer(help=__doc__)
FolderArgument = Annotated[Path, typer.Argument(help="The folder for its configuration, logs and temporary files.", resolve_path=True)]


DistributionArgument = Annotated[Path, typer.Argument(help="The folder with Flink's lib/.", resolve_path=True)]
ReleaseArgument = Annotated[str, typer.Argument(help="The release of that Flink, such as 1.20.")]
JobServerOption = Annotated[Path | None, typer.Option(help="Beam's jar for this Flink; from Maven if not given.", resolve_path=True)]


@app.command()
def up(distribution: DistributionArgument, release: ReleaseArgument, folder: FolderArgument, job_server: JobServerOption = None) -> None:
    """Start a cluster."""
    Cluster(distribution, job_server or get_job_server(release), folder).up()
    print(f"Flink {ask('/overview')['flink-version']} is running with {ask('/overview')['slots-total']} slots: http://{REST}")


@app.command()
def down(folder: FolderArgument) -> None:
    """End the cluster in this folder."""
    end(folder)


if __name__ == "__main__":
    app()
