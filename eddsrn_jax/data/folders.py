"""Finds the photos below folders: follows links, leaves out copies of other photos.

Every photo is found once, however many links lead to it.
"""

import collections
import hashlib
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from eddsrn_jax.errors import InputError
from eddsrn_jax.images.decoding import EXTENSIONS
from eddsrn_jax.images.files import RESULT_ENDING, patterns, warn_of_other_files
from eddsrn_jax.paths import printable

_log = logging.getLogger(__name__)

# Names of folders with full-size photos, such as DIV2K_train_HR, trainHR and GTmod12, and
# of folders beside them with smaller copies, such as DIV2K_train_LR_bicubic, LRbicx4, X4.
_FULL_SIZE = re.compile(
    r"(?:^|[^A-Za-z])(?i:hr|gt(?:mod\d+)?)(?![A-Za-z])|[a-z](?:HR|GT)(?![A-Za-z])"
)
_SMALL = re.compile(
    r"(?:^|[^A-Za-z])(?i:lr)(?:(?i:bic|x\d)|(?![A-Za-z]))|[a-z]LR(?![A-Za-z])|^[xX][2-9]$"
)
# Stem of a resized copy: the original's stem, then "x4", "_x4", or "x4m" as in DIV2K.
_RESIZED = re.compile(r"(.+?)_?[xX][2348][dmw]?")
# A folder with one of these sets of files holds a run, or the results of an evaluation.
_MARKS = (
    {"photographs.json"},
    {"results.json", "results.csv", "results.md"},
    {"checkpoints", "metrics.jsonl"},
)
# Files are compared by the hash of this many bytes before they are read to the end.
_HEAD = 65_536


class PhotoFile(NamedTuple):
    """A photo on disk.

    Attributes:
        name: unique name within its source, such as "holiday/1.png".
        path: path of the file.
        lr: path of the small blurry photo of the same scene, if there is one.
    """

    name: str
    path: Path
    lr: Path | None = None


def find_photos(folder: Path, *, excluded: Collection[Path] = ()) -> list[PhotoFile]:
    """Returns the image files below a folder, sorted by path.

    Links to files and folders are followed, and a file with several paths is taken once.
    Hidden files are left out. Warnings name every other file or folder that is left out:
    folders of runs and evaluations, resized or restored copies of other photos, files
    with other extensions, broken links.

    Args:
        folder: folder to search.
        excluded: folders to leave out. They do not exclude `folder` itself.

    Raises:
        InputError: the folder does not exist or holds no image.
    """
    if not folder.is_dir():
        reason = "not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {reason}")
    found, others = [], []
    for path in sorted(_walk(folder, {os.path.realpath(path) for path in excluded})):
        if path.suffix.lower() not in EXTENSIONS:
            others.append(path)
        elif path.is_file():
            found.append(path)
        else:
            _log.warning("%s: left out, because it is not a file (a broken link?)", path)
    if others:
        warn_of_other_files(folder, others, EXTENSIONS)
    if not found:
        raise InputError(f"{folder}: no images found (looked for {patterns(EXTENSIONS)})")
    return [
        PhotoFile(printable(p.relative_to(folder).as_posix()), p)
        for p in _without_copies(folder, found)
    ]


def _walk(folder: Path, excluded: Collection[str]) -> list[Path]:
    """Returns the files below a folder; every folder is entered once.

    A link to a folder is entered after all folders that are no links, so that photos keep
    the shortest of their names.
    """
    files = []
    pending, linked = collections.deque([folder]), collections.deque()
    entered = set()
    while pending or linked:
        current = pending.popleft() if pending else linked.popleft()
        real = os.path.realpath(current)
        if real in entered:
            continue
        entered.add(real)
        try:
            with os.scandir(current) as entries:
                entries = [x for x in entries if not x.name.startswith(".")]
        except OSError as error:
            if current == folder:
                raise InputError(f"{folder}: {error.strerror}") from error
            _log.warning("%s: left out, because of an error: %s", current, error.strerror)
            continue
        names = {entry.name for entry in entries}
        if current != folder and (reason := _not_a_source(real, names, excluded)):
            _log.warning("%s: left out, because it %s", current, reason)
            continue
        folders = {entry.name for entry in entries if _is_folder(entry)}
        files += [current / name for name in sorted(names - folders)]
        small = _smaller_copies(current, folders)
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name in folders - small:
                (linked if entry.is_symlink() else pending).append(current / entry.name)
    return files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    # A link to itself, or into a folder without access. Reading it as a photo fails, and
    # the message then names it.
    except OSError:
        return False


def _not_a_source(real: str, names: set[str], excluded: Collection[str]) -> str:
    """Returns why a folder below a source is no part of it; empty if it is."""
    if real in excluded:
        return "belongs to this run"
    if any(mark <= names for mark in _MARKS):
        return "holds a run or the results of an evaluation"
    return ""


def _smaller_copies(parent: Path, names: set[str]) -> set[str]:
    """Returns the subfolders with copies of the photos of a subfolder beside them."""
    full_size = sorted(name for name in names if _FULL_SIZE.search(name))
    if not full_size:
        return set()
    small = {name for name in names if _SMALL.search(name)} - {*full_size}
    for name in sorted(small):
        _log.warning(
            "%s: left out, because by its name it holds smaller copies of the photos in"
            " %s",
            parent / name,
            full_size[0],
        )
    return small


def _without_copies(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """Returns the paths without links to photos found elsewhere, and without copies."""
    root, kept = os.path.realpath(folder), {}
    for path in paths:
        real = os.path.realpath(path)
        # The path without a link is kept; if all have one, the first path is kept.
        if real not in kept or real == os.path.join(root, path.relative_to(folder)):
            kept[real] = path
    if omitted := len(paths) - len(kept):
        _log.warning(
            "%s: %d links left out, because they lead to photos that are there already",
            folder,
            omitted,
        )
    # Restored photos are named after a photo without or with its extension.
    names = {name for path in kept.values() for name in (path.stem, path.name)}
    copies = sorted(path for path in kept.values() if _originals(path.stem) & names)
    if copies:
        _log.warning(
            "%s: %d photos left out, because by their names they are resized or restored"
            " copies of other photos: %s%s",
            folder,
            len(copies),
            copies[0].name,
            " ..." * (len(copies) > 1),
        )
    return sorted(set(kept.values()) - set(copies))


def _originals(stem: str) -> set[str]:
    """Returns the names of photos that a photo of this name could be a copy of."""
    resized, restored = _RESIZED.fullmatch(stem), RESULT_ENDING.search(stem)
    found = {resized[1]} if resized else set()
    return found | ({stem[: restored.start()]} if restored else set())


def equal_files(paths: Sequence[Path]) -> list[list[int]]:
    """Groups files by their content.

    Only files of equal size are read.

    Returns:
        The indices of the files of each group, sorted by the first one.
    """
    groups = _grouped(range(len(paths)), lambda i: _size(paths[i]))
    for limit in (_HEAD, None):
        groups = [
            part
            for group in groups
            for part in (
                _grouped(group, lambda i, n=limit: _hash(paths[i], n))
                if len(group) > 1
                else [group]
            )
        ]
    return sorted(groups)


def _grouped(indices: Iterable[int], key: Callable[[int], object]) -> list[list[int]]:
    """Groups indices by their keys."""
    groups = collections.defaultdict(list)
    for i in indices:
        groups[key(i)].append(i)
    return list(groups.values())


def _size(path: Path) -> object:
    try:
        return path.stat().st_size
    except OSError:
        # A file that cannot be read equals no other.
        return path


def _hash(path: Path, limit: int | None) -> object:
    try:
        with path.open("rb") as file:
            if limit is not None:
                return hashlib.sha256(file.read(limit)).digest()
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return path
