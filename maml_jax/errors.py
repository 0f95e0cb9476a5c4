"""Errors that are the user's to mend."""


class UsageError(ValueError):
    """A bad value from the user; the message names it, what is allowed and the fix, in one line.

    The binaries print it without a traceback and exit with 2.
    """


class DivergedError(UsageError):
    """Training stopped: too many updates were not finite."""
