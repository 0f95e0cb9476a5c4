"""Errors caused by user input."""


class UsageError(ValueError):
    """A value that cannot be used; one line names it, what is allowed and the fix.

    The binaries print the line without a traceback and exit with 2.
    """


class UnknownSectionError(UsageError):
    """A config has a section that no module in use has registered."""


class DivergedError(UsageError):
    """Training stopped because too many updates were not finite."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
