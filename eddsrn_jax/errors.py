"""The exceptions for what a user can mend."""


class InputError(ValueError):
    """A file, folder, flag or config value that cannot be used.

    The message is one line and names it, with the numbers that matter.
    """


class UsageError(InputError):
    """A command that cannot be started so, whatever its files hold: exit code 2."""
