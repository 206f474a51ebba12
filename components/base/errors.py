"""The one error that is written for the person at the keyboard."""


class CaptchaPipelineError(Exception):
    """Something the user can put right: says what is wrong, where, and what to do.

    The command line prints the message alone, without a traceback, and exits with 1. Anything else that is raised is a defect
    in this project.
    """


class Busy(CaptchaPipelineError):
    """Another process is at work on the same thing, and holds its lock."""
