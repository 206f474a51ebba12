"""Runs a command as the first process of a container."""

import subprocess

import pytest


def pid_namespace() -> list[str]:
    """Returns the words to put before a command; skips the test if the kernel gives this user no namespace."""
    for user in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *user, "--pid", "--fork", "--kill-child"]
        if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    pytest.skip("this machine gives no PID namespaces")
