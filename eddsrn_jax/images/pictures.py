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
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from eddsrn_jax.errors import InputError
from eddsrn_jax.images.decoding import (
    EXTENSIONS,
    Header,
    convert,
    decode,
    naming,
    open_photo,
    to_pillow,
)
from eddsrn_jax.images.metadata import (
    Metadata,
    cmyk_to_srgb,
    describes,
    icc_profile,
    one_line,
    resolution,
    upright_exif,
)

_log = logging.getLogger(__name__)
_MAX_SIDE = {"WebP": 16383, "JPEG": 65535}
_FORMATS: dict[str, str] = dict(
    zip(EXTENSIONS, ("BMP", "JPEG", "JPEG", "PNG", "TIFF", "TIFF", "WebP"), strict=True)
)
# Bytes of pixels in a classic TIFF file, a little below the 4 GiB that its offsets reach.
_LARGEST_TIFF = 4_000_000_000
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# Level 6 takes 1.1 s instead of 0.4 s for 4 megapixels, and saves only 4 % of space.
_PNG_LEVEL = 3
_OPTIONS = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "PNG": {"compress_level": _PNG_LEVEL},
    "WebP": {"quality": 95},
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


def read_picture(path: str | Path) -> tuple[np.ndarray, Metadata]:
    """Decodes a picture; logs a warning for each conversion and each loss.

    Memory is proportional to the header's pixel count, which callers must check first.

    Returns:
        The pixels, uint8 or uint16 [H, W, C] as in the header, and the metadata.

    Raises:
        InputError: the file cannot be decoded to the end.
    """
    path = Path(path)
    messages = []
    try:
        with (
            _collected_warnings(messages),
            naming(str(path), "cannot be decoded"),
            open_photo(path) as photo,
        ):
            if photo.several:
                messages.append("only the first of several pictures is read")
            icc = icc_profile(photo)
            if photo.image is not None and photo.image.mode == "CMYK":
                photo, icc = cmyk_to_srgb(photo, icc, messages)
            try:
                tags = upright_exif(photo.exif)
                exif = tags.tobytes() if tags else None
            except Exception as error:
                exif = messages.append(f"EXIF not kept: {one_line(error)}")
            return decode(photo), Metadata(icc, exif, resolution(photo))
    finally:
        for message in dict.fromkeys(messages):
            _log.warning("%s: %s", path, message)


@contextlib.contextmanager
def _collected_warnings(messages: list[str]) -> Iterator[None]:
    """Appends the libraries' warnings to `messages`, and lifts Pillow's pixel limit.

    Both are settings of the process, so a lock lets one thread at a time change them.
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
        for logger in loggers:
            logger.addFilter(collect)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(collect)
            Image.MAX_IMAGE_PIXELS = limit
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
    path: str | Path, pixels: Image.Image | np.ndarray, metadata: Metadata
) -> list[str]:
    """Writes a picture in the format of the path's extension.

    JPEG has quality 95 and full colour resolution (4:4:4). WebP is lossy with quality 95.
    PNG and TIFF (deflate) are lossless. The write is not atomic: pass a temporary name,
    and rename the file afterwards.

    Args:
        path: file that ends in one of `EXTENSIONS`, in an existing folder.
        pixels: Pillow image of mode L, LA, RGB or RGBA, or array [H, W, C], uint8 or
            uint16. A Pillow image is not copied as a whole if the format can hold it.
        metadata: metadata to write, as far as the format can hold it.

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
        pixels = pixels.convert(_MODES[channels])
    metadata = _fitting(metadata, file_format, channels, messages)
    without_exif = dataclasses.replace(metadata, exif=None)
    for kept in (metadata, without_exif, Metadata()):
        try:
            _write(path, file_format, pixels, kept)
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
    channels = {mode: count for count, mode in _MODES.items()}[pixels.mode]
    return Header(pixels.height, pixels.width, channels, np.dtype(np.uint8))


def _fitting(
    metadata: Metadata, file_format: str, channels: int, messages: list[str]
) -> Metadata:
    """Returns the metadata that a format can hold and that suits the channels."""
    icc, exif, dpi = metadata.icc, metadata.exif, metadata.dpi
    if file_format == "BMP" and (icc or exif):
        messages.append("ICC profile and EXIF dropped: BMP cannot hold them")
        icc = exif = None
    # libpng ignores RGB profiles in gray files.
    if icc and not describes(icc, channels, strictly=file_format == "PNG"):
        messages.append("ICC profile dropped: it does not describe these pixels")
        icc = None
    return Metadata(icc, exif, None if file_format == "WebP" else dpi)


def _write(
    path: Path, file_format: str, pixels: Image.Image | np.ndarray, metadata: Metadata
) -> None:
    header, exif = _header_of(pixels), Image.Exif()
    exif.load(metadata.exif or b"")
    exif = upright_exif(exif, (header.width, header.height))
    if file_format == "TIFF":
        _write_tiff(path, pixels, metadata, exif)
        return
    metadata = dataclasses.replace(metadata, exif=exif.tobytes() if exif else None)
    if isinstance(pixels, np.ndarray):
        path.write_bytes(_wide_png(pixels, metadata))
    else:
        options = {"exif": metadata.exif, "dpi": metadata.dpi}
        options = {key: value for key, value in options.items() if value}
        options |= _OPTIONS.get(file_format, {})
        pixels.save(path, file_format, icc_profile=metadata.icc, **options)


def _wide_png(pixels: np.ndarray, metadata: Metadata) -> bytes:
    """Encodes a 16-bit PNG file, as Pillow cannot write 16-bit colour."""
    chunks = []
    if metadata.icc:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi:
        per_metre = [round(dpi / 0.0254) for dpi in metadata.dpi]
        chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif.removeprefix(b"Exif\0\0")))
    data = bytes(imagecodecs.png_encode(pixels, level=_PNG_LEVEL))
    # The chunks go after the signature and the header, which have 33 bytes.
    return data[:33] + b"".join(_chunk(*chunk) for chunk in chunks) + data[33:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _write_tiff(
    path: Path, pixels: Image.Image | np.ndarray, metadata: Metadata, exif: Image.Exif
) -> None:
    """Writes in strips with tifffile: Pillow lacks 16-bit colour and files over 4 GB."""
    header = _header_of(pixels)
    height, width, channels = header.height, header.width, header.channels
    rows = max(1, 2**18 // width)
    is_big = height * width * channels * header.dtype.itemsize > _LARGEST_TIFF
    if is_big and exif:
        raise ValueError("the file is a BigTIFF")
    tifffile.imwrite(
        path,
        (_strip(pixels, top, min(top + rows, height)) for top in range(0, height, rows)),
        byteorder="<",
        bigtiff=is_big,
        shape=(height, width, channels) if channels > 1 else (height, width),
        dtype=header.dtype,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        rowsperstrip=rows,
        compression="adobe_deflate",
        predictor=True,
        resolution=metadata.dpi,
        iccprofile=metadata.icc,
        software=False,
        metadata=None,
    )
    if exif:
        _add_exif(path, exif)


def _strip(pixels: Image.Image | np.ndarray, top: int, bottom: int) -> bytes:
    """Encodes rows [top, bottom) as a TIFF strip: deflate of horizontal differences."""
    if isinstance(pixels, Image.Image):
        rows = np.asarray(pixels.crop((0, top, pixels.width, bottom)))
    else:
        rows = pixels[top:bottom]
    differences = imagecodecs.delta_encode(rows, axis=1)
    # Arrays are accepted, but not every version of imagecodecs declares it.
    content: Any = differences
    return bytes(imagecodecs.deflate_encode(content, level=6))


def _add_exif(path: Path, exif: Image.Exif) -> None:
    """Adds EXIF tags to a TIFF file, which tifffile does not write."""
    with path.open("r+b") as file:
        file.seek(4)
        entries = _entries(file, int.from_bytes(file.read(4), "little"))
        start = file.seek(0, io.SEEK_END)
        start += file.write(bytes(start % 2))
        # The offsets of this directory count from the beginning of the file.
        file.write(exif.tobytes(start).removeprefix(b"Exif\0\0")[8:])
        entries = _entries(file, start) | entries
        start = file.seek(0, io.SEEK_END)
        start += file.write(bytes(start % 2))
        file.write(struct.pack("<H", len(entries)))
        file.write(b"".join(entries[tag] for tag in sorted(entries)) + bytes(4))
        file.seek(4)
        file.write(struct.pack("<L", start))


def _entries(file: BinaryIO, offset: int) -> dict[int, bytes]:
    """Reads the entries of a little-endian TIFF directory, by tag."""
    file.seek(offset)
    (count,) = struct.unpack("<H", file.read(2))
    entries = [file.read(12) for _ in range(count)]
    return {int.from_bytes(entry[:2], "little"): entry for entry in entries}
