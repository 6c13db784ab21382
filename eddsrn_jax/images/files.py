"""Lists image files, and reads and writes them as 8-bit RGB.

`eddsrn_jax.images.pictures` keeps gray, alpha, 16 bits and metadata too.
"""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from eddsrn_jax.errors import InputError
from eddsrn_jax.files import written_beside
from eddsrn_jax.images.decoding import (
    EXTENSIONS,
    decode,
    describe_excess,
    naming,
    open_photo,
)
from eddsrn_jax.images.pixels import convert
from eddsrn_jax.paths import expand_home

_log = logging.getLogger(__name__)

# The ends of the names of restored photos: a scale, a width, or "deblurred".
RESULT_ENDING = re.compile(r"(?<=.)_(x[234]|w\d+|deblurred)$")


def list_images(
    folder: str | Path,
    *,
    recursive: bool = True,
    extensions: Sequence[str] = EXTENSIONS,
    left_out: dict[Path, str] | None = None,
) -> list[Path]:
    """Returns the image files of a folder, sorted.

    Hidden files are left out. Files with other extensions are counted in a warning.

    Args:
        folder: folder to search.
        recursive: whether to search subfolders too.
        extensions: extensions of the files to return.
        left_out: dict to which the files that are left out are added, with the reasons.

    Raises:
        InputError: the folder does not exist or holds no image.
    """
    folder = expand_home(str(folder))
    left_out = {} if left_out is None else left_out
    if not folder.is_dir():
        reason = "not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {reason}")
    known = patterns(extensions)
    found, others = [], []
    for path in _files_below(folder, recursive, left_out):
        if path.suffix.lower() not in extensions:
            others.append(path)
            left_out[path] = f"its name matches none of {known}"
        elif _is_file(path):
            found.append(path)
        else:
            left_out[path] = "it is not a file (a broken link?)"
            _log.warning("%s: left out, because it is not a file (a broken link?)", path)
    if others:
        warn_of_other_files(folder, others, extensions)
    if not found:
        raise InputError(f"{folder}: no images found (looked for {known})")
    return found


def _files_below(folder: Path, recursive: bool, left_out: dict[Path, str]) -> list[Path]:
    """Returns the paths below a folder that are no folders and not hidden, sorted.

    Links to folders are not followed, since they might lead back to the folder. They and
    folders that cannot be read are added to `left_out`.
    """

    def unreadable(error: OSError) -> None:
        path, reason = Path(error.filename), error.strerror
        if path == folder:
            raise InputError(f"{folder}: {reason}") from error
        left_out[path] = f"it cannot be read: {reason}"
        _log.warning("%s: left out, because it cannot be read: %s", path, reason)

    paths = []
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        paths += [Path(parent, name) for name in names if not name.startswith(".")]
        shown = [name for name in folders if not name.startswith(".")]
        folders[:] = shown if recursive else []
        links = [Path(parent, x) for x in folders if Path(parent, x).is_symlink()]
        left_out |= dict.fromkeys(links, "a link to a folder")
    return sorted(paths)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    # It lies in a folder without access; reading it names the reason.
    except OSError:
        return True


def patterns(extensions: Sequence[str]) -> str:
    """Returns extensions as patterns for a message: "*.jpg *.png"."""
    return " ".join(f"*{extension}" for extension in extensions)


def warn_of_other_files(
    folder: Path, others: Sequence[Path], extensions: Sequence[str]
) -> None:
    """Warns of the files in a folder that have none of the extensions."""
    _log.warning(
        "%s: %d files left out, because their names match none of %s: %s%s",
        folder,
        len(others),
        patterns(extensions),
        others[0].name,
        " ..." if len(others) > 1 else "",
    )


def count_pixels(file: Path | bytes, name: str) -> int:
    """Returns an image's height times width, from the header alone.

    Raises:
        InputError: the file is not a readable image.
    """
    with naming(name, "not a readable image"), open_photo(file) as photo:
        return photo.header.height * photo.header.width


def read_image(file: str | Path | bytes, name: str = "") -> np.ndarray:
    """Decodes an image file to RGB.

    The EXIF orientation is applied. Gray becomes three equal channels. CMYK and palettes
    are converted to RGB. Dropping alpha and reducing 16 bits to 8 log a warning each.

    Args:
        file: path or content of the file.
        name: name of the file in messages; if empty, the path.

    Returns:
        Pixels, uint8 [H, W, 3].

    Raises:
        InputError: the file cannot be decoded to the end, or has more than 179
            megapixels, where Pillow suspects an attack.
    """
    name = name or str(file)
    with naming(name, "cannot be decoded"), open_photo(file) as photo:
        size = photo.header.height * photo.header.width
        # Pillow checks the formats that it opens, but others open PNG and TIFF.
        limit = 2 * (Image.MAX_IMAGE_PIXELS or size)
        if size > limit:
            raise InputError(describe_excess(size, limit))
        pixels = decode(photo)
    if pixels.dtype != np.uint8:
        _log.warning("%s: reduced to 8 bits per channel", name)
    if pixels.shape[2] in (2, 4):
        _log.warning("%s: alpha channel ignored", name)
    return convert(pixels, 3, np.uint8)


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes an image, uint8 [H, W, 3], in the format of the path's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as temporary:
        Image.fromarray(image).save(temporary)
