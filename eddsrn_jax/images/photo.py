"""An open image file: its header, its metadata, and the way to its pixels."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

# The orientations that exchange height and width.
SIDEWAYS = (5, 6, 7, 8)
ORIENTATION = 0x0112
EXIF_DAMAGED = "EXIF is damaged and was left out"
IPTC_LOST = "IPTC data is not kept"
_IPTC_TAGS = (33723, 34377)


@dataclasses.dataclass(frozen=True)
class Header:
    """Properties of an image that are known before it is decoded.

    Attributes:
        height, width: size in pixels, after the EXIF orientation is applied.
        channels: number of channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.
        dtype: type of the pixels, uint8 or uint16.
    """

    height: int
    width: int
    channels: int
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Photo:
    """An open image file of which only the header has been read.

    Attributes:
        stream: file or bytes to read from.
        header: size, channels and dtype of the pixels that `decode` returns.
        orientation: EXIF orientation, 1 to 8, that `decode` applies.
        exif: all EXIF tags; those of a TIFF file include its structural tags.
        info: "icc_profile" and "xmp" (bytes), "dpi" (two numbers), "texts" (pairs of key
            and text), "colour" (PNG chunks, pairs of kind and content); each may be
            missing.
        several: whether further images follow in the file.
        kind: name of the format, such as "JPEG".
        image: Pillow image, or None if another library decodes the file.
        decoder: function that returns the pixels, not turned upright; None takes those
            of `image`. Its argument tells whether to decode damaged data as far as
            possible.
        notes: messages about losses and about damaged metadata.
    """

    stream: BinaryIO
    header: Header
    orientation: int
    exif: Image.Exif
    info: dict[str, Any]
    several: bool
    kind: str
    image: Image.Image | None = None
    decoder: Callable[[bool], np.ndarray] | None = None
    notes: list[str] = dataclasses.field(default_factory=list)


def turned(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Returns height and width after an EXIF orientation is applied."""
    return (width, height) if orientation in SIDEWAYS else (height, width)


def dots_per_inch(exif: Image.Exif) -> tuple[float, float] | None:
    """Returns the resolution that EXIF or TIFF tags give, or None if there is none."""
    unit = {2: 1.0, 3: 2.54}.get(exif.get(296, 2))
    # In damaged files the values are of any type, and denominators can be 0.
    with contextlib.suppress(KeyError, TypeError, ValueError, ArithmeticError):
        if unit:
            return float(exif[282]) * unit, float(exif[283]) * unit
    return None


def has_iptc(exif: Image.Exif) -> bool:
    """Returns whether EXIF or TIFF tags hold IPTC data."""
    return any(tag in exif for tag in _IPTC_TAGS)


def exif_of(image: Image.Image, notes: list[str]) -> Image.Exif:
    """Returns the EXIF tags of a Pillow image, without those that it takes from XMP.

    XMP must have been removed from the image's info. Pillow may have read it before, and
    then remembers an orientation from it; EXIF data are therefore parsed again.

    Args:
        image: the image.
        notes: list to which a message is appended if EXIF is damaged; then there are no
            tags.
    """
    stored = image.info.get("exif")
    if stored is not None:
        return parsed_exif(stored, notes)
    try:
        return image.getexif()
    except Exception:
        notes.append(EXIF_DAMAGED)
        return Image.Exif()


def parsed_exif(content: bytes | None, notes: list[str]) -> Image.Exif:
    """Parses EXIF data; appends a message if it is damaged, and then returns no tags."""
    exif = Image.Exif()
    try:
        exif.load(content or b"")
    except Exception:
        notes.append(EXIF_DAMAGED)
        return Image.Exif()
    return exif
