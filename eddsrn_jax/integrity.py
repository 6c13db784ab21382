"""Whether files hold what was saved: checksums, and what errors of reading mean."""

import contextlib
import errno
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eddsrn_jax import parallel
from eddsrn_jax.errors import InputError

# How tensorstore ends a message about what the system would not do.
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'|OS error (\d+)")
# What the system says of files that are damaged; all else is trouble of its own.
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class DamagedError(Exception):
    """Files are not what was saved; the message is one line and names them."""


def checksum(tree: Any) -> int:
    """CRC-32 over the names, types, shapes and bytes of all arrays of a tree."""
    crc = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        value = np.asarray(leaf)
        label = f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}"
        crc = zlib.crc32(value.tobytes(), zlib.crc32(label.encode(), crc))
    return crc


def json_checksum(tree: Any) -> int:
    """CRC-32 of what JSON keeps of a tree."""
    return zlib.crc32(json.dumps(tree, sort_keys=True).encode())


def verify(name: str, value: int, sums: Mapping[str, int]) -> None:
    """Compares a checksum with the one of that name; ValueError where they differ."""
    if value != sums[name]:
        raise ValueError(f"the checksum of its {name!r} differs")


def system_error(error: Exception) -> int | None:
    """The number of the system's error behind one; None where there is none."""
    found = _SYSTEM_ERROR.search(str(error))
    return int(found[1] or found[2]) if found else getattr(error, "errno", None)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tells files that are damaged from what the system, or another process, causes.

    Raises:
        DamagedError: for whatever went wrong, as files can be broken in many ways.
        OSError: the system does not let them be read, now.
        InputError, MemoryError, JaxRuntimeError: as they are.
    """
    try:
        yield
    except (InputError, MemoryError, jax.errors.JaxRuntimeError, DamagedError):
        raise
    except Exception as error:
        if parallel.lost_another(error):
            raise
        # Of an array orbax says which part it was, tensorstore what is wrong with it.
        cause = error.__cause__ or error
        reason = (str(cause) or repr(cause)).splitlines()[0]
        number = system_error(cause)
        if number is not None and number not in _DAMAGE:
            # Its own words name the file.
            raise OSError(f"{path} cannot be read now: {reason}") from error
        raise DamagedError(f"{path} cannot be restored: {reason}") from error
