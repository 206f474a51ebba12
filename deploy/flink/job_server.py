"""Downloads Beam's job server for Flink, a jar, with Maven to the folder where Beam looks before it asks Maven Central itself.

python -m deploy.flink.job_server 1.20
"""

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

import typer

_CACHE: Final = Path("~/.apache_beam/cache/jars").expanduser()
# Release 3 is the first that accepts an artifact on the command line. An old Maven's default release does not.
_COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"


def job_server(flink: str) -> Path:
    """Returns the path of the jar for a release of Flink, such as 1.20, and the installed release of Beam; downloads it if missing.

    Raises:
      SystemExit: Java or Maven is missing, or Maven cannot download the jar.
    """
    if shutil.which("java") is None:
        raise SystemExit("Flink needs Java 11 or 17, but `java` is not installed.")
    beam, name = version("apache-beam"), f"beam-runners-flink-{flink}-job-server"
    jar = _CACHE / f"{name}-{beam}.jar"
    if not jar.exists():
        if shutil.which("mvn") is None:
            raise SystemExit(f"`mvn`, which downloads Beam's job server, is not installed. Install Maven, or put the jar at {jar}.")
        artifact = f"org.apache.beam:{name}:{beam}"
        if subprocess.run(
            ["mvn", "--quiet", "--batch-mode", _COPY, f"-Dartifact={artifact}", f"-DoutputDirectory={jar.parent}"]
        ).returncode:
            raise SystemExit(f"Maven cannot download {artifact}. See its output above, or put the jar at {jar}.")
    return jar


if __name__ == "__main__":
    typer.run(lambda flink: print(job_server(flink)))
