"""Checksums of saved values, and the distinction of damage from system errors."""

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

from eddsrn_jax.distributed import lost_a_process
from eddsrn_jax.errors import InputError

# The errno in a message of tensorstore about a failed system call.
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'|OS error (\d+)")
# A damaged checkpoint causes these; any other errno is a problem of the system.
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class DamagedError(Exception):
    """Files that do not hold what was saved; the message is one line and names them."""


def checksum(tree: Any) -> int:
    """Returns the CRC-32 of the names, dtypes, shapes and bytes of a tree's arrays."""
    crc = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        value = np.asarray(leaf)
        label = f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}"
        crc = zlib.crc32(value.tobytes(), zlib.crc32(label.encode(), crc))
    return crc


def json_checksum(tree: Any) -> int:
    """Returns the CRC-32 of a tree's JSON text."""
    return zlib.crc32(json.dumps(tree, sort_keys=True).encode())


def verify(name: str, value: int, sums: Mapping[str, int]) -> None:
    """Raises ValueError if a checksum differs from the saved one of that name."""
    if value != sums[name]:
        raise ValueError(f"the checksum of {name!r} does not match")


def system_error(error: BaseException) -> int | None:
    """Returns the errno behind an error; None if the system did not cause it."""
    found = _SYSTEM_ERROR.search(str(error))
    return int(found[1] or found[2]) if found else getattr(error, "errno", None)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns errors of the block into DamagedError, unless the files are not the cause.

    Errors that another process causes pass unchanged.

    Args:
        path: checkpoint that the block reads, for messages.

    Raises:
        DamagedError: any other error, as damaged files can cause errors of any type.
        OSError: the system cannot read the files at present.
        InputError, MemoryError, JaxRuntimeError: unchanged.
    """
    try:
        yield
    except (InputError, MemoryError, jax.errors.JaxRuntimeError, DamagedError):
        raise
    except Exception as error:
        if lost_a_process(error):
            raise
        # For an array orbax's error names the part; its cause says what is wrong.
        cause = error.__cause__ or error
        reason = (str(cause) or repr(cause)).splitlines()[0]
        number = system_error(cause)
        if number is not None and number not in _DAMAGE:
            # The system's message names the file.
            raise OSError(f"{path} cannot be read at present: {reason}") from error
        raise DamagedError(f"{path} cannot be restored: {reason}") from error
