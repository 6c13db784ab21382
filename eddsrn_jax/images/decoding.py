"""Opens and decodes image files, with all supported kinds of pixels."""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from eddsrn_jax.errors import InputError
from eddsrn_jax.images import png, tiff
from eddsrn_jax.images.other_formats import READ, add_coded_colour, open_other
from eddsrn_jax.images.photo import (
    IPTC_LOST,
    ORIENTATION,
    Header,
    Photo,
    dots_per_inch,
    exif_of,
    has_iptc,
    turned,
)
from eddsrn_jax.images.pixels import (
    CHANNELS,
    pixel_mode,
    to_array,
    upright,
    without_xmp,
)

__all__ = [
    "EXTENSIONS",
    "READ_EXTENSIONS",
    "Header",
    "Photo",
    "decode",
    "describe_excess",
    "naming",
    "open_photo",
]

# Extensions of the formats that are both read and written.
EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Extensions of all formats that are read.
READ_EXTENSIONS = (
    *EXTENSIONS,
    *(".avif", ".avifs", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif"),
    *(".jp2", ".jpe", ".jpf", ".jpx", ".jxl", ".mpo"),
)
# The formats that Pillow opens. The content decides, not the extension: a PDF named .png
# is refused. JPEG includes MPO.
_FORMATS = ("BMP", "DIB", "JPEG", "TIFF", "WEBP", "GIF", "AVIF", "JPEG2000")


@contextlib.contextmanager
def naming(name: str, failure: str) -> Iterator[None]:
    """Turns any exception of the block into an error "NAME: FAILURE (reason)".

    Raises:
        InputError: the block raised an exception. Decoders of untrusted bytes may raise
            any type.
    """
    try:
        yield
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        # Pillow's "cannot identify image file" ends with an object's address.
        reason = reason or " ".join(str(error).split(" <")[0].split())
        if isinstance(error, Image.DecompressionBombError):
            pixels, limit = map(int, re.findall(r"\d+", reason))
            reason = describe_excess(pixels, limit)
        if reason == "cannot identify image file":
            reason += f"; {READ} are read"
        # The message of a KeyError is the bare key, so its type is added.
        if not reason or isinstance(error, KeyError):
            reason = f"{type(error).__name__} {reason}".strip()
        raise InputError(f"{name}: {failure} ({reason})") from error


def describe_excess(pixels: int, limit: int) -> str:
    """Returns the reason for refusing an image of too many pixels."""
    return (
        f"it has {pixels / 1e6:.0f} megapixels, and at most {limit / 1e6:.0f} are read;"
        " cut it into several photos"
    )


@contextlib.contextmanager
def open_photo(file: str | Path | bytes) -> Iterator[Photo]:
    """Opens an image file, by path or content, and reads its header."""
    if isinstance(file, bytes):
        stream = io.BytesIO(file)
    elif (path := Path(file)).exists() and not path.is_file():
        # Opening a named pipe would wait for its other end.
        raise InputError("not a file")
    else:
        stream = path.open("rb")
    with stream:
        head = stream.read(8)
        stream.seek(0)
        if head == png.SIGNATURE:
            yield _checked(png.open_png(stream))
        elif head[:4] in tiff.SIGNATURES:
            page = tiff.page_to_read(stream)
            yield _checked(tiff.open_wide_tiff(stream, *page) or _pillow(stream, *page))
        else:
            yield _checked(open_other(stream) or _pillow(stream))


def _checked(photo: Photo) -> Photo:
    """Returns an open photo; raises InputError if its sides are not 1 or more."""
    sides = photo.header.height, photo.header.width
    if not all(isinstance(side, int | np.integer) and side > 0 for side in sides):
        raise InputError(f"implausible header: {sides[1]}x{sides[0]} pixels")
    return photo


def _pillow(
    stream: BinaryIO,
    page: int = 0,
    offset: int | None = None,
    notes: list[str] | None = None,
) -> Photo:
    """Opens a file of 8 bits with Pillow; the arguments are those of `page_to_read`."""
    image = Image.open(stream, formats=_FORMATS)
    several = not page and getattr(image, "is_animated", False)
    if page:
        image.seek(page)
    arguments = image.tile[0][3] if image.tile else image.mode
    # How the file stores pixels, such as "RGB;16B"; known only before decoding.
    raw_mode = str(arguments[0] if isinstance(arguments, tuple) else arguments)
    if image.mode.startswith("I;"):
        raise InputError(f"the value range of {raw_mode} pixels is unknown")
    mode, notes = pixel_mode(image), notes or []
    info = {"xmp": without_xmp(image), "icc_profile": image.info.get("icc_profile")}
    exif = exif_of(image, notes)
    orientation, (width, height) = exif.get(ORIENTATION, 1), image.size
    # Pillow turns TIFF images itself, and its size is the one after turning.
    if image.format == "TIFF":
        tiff.check_strips(image)
        orientation = 1
        info |= tiff.tiff_info(exif)
    size = turned(height, width, orientation)
    header = Header(*size, CHANNELS[mode], np.dtype(np.uint8))
    kind = {"MPO": "JPEG", "JPEG2000": "JPEG 2000"}.get(image.format or "", image.format)
    photo = Photo(
        stream=stream,
        header=header,
        orientation=orientation,
        exif=exif,
        info=info,
        several=several,
        kind=kind or "",
        image=image,
        notes=notes,
    )
    _add_metadata(photo, image)
    return photo


def _add_metadata(photo: Photo, image: Image.Image) -> None:
    """Adds the resolution, comments and losses, which each format stores differently."""
    info = image.info
    if photo.kind == "JPEG":
        # Pillow invents 72 dots per inch for photos with EXIF but no resolution.
        has_unit = info.get("jfif_unit") in (1, 2)
        photo.info["dpi"] = info.get("dpi") if has_unit else dots_per_inch(photo.exif)
        is_iptc = 1028 in (info.get("photoshop") or {})
    else:
        is_iptc = has_iptc(photo.exif)
    if photo.kind == "BMP":
        photo.info["dpi"] = info.get("dpi")
    if is_iptc:
        photo.notes.append(IPTC_LOST)
    comment = info.get("comment")
    if comment and photo.kind in ("JPEG", "GIF"):
        photo.info["texts"] = [("Comment", _text(comment))]
    if photo.kind == "JPEG 2000":
        photo.notes.append("colour profile and metadata of JPEG 2000 are not read")
    if photo.kind == "AVIF":
        position = photo.stream.tell()
        photo.stream.seek(0)
        add_coded_colour(photo, photo.stream.read(2**16))
        photo.stream.seek(position)


def _text(content: bytes | str) -> str:
    if isinstance(content, str):
        return content
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def decode(photo: Photo, *, lenient: bool = False) -> np.ndarray:
    """Decodes an open photo and turns it upright.

    Gray and 1 bit become one channel. All colours become RGB; CMYK is converted without
    its profile. Alpha is kept.

    Args:
        photo: open photo.
        lenient: whether to decode damaged PNG data as far as possible.

    Returns:
        Pixels, uint8 or uint16 [H, W, C], as in the header.

    Raises:
        InputError: the pixels do not match the header.
    """
    if photo.decoder:
        pixels = photo.decoder(lenient)
    else:
        assert photo.image is not None
        pixels = to_array(photo.image)
    pixels = upright(pixels.reshape(*pixels.shape[:2], -1), photo.orientation)
    height, width, channels = pixels.shape
    found = Header(height, width, channels, pixels.dtype)
    if found != photo.header:
        raise InputError(f"decoded as {found}, but the file declares {photo.header}")
    return pixels
