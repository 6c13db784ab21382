"""Names of files: the home folder in them, and their form in messages."""

import os
from pathlib import Path


def expand_home(name: str) -> Path:
    """Returns a path in which `~` or `~USER` at the beginning is that home folder.

    A file or folder of that very name takes precedence, and an unknown user is no error:
    shells replace `~` too, so such a name is meant as it is.
    """
    path = Path(name)
    if not name.startswith("~") or os.path.lexists(path):
        return path
    return Path(os.path.expanduser(name))


def printable(text: str) -> str:
    """Returns text whose control characters and invalid bytes are escaped, as \\x1b.

    A file's name may hold escape sequences, which a terminal would obey.
    """
    return "".join(
        char if char.isprintable() else ascii(char).strip("'") for char in text
    )
