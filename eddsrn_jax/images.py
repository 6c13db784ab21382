"""Image files in and out: the one place where photographs are decoded.

In memory a photograph is uint8 RGB [H, W, 3].
"""

import io
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from eddsrn_jax.errors import InputError

_log = logging.getLogger(__name__)

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def list_images(folder: str | Path) -> list[Path]:
    """The image files below a folder and its subfolders, sorted.

    Files with other extensions are counted in a warning.

    Raises:
        InputError: the folder does not exist or holds no image.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        reason = "not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {reason}")
    found, others = [], []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name.startswith("."):
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


def _open(file: Path | bytes) -> Image.Image:
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)


def count_pixels(file: Path | bytes, name: str) -> int:
    """Height times width, from the header alone.

    Raises:
        InputError: not an image.
    """
    try:
        with _open(file) as image:
            return image.width * image.height
    # Pillow's decoders raise whatever their bytes lead them to.
    except Exception as error:
        raise InputError(f"{name}: not a readable image ({_reason(error)})") from error


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
    try:
        with _open(file) as image:
            raw_mode = _raw_mode(image)
            return _to_rgb(ImageOps.exif_transpose(image), name, raw_mode)
    except Exception as error:
        raise InputError(f"{name}: cannot be decoded ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    # Pillow's "cannot identify image file" ends in a path or an object's address.
    return str(error).split(" <")[0].split(" '/")[0] or type(error).__name__


def _raw_mode(image: Image.Image) -> str:
    """How the file stores pixels, such as "RGB;16B"; known only before decoding."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _to_rgb(image: Image.Image, name: str, raw_mode: str) -> np.ndarray:
    if ";16" in raw_mode or image.mode.startswith("I") or image.mode == "F":
        _log.warning("%s: reduced to 8 bits per channel", name)
    if image.mode.startswith("I"):
        # Pillow clips 16-bit gray at 255 where one would expect scaling.
        gray = np.clip(np.asarray(image, np.float64) / 257.0, 0, 255)
        return np.repeat(np.rint(gray).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise InputError("floating-point pixels have no known range")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        _log.warning("%s: alpha channel ignored", name)
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] in the format of the path's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
