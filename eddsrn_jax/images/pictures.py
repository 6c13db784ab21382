"""Reads and writes users' pictures with gray, alpha, 16 bits and metadata.

A picture in memory is upright, uint8 or uint16 [H, W, C]. C is 1 for gray, 2 for gray and
alpha, 3 for RGB or 4 for RGB and alpha. PNG and TIFF hold all of these. Other formats
lose something, which `fit_to_format` lists.
"""

import contextlib
import dataclasses
import io
import logging
import math
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from eddsrn_jax.errors import InputError
from eddsrn_jax.images import encoding
from eddsrn_jax.images.damage import find_damage
from eddsrn_jax.images.decoding import (
    EXTENSIONS,
    Header,
    Photo,
    decode,
    naming,
    open_photo,
)
from eddsrn_jax.images.metadata import (
    Metadata,
    cmyk_to_srgb,
    damages_exif,
    describes,
    icc_profile,
    one_line,
    read_metadata,
    upright_exif,
)
from eddsrn_jax.images.photo import EXIF_DAMAGED
from eddsrn_jax.images.pixels import CHANNELS, MODES, convert, to_pillow

_log = logging.getLogger(__name__)
_MAX_SIDE = {"WebP": 16383, "JPEG": 65500}
_FORMATS: dict[str, str] = dict(
    zip(EXTENSIONS, ("BMP", "JPEG", "JPEG", "PNG", "TIFF", "TIFF", "WebP"), strict=True)
)
# Bytes of pixels in a classic TIFF file, a little below the 4 GiB that its offsets reach.
_LARGEST_TIFF = 4_000_000_000
# The most bytes of XMP and of a comment in a JPEG file.
_LARGEST_XMP, _LARGEST_COMMENT = 65_502, 65_533
_OPTIONS = {
    "JPEG": {"subsampling": "4:4:4"},
    "PNG": {"compress_level": encoding.PNG_LEVEL},
}
_LOGGERS = ("PIL.TiffImagePlugin", "imagecodecs", "tifffile")
_undisturbed = threading.Lock()


def read_header(path: str | Path) -> Header:
    """Reads the size, channels and dtype of a picture, without decoding it.

    Raises:
        InputError: the file is not a readable image.
    """
    path = Path(path)
    with (
        _collected_warnings([]),
        naming(str(path), "not a readable image"),
        open_photo(path) as photo,
    ):
        return photo.header


def read_picture(
    path: str | Path, *, damaged: str = "fail"
) -> tuple[np.ndarray, Metadata]:
    """Decodes a picture; logs a warning for each conversion and each loss.

    Memory is proportional to the header's pixel count, which callers must check first.

    Args:
        path: file to read.
        damaged: "fail" raises an error if image data is missing or damaged. "restore"
            logs a warning instead and returns what can be decoded.

    Returns:
        The pixels, uint8 or uint16 [H, W, C] as in the header, and the metadata.

    Raises:
        InputError: the file cannot be decoded to the end.
    """
    path, messages = Path(path), []
    try:
        return _read(path, messages, lenient=False)
    except InputError as error:
        if damaged == "fail":
            raise
        reason = str(error).removeprefix(f"{path}: ")
        messages.clear()
        found = _read(path, messages, lenient=True)
        messages.append(f"parts of the image are damaged: {reason}")
        return found
    finally:
        for message in dict.fromkeys(messages):
            _log.warning("%s: %s", path, message)


def _read(
    path: Path, messages: list[str], *, lenient: bool
) -> tuple[np.ndarray, Metadata]:
    with (
        _collected_warnings(messages, lenient=lenient) as caught,
        naming(str(path), "cannot be decoded"),
        open_photo(path) as photo,
    ):
        messages += photo.notes
        if photo.several:
            messages.append("only the first of several pictures is read")
        if not lenient and (damage := find_damage(photo)):
            raise InputError(f"the image data is damaged: {damage}")
        icc = icc_profile(photo)
        metadata = read_metadata(photo, icc, messages)
        metadata = dataclasses.replace(metadata, exif=_exif(photo, caught, messages))
        if photo.image is not None and photo.image.mode == "CMYK":
            photo, icc = cmyk_to_srgb(photo, icc, messages)
            metadata = dataclasses.replace(metadata, icc=icc)
        return decode(photo, lenient=lenient), metadata


def _exif(
    photo: Photo, caught: list[warnings.WarningMessage], messages: list[str]
) -> bytes | None:
    """Encodes the EXIF tags to keep; None if there are none or they are damaged."""
    try:
        tags = upright_exif(photo.exif)
        exif = tags.tobytes() if tags else None
    except Exception:
        exif, damaged = None, True
    else:
        damaged = any(damages_exif(warning.message) for warning in caught)
    if damaged:
        messages.append(EXIF_DAMAGED)
        caught[:] = [x for x in caught if not damages_exif(x.message)]
        return None
    return exif


@contextlib.contextmanager
def _collected_warnings(
    messages: list[str], *, lenient: bool = False
) -> Iterator[list[warnings.WarningMessage]]:
    """Appends the libraries' warnings to `messages`, and lifts Pillow's pixel limit.

    These are settings of the process, so a lock lets one thread at a time change them.

    Args:
        messages: list of messages.
        lenient: whether Pillow decodes truncated files as far as possible.

    Yields:
        The warnings so far.
    """

    def collect(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            messages.append(one_line(record.getMessage()))
        return record.levelno < logging.WARNING

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with _undisturbed, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        truncated = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
        for logger in loggers:
            logger.addFilter(collect)
        try:
            yield caught
        finally:
            for logger in loggers:
                logger.removeFilter(collect)
            Image.MAX_IMAGE_PIXELS = limit
            ImageFile.LOAD_TRUNCATED_IMAGES = truncated
            messages += [one_line(warning.message) for warning in caught]


def fit_to_format(suffix: str, header: Header) -> tuple[int, np.dtype, list[str]]:
    """Returns the channels and dtype in which a format can hold a picture.

    Args:
        suffix: extension of the file, such as ".jpg".
        header: size, channels and dtype of the picture.

    Returns:
        Channels and dtype for `convert`, and a message for each loss.

    Raises:
        InputError: the extension is unknown, or a side is longer than the format allows.
    """
    file_format = _format(suffix)
    height, width, channels = header.height, header.width, header.channels
    longest = _MAX_SIDE.get(file_format, math.inf)
    if max(height, width) > longest:
        raise InputError(
            f"{width}x{height} pixels are too many for {file_format}, whose sides have at"
            f" most {longest:,} pixels"
        )
    dtype, losses = header.dtype, []
    if file_format in ("BMP", "JPEG") and channels in (2, 4):
        losses.append(f"alpha dropped: {file_format} cannot hold it")
        channels -= 1
    if file_format not in ("PNG", "TIFF") and dtype != np.uint8:
        losses.append(f"reduced to 8 bits: {file_format} cannot hold 16")
        dtype = np.dtype(np.uint8)
    if file_format == "WebP":
        # WebP stores only colour, in which gray looks the same.
        channels = {1: 3, 2: 4}.get(channels, channels)
    return channels, dtype, losses


def _format(suffix: str) -> str:
    if suffix.lower() not in _FORMATS:
        known = " ".join(EXTENSIONS)
        raise InputError(f"{suffix!r}: unknown extension, use one of {known}")
    return _FORMATS[suffix.lower()]


def write_picture(
    path: str | Path,
    pixels: Image.Image | np.ndarray,
    metadata: Metadata,
    *,
    quality: int = 95,
) -> list[str]:
    """Writes a picture in the format of the path's extension.

    JPEG has full colour resolution (4:4:4). WebP is lossy. PNG and TIFF (deflate) are
    lossless. The write is not atomic: pass a temporary name, and rename the file
    afterwards.

    Args:
        path: file that ends in one of `EXTENSIONS`, in an existing folder.
        pixels: Pillow image of mode L, LA, RGB or RGBA, or array [H, W, C], uint8 or
            uint16. A Pillow image is not copied as a whole if the format can hold it.
        metadata: metadata to write, as far as the format can hold it.
        quality: quality of JPEG and WebP files, 1 to 100.

    Returns:
        A message for each loss of pixel data and for metadata that was not written.

    Raises:
        InputError: see `fit_to_format`.
        OSError: the file cannot be written, for example to a full disk.
    """
    path = Path(path)
    file_format, header = _format(path.suffix), _header_of(pixels)
    channels, dtype, messages = fit_to_format(path.suffix, header)
    if isinstance(pixels, np.ndarray):
        pixels = convert(pixels, channels, dtype)
        if file_format != "TIFF" and dtype == np.uint8:
            pixels = to_pillow(pixels)
    elif channels != header.channels:
        pixels = pixels.convert(MODES[channels])
    metadata = _fitting(metadata, file_format, channels, messages)
    without_exif = dataclasses.replace(metadata, exif=None)
    for kept in (metadata, without_exif, Metadata()):
        try:
            _write(path, pixels, kept, quality=quality)
            break
        except Exception as error:
            # An errno means an error of the system, such as a full disk. Leaving out
            # metadata would not help.
            if kept == Metadata() or getattr(error, "errno", None):
                raise
            lost = "EXIF" if kept.exif else "ICC profile and resolution"
            messages.append(f"{lost} not written ({one_line(error)})")
    return messages


def _header_of(pixels: Image.Image | np.ndarray) -> Header:
    if isinstance(pixels, np.ndarray):
        height, width, channels = pixels.shape
        return Header(height, width, channels, pixels.dtype)
    return Header(pixels.height, pixels.width, CHANNELS[pixels.mode], np.dtype(np.uint8))


def _fitting(
    metadata: Metadata, file_format: str, channels: int, messages: list[str]
) -> Metadata:
    """Returns the metadata that a format can hold and that suits the channels."""
    icc, exif, xmp, texts = metadata.icc, metadata.exif, metadata.xmp, metadata.texts
    if file_format == "BMP" and (icc or exif or xmp):
        kinds = {"ICC profile": icc, "EXIF": exif, "XMP": xmp}
        lost = ", ".join(kind for kind, content in kinds.items() if content)
        messages.append(f"{lost} dropped: BMP cannot hold metadata")
        icc = exif = xmp = None
    # libpng ignores RGB profiles in gray files.
    if icc and not describes(icc, channels, strictly=file_format == "PNG"):
        messages.append("ICC profile dropped: it does not describe these pixels")
        icc = None
    if file_format == "JPEG" and xmp and len(xmp) > _LARGEST_XMP:
        messages.append(f"XMP dropped: JPEG holds at most {_LARGEST_XMP:,} bytes of it")
        xmp = None
    if file_format == "JPEG":
        texts = tuple(
            (key, text)
            for key, text in texts
            if key == "Comment" and len(_comment(text)) <= _LARGEST_COMMENT
        )[:1]
    elif file_format != "PNG":
        texts = ()
    if len(texts) < len(metadata.texts):
        lost = ", ".join(key for key, _ in metadata.texts if (key, _) not in texts)
        messages.append(f"text dropped: {file_format} cannot hold it ({one_line(lost)})")
    colour = metadata.colour if file_format == "PNG" else ()
    if not colour and metadata.special_colour:
        kinds = ", ".join(kind.decode() for kind, _ in metadata.special_colour)
        messages.append(
            f"the colour chunks {kinds} dropped: {file_format} cannot hold them, so the"
            " colours look different"
        )
    dpi = metadata.dpi
    if file_format == "WebP":
        # 72 dots per inch are the default of most cameras, and say nothing.
        if dpi and dpi != (72, 72):
            messages.append("resolution dropped: it is not written to WebP")
        dpi = None
    return Metadata(icc, exif, dpi, xmp, texts, colour)


def _comment(text: str) -> bytes:
    """Returns a text as a JPEG comment; bytes that were not UTF-8 are kept."""
    return text.encode("utf-8", "surrogateescape")


def _write(
    path: Path,
    pixels: Image.Image | np.ndarray,
    metadata: Metadata,
    *,
    quality: int,
) -> None:
    file_format, header, exif = _format(path.suffix), _header_of(pixels), Image.Exif()
    exif.load(metadata.exif or b"")
    exif = upright_exif(exif, (header.width, header.height))
    if file_format == "TIFF":
        encoding.write_tiff(path, pixels, metadata, exif, largest=_LARGEST_TIFF)
        return
    metadata = dataclasses.replace(metadata, exif=exif.tobytes() if exif else None)
    if file_format == "PNG" and encoding.needs_array(metadata):
        pixels = np.asarray(pixels)
    if isinstance(pixels, np.ndarray):
        path.write_bytes(encoding.encode_png(pixels, metadata))
        return
    options = {"exif": metadata.exif, "dpi": metadata.dpi, "xmp": metadata.xmp}
    if file_format == "JPEG" and metadata.texts:
        options["comment"] = _comment(metadata.texts[0][1])
    if file_format == "PNG":
        options |= {"xmp": None, "pnginfo": encoding.png_info(metadata)}
    options = {key: value for key, value in options.items() if value}
    options |= _OPTIONS.get(file_format, {})
    if file_format in ("JPEG", "WebP"):
        options["quality"] = quality
    # Pillow's JPEG and BMP encoders take a partial write on a full disk for success.
    content = io.BytesIO()
    pixels.save(content, file_format, icc_profile=metadata.icc, **options)
    path.write_bytes(content.getbuffer())
