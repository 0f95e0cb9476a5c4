"""Errors caused by user input."""


class UsageError(ValueError):
    """A value that cannot be used; one line names it, what is allowed and the fix.

    The binaries print the line without a traceback and exit with 2.
    """


class DivergedError(UsageError):
    """Training stopped because too many updates were not finite."""
