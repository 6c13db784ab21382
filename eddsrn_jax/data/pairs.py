"""Pairs of photos: a small blurry one, and a sharp one of the same scene, x4 as large."""

import collections
from collections.abc import Collection, Sequence
from pathlib import Path

from eddsrn_jax.data.folders import PhotoFile, find_photos
from eddsrn_jax.data.source_files import Source, paths_source
from eddsrn_jax.errors import InputError
from eddsrn_jax.paths import local_path

# Start of the value that names two folders of pairs.
PAIRS = "pairs:"


def pairs_source(value: str, name: str) -> Source:
    """Returns a source of the pairs of photos in two folders, see `find_pairs`.

    Args:
        value: "pairs:LR_DIR,HR_DIR".
        name: name of the source.
    """
    return paths_source(name, find_pairs(value, f"--dataset={name}"))


def find_pairs(
    value: str, flag: str, *, excluded: Collection[Path] = ()
) -> list[PhotoFile]:
    """Returns the pairs of photos in two folders, as sharp photos with an `lr`.

    The photos of a pair have the same path below their folders, whatever their
    extensions. The small photo may also end in "x4", as in DIV2K: 0801x4.png belongs to
    0801.png.

    Args:
        value: "pairs:LR_DIR,HR_DIR", folders of the small photos and of the sharp ones.
        flag: flag that has the value, for messages.
        excluded: folders to leave out, see `find_photos`.

    Raises:
        InputError: there are not two folders with photos, a photo has no partner, or a
            photo has two.
    """
    places = [place.strip() for place in value.removeprefix(PAIRS).split(",")]
    if len(places) != 2 or not all(places):
        raise InputError(
            f"{flag}={value}: expected pairs:LR_DIR,HR_DIR, the folder of the small"
            " photos and that of the sharp ones"
        )
    lr_folder, hr_folder = (local_path(place, flag) for place in places)
    small, large = (
        find_photos(folder, excluded=excluded) for folder in (lr_folder, hr_folder)
    )
    hr = _by_stem(hr_folder, large, [_stem(photo) for photo in large])
    stems = [_stem(photo) for photo in small]
    stems = [stem if stem in hr else stem.removesuffix("x4") for stem in stems]
    lr = _by_stem(lr_folder, small, stems)
    _check_partners(lr_folder, lr, hr_folder, hr)
    return [photo._replace(lr=lr[stem].path) for stem, photo in hr.items()]


def _stem(photo: PhotoFile) -> str:
    return str(Path(photo.name).with_suffix(""))


def _by_stem(
    folder: Path, photos: Sequence[PhotoFile], stems: Sequence[str]
) -> dict[str, PhotoFile]:
    """Returns a folder's photos by stem; raises InputError if two have the same one."""
    found = collections.defaultdict(list)
    for stem, photo in zip(stems, photos, strict=True):
        found[stem].append(photo)
    for same in found.values():
        if len(same) > 1:
            names = " and ".join(photo.name for photo in same)
            raise InputError(f"{folder}: {names} belong to the same pair; keep one")
    return {stem: photo for stem, (photo,) in found.items()}


def _check_partners(
    lr_folder: Path,
    lr: dict[str, PhotoFile],
    hr_folder: Path,
    hr: dict[str, PhotoFile],
) -> None:
    """Raises InputError if photos of one folder have no partner in the other."""
    for here, photos, there, others in (
        (lr_folder, lr, hr_folder, hr),
        (hr_folder, hr, lr_folder, lr),
    ):
        if alone := [photo.name for stem, photo in photos.items() if stem not in others]:
            raise InputError(
                f"{here}: {len(alone)} of {len(photos)} photos have no partner in {there}"
                f" ({', '.join(alone[:3])}{' ...' * (len(alone) > 3)})"
            )
