"""Image files in: the one place where photographs are opened and decoded.

For training a photograph is uint8 RGB [H, W, 3], by `read_image`. With its gray, alpha
and 16 bits as they are it comes from `open_photo` and `decode`, on which
`eddsrn_jax.pictures` stands.
"""

import logging
from pathlib import Path

import numpy as np
from PIL import Image

from eddsrn_jax.errors import InputError
from eddsrn_jax.files import written_beside
from eddsrn_jax.images.decoding import EXTENSIONS, convert, decode, naming, open_photo

_log = logging.getLogger(__name__)


def list_images(folder: str | Path, *, recursive: bool = True) -> list[Path]:
    """The image files of a folder, sorted.

    Hidden ones are left out; those with other extensions are counted in a warning.

    Args:
        folder: to search.
        recursive: whether its subfolders are searched too.

    Raises:
        InputError: the folder does not exist or holds no image.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        reason = "not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {reason}")
    found, others = [], []
    for path in sorted(folder.glob("**/*" if recursive else "*")):
        hidden = any(x.startswith(".") for x in path.relative_to(folder).parts)
        if hidden or path.is_dir():
            continue
        if path.suffix.lower() not in EXTENSIONS:
            others.append(path)
        elif path.is_file():
            found.append(path)
        else:
            _log.warning("%s: not a file (a broken link?); left out", path)
    if others:
        _log.warning(
            "%s: %d files left out, not among %s: %s%s",
            *(folder, len(others), _extensions(), others[0].name),
            " ..." if len(others) > 1 else "",
        )
    if not found:
        raise InputError(f"{folder}: no images in it (looked for {_extensions()})")
    return found


def _extensions() -> str:
    return " ".join(f"*{e}" for e in EXTENSIONS)


def count_pixels(file: Path | bytes, name: str) -> int:
    """Height times width, from the header alone.

    Raises:
        InputError: not an image.
    """
    with naming(name, "not a readable image"), open_photo(file) as photo:
        return photo.header.height * photo.header.width


def read_image(file: Path | bytes, name: str = "") -> np.ndarray:
    """Decodes an image file to RGB.

    The EXIF orientation is applied. Gray becomes three equal channels; CMYK and
    palettes are converted; alpha is dropped, and 16 bits are reduced to 8, with a
    warning each.

    Args:
        file: a path, or the file's content.
        name: what to call it in messages; the path where empty.

    Returns:
        uint8 [H, W, 3].

    Raises:
        InputError: it cannot be decoded to the end.
    """
    name = name or str(file)
    with naming(name, "cannot be decoded"), open_photo(file) as photo:
        pixels = decode(photo)
    if pixels.dtype != np.uint8:
        _log.warning("%s: reduced to 8 bits per channel", name)
    if pixels.shape[2] in (2, 4):
        _log.warning("%s: alpha channel ignored", name)
    return convert(pixels, 3, np.uint8)


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] in the format of the path's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as temporary:
        Image.fromarray(image).save(temporary)
