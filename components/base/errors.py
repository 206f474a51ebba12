"""The exceptions whose messages are written for the user."""


class CaptchaPipelineError(Exception):
    """An error that the user can fix. The message says what is wrong, where, and what to do.

    The command line prints only the message, without a traceback, and exits with code 1. Any other exception is a defect in this
    project.
    """


class Busy(CaptchaPipelineError):
    """Another process is using the same resource and holds its lock."""
