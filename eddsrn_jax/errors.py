"""Exceptions for errors that the user can fix."""


class InputError(ValueError):
    """A file, folder, flag or config value that cannot be used.

    The message is one line. It names the cause and gives the relevant numbers.
    """


class UsageError(InputError):
    """Wrong flags or arguments of a command; the command ends with exit code 2."""
