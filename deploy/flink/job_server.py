"""Gets Beam's job server for Flink, a jar, by Maven: to where Beam looks for it before it asks Maven Central itself.

python -m deploy.flink.job_server 1.20
"""

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

import typer

_CACHE: Final = Path("~/.apache_beam/cache/jars").expanduser()
# The first that takes an artifact on the command line is 3; what an old Maven has of its own accord does not.
_COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"


def job_server(flink: str) -> Path:
    """Returns the jar for a release of Flink, such as 1.20, of the release of Beam that is installed.

    Raises:
      SystemExit: Java or Maven is missing, or Maven cannot get it.
    """
    if shutil.which("java") is None:
        raise SystemExit("Flink needs Java 11 or 17: there is no `java` here.")
    beam, name = version("apache-beam"), f"beam-runners-flink-{flink}-job-server"
    jar = _CACHE / f"{name}-{beam}.jar"
    if not jar.exists():
        if shutil.which("mvn") is None:
            raise SystemExit(f"Beam's job server comes by Maven: there is no `mvn` here. Or put it at {jar}.")
        artifact = f"org.apache.beam:{name}:{beam}"
        if subprocess.run(
            ["mvn", "--quiet", "--batch-mode", _COPY, f"-Dartifact={artifact}", f"-DoutputDirectory={jar.parent}"]
        ).returncode:
            raise SystemExit(f"Maven cannot get {artifact}.")
    return jar


if __name__ == "__main__":
    typer.run(lambda flink: print(job_server(flink)))
