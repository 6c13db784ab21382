"""Writes the log messages of a run to its workdir, with the versions of all libraries."""

import contextlib
import importlib.metadata
import logging
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import jax

from eddsrn_jax import __version__

_log = logging.getLogger(__name__)

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class _File(logging.FileHandler):
    """A log file; a full disk drops its lines, as other files report that error."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Ignores an error of the disk."""


@contextlib.contextmanager
def logging_to(workdir: Path) -> Iterator[None]:
    """Appends the messages of the block to `workdir/train.log`.

    The file begins each start of a run with its command and the versions. Meanwhile the
    package's logger has the level INFO, unless it has a level of its own.

    Raises:
        OSError: the file cannot be opened.
    """
    path = workdir / "train.log"
    handler = _File(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("eddsrn_jax")
    level = logger.level
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        versions = [f"{x} {importlib.metadata.version(x)}" for x in _LIBRARIES]
        text = (
            f"eddsrn_jax {__version__}, Python {platform.python_version()},"
            f" {', '.join(versions)}, on {jax.device_count()} x"
            f" {jax.devices()[0].device_kind}: {' '.join(sys.argv)}"
        )
        arguments = ("", 0, text, (), None)
        handler.emit(logging.LogRecord("eddsrn_jax", logging.INFO, *arguments))
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
