"""The command line, called in this process."""

from typer.testing import CliRunner

from pipeline.cli.main import app


def call(*arguments: str, exit_code: int = 0) -> str:
    """Runs a command, which must end with `exit_code`; returns its output."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.output
