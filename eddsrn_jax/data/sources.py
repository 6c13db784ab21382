"""Finds the photos of a config's sources, and splits them for training and validation.

No photo, and no exact copy of it, is in both sets.
"""

import dataclasses
import hashlib
import itertools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eddsrn_jax.data.folders import PhotoFile, equal_files, find_photos
from eddsrn_jax.data.pairs import find_pairs
from eddsrn_jax.data.source_files import File as File
from eddsrn_jax.data.source_files import Listing as Listing
from eddsrn_jax.data.source_files import Source as Source
from eddsrn_jax.data.source_files import folder_name, paths_source, tfds_source
from eddsrn_jax.data.source_files import folder_source as folder_source
from eddsrn_jax.errors import InputError
from eddsrn_jax.paths import local_path

_log = logging.getLogger(__name__)

# Subfolders of DIV2K as its authors distribute it.
_LAYOUT = ("DIV2K_train_HR", "DIV2K_valid_HR")
# Longest name of a set that consists of several sources.
_LONGEST_NAME = 80


@dataclasses.dataclass(frozen=True)
class Split:
    """Photos to train on, and photos to validate on."""

    train: Source
    validation: Source


class _Photos(NamedTuple):
    """A named set of image files."""

    name: str
    files: Sequence[PhotoFile]


class _Part(NamedTuple):
    """One of the sources that a config names.

    Attributes:
        train: photos to train on. If `validation` is None, some of them may still be held
            out for validation.
        validation: photos that the source itself sets apart for validation, or None.
    """

    train: _Photos | Source
    validation: _Photos | Source | None


def open_split(
    source: str,
    *,
    validation_source: str = "",
    tfds_data_dir: str = "",
    tfds_download: bool = False,
    workdir: Path | None = None,
) -> Split:
    """Finds the photos of a config's `data.source`.

    Args:
        source: "tfds:div2k" (has its own validation set), "folder:DIR" (holds out 5 % of
            the files for validation, chosen by their names), or "bundled" (photos inside
            scikit-image's wheel). A folder with DIV2K_train_HR and DIV2K_valid_HR has its
            own validation set too. Several folders are separated by commas:
            "folder:A,folder:B". "pairs:LR_DIR,HR_DIR" are pairs, see `find_pairs`; 5 % of
            them are held out too.
        validation_source: separate source for validation, in the same form. Folders and
            pairs are then used whole; other sources keep their own split. Photos of this
            source are left out of the training.
        tfds_data_dir: folder of tensorflow-datasets' data; empty for its default.
        tfds_download: whether tensorflow-datasets may download and prepare missing data.
        workdir: workdir of the run, which is never a part of a source.

    Raises:
        InputError: the source is unknown, its photos are not there, or no photo is left
            to train on.
    """
    options = {
        "excluded": [workdir] if workdir else [],
        "tfds": {"data_dir": tfds_data_dir, "download": tfds_download},
    }
    parts = _open(source, "config.data.source", **options)
    train = [part.train for part in parts]
    if validation_source:
        others = _open(validation_source, "config.data.validation_source", **options)
        validation = [part.validation or part.train for part in others]
    else:
        pairs = [
            (part.train, part.validation) if part.validation else _hold_out(part.train)
            for part in parts
        ]
        train, validation = (list(sets) for sets in zip(*pairs, strict=True))
    if validation_source or len(parts) > 1 or parts[0].validation:
        train = _without_validation(train, validation, source)
    return Split(_joined(train), _joined(validation))


def _open(source: str, flag: str, *, excluded: list[Path], tfds: dict) -> list[_Part]:
    """Opens every source that a config value names."""
    texts = re.split(r",(?=folder:|pairs:|tfds:|bundled(?:,|$))", source)
    parts = []
    for text in texts:
        kind, _, where = text.partition(":")
        if kind == "folder" and where:
            parts.append(_open_folder(local_path(where, flag), excluded))
        elif kind == "tfds" and len(texts) == 1:
            sets = [tfds_source(where, part, **tfds) for part in ("train", "validation")]
            parts.append(_Part(*sets))
        elif kind == "pairs" and len(texts) == 1:
            files = find_pairs(text, flag, excluded=excluded)
            name = folder_name(local_path(where.rpartition(",")[2].strip(), flag))
            parts.append(_Part(_Photos(name, files), None))
        elif text == "bundled":
            parts.append(_open_bundled())
        elif kind in ("tfds", "pairs"):
            raise InputError(f"{flag}={source}: {text} cannot be one of several sources")
        else:
            raise InputError(
                f"{flag}={source!r}: expected 'tfds:div2k', 'folder:DIR', 'bundled' or"
                " 'pairs:LR_DIR,HR_DIR', or several folders: 'folder:A,folder:B'"
            )
    return parts


def _open_folder(folder: Path, excluded: list[Path]) -> _Part:
    name = folder_name(folder)
    if all((folder / part).is_dir() for part in _LAYOUT):
        _log.info(
            "%s: trains on %s and validates on %s; other folders in it are not used",
            folder,
            *_LAYOUT,
        )
        train, validation = (
            find_photos(folder / part, excluded=excluded) for part in _LAYOUT
        )
        return _Part(_Photos(name, train), _Photos(f"{name}-val", validation))
    return _Part(_Photos(name, find_photos(folder, excluded=excluded)), None)


def _hold_out(photos: _Photos | Source) -> tuple[_Photos, _Photos]:
    """Holds out a twentieth of the photos or pairs; exact copies stay together."""
    assert isinstance(photos, _Photos)
    files = photos.files
    if len(files) < 2:
        raise InputError(
            f"{photos.name}: only {len(files)} image found; training and validation need"
            " one each"
        )
    groups = equal_files([file.path for file in files])
    if len(groups) == 1:
        _log.warning("%s: all %d photos are equal", photos.name, len(files))
        groups = [[i] for i in range(len(files))]

    # Drawn by name, so that files added later move few others between the two sets.
    def draw(group: list[int]) -> str:
        return hashlib.sha256(files[group[0]].name.encode()).hexdigest()

    chosen = sorted(groups, key=draw)[: -(-len(groups) // 20)]
    held_out = set(itertools.chain.from_iterable(chosen))
    return (
        photos._replace(files=[x for i, x in enumerate(files) if i not in held_out]),
        _Photos(f"{photos.name}-val", [files[i] for i in sorted(held_out)]),
    )


def _without_validation(
    train: list[_Photos | Source], validation: list[_Photos | Source], source: str
) -> list[_Photos | Source]:
    """Leaves photos out of the training that are in the validation set too."""
    others = [
        f.path for part in validation if isinstance(part, _Photos) for f in part.files
    ]
    kept, omitted = [], []
    for part in train:
        if isinstance(part, _Photos):
            paths = [file.path for file in part.files]
            shared = _equal_to(paths, others)
            omitted += [file.name for i, file in enumerate(part.files) if i in shared]
            files = [file for i, file in enumerate(part.files) if i not in shared]
            part = part._replace(files=files)
        kept.append(part)
    if omitted and not any(part.files for part in kept):
        raise InputError(
            f"config.data.source={source}: all of its {len(omitted)} photos are also in"
            " the validation set; training and validation need different photos"
        )
    if omitted:
        _log.warning(
            "%d photos left out of the training, because they are in the validation set"
            " too: %s%s",
            len(omitted),
            ", ".join(omitted[:3]),
            " ..." * (len(omitted) > 3),
        )
    return kept


def _equal_to(paths: list[Path], others: list[Path]) -> set[int]:
    """Returns the indices of the paths whose files equal one of the other files."""
    places = {os.path.realpath(path) for path in others}
    shared = {i for i, path in enumerate(paths) if os.path.realpath(path) in places}
    count = len(paths)
    for group in equal_files([*paths, *others]):
        if group[-1] >= count:
            shared |= {i for i in group if i < count}
    return shared


def _joined(parts: Sequence[_Photos | Source]) -> Source:
    """Returns one source of all photos of several sets."""
    if len(parts) == 1:
        (part,) = parts
        return paths_source(*part) if isinstance(part, _Photos) else part
    files, names = [], []
    for number, part in enumerate(parts, 1):
        assert isinstance(part, _Photos)
        name = f"{part.name}-{number}" if part.name in names else part.name
        names.append(name)
        files += [file._replace(name=f"{name}/{file.name}") for file in part.files]
    title = "+".join(names)
    if len(title) > _LONGEST_NAME:
        title = f"{names[0]}+{len(names) - 1} more"
    return paths_source(title, files)


# The colour photos in scikit-image's wheel. The validation photos are in the public
# domain or CC0, so that they can be shown. The stereo pair is in one set, not in both.
BUNDLED_TRAIN = (
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
BUNDLED_VALIDATION = ("astronaut.png", "chelsea.png")


def _open_bundled() -> _Part:
    # Only the folder is looked up: importing skimage.data imports all of scikit-image.
    import importlib.util

    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise InputError(
            "config.data.source=bundled needs scikit-image; run pip install scikit-image"
        )
    folder = Path(spec.origin).parent / "data"
    train, validation = (
        [PhotoFile(name, folder / name) for name in names]
        for names in (BUNDLED_TRAIN, BUNDLED_VALIDATION)
    )
    return _Part(_Photos("bundled", train), _Photos("bundled-val", validation))
