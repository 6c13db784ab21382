"""Downloads weights from a model hub, with the optional library huggingface_hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from eddsrn_jax.errors import InputError

# It matches no path such as ./x, ../x, ~/x or a/b/c.
_REPOSITORY = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?",
    re.ASCII,
)


def parse_repository(name: str) -> tuple[str, str | None] | None:
    """Splits "org/repo" or "org/repo@revision"; returns None for any other name."""
    match = _REPOSITORY.fullmatch(name)
    if not match or name.endswith(".safetensors"):
        return None
    return match["repository"], match["revision"]


def download(repository: str, revision: str | None, *, files: Sequence[str]) -> Path:
    """Downloads files of a repository into the cache of huggingface_hub.

    Files that the cache has already are not downloaded again. Without a connection, the
    files in the cache are used.

    Args:
        repository: name such as "org/repo".
        revision: branch, tag or commit; None for the main branch.
        files: names of the files, all of which the repository must have.

    Returns:
        The folder of the files.

    Raises:
        InputError: huggingface_hub is not installed, the repository cannot be reached, or
            it lacks a file.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise InputError(
            f"--weights={repository}: no such file or folder; a repository on a model hub"
            ' needs huggingface_hub; run pip install "eddsrn_jax[hub]"'
        ) from error
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(files),
            library_name="eddsrn_jax",
        )
    # The library raises errors of many types, which no common type describes.
    except Exception as error:
        raise InputError(
            f"--weights={repository}: no such file or folder, and no repository that can"
            f" be downloaded ({_reason(error, revision)})"
        ) from error
    for file in files:
        if not Path(folder, file).is_file():
            raise InputError(f"--weights={repository}: the repository has no {file}")
    return Path(folder)


def _reason(error: Exception, revision: str | None) -> str:
    """Returns the cause of a failed download in one line."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository, or it is private"
    if isinstance(error, RevisionNotFoundError):
        return f"the repository has no revision {revision or 'main'}"
    text = str(error).strip().removeprefix("Got: ")
    return text.partition("\n")[0] or type(error).__name__
