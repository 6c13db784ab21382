"""Encodes PNG and TIFF files of all kinds of pixels, with metadata."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from eddsrn_jax.images.metadata import Metadata
from eddsrn_jax.images.png import chunk

# Level 6 takes 1.1 s instead of 0.4 s for 4 megapixels, and saves only 4 % of space.
PNG_LEVEL = 3
# Chunks that Pillow does not write.
_UNKNOWN_TO_PILLOW = (b"mDCV", b"cLLI")
_XMP_TAG = 700


def needs_array(metadata: Metadata) -> bool:
    """Returns whether only `encode_png`, not Pillow, can write these metadata."""
    return any(kind in _UNKNOWN_TO_PILLOW for kind, _ in metadata.colour)


def png_info(metadata: Metadata) -> PngImagePlugin.PngInfo | None:
    """Returns colour chunks and texts in the form that Pillow writes."""
    info = PngImagePlugin.PngInfo()
    info.chunks = [(kind, content, False) for kind, content in _described(metadata)]
    return info if info.chunks else None


def _described(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Returns the PNG chunks of colours, XMP and texts."""
    chunks = [
        (kind, content)
        for kind, content in metadata.colour
        # A file has a profile or the chunk sRGB.
        if not (metadata.icc and kind == b"sRGB")
    ]
    if metadata.xmp:
        chunks.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    return chunks + [_text_chunk(key, text) for key, text in metadata.texts]


def _text_chunk(key: str, text: str) -> tuple[bytes, bytes]:
    """Returns kind and content; not compressed, as Pillow rejects large such texts."""
    name = key.encode("latin-1", "replace")[:79] or b"Comment"
    try:
        return b"tEXt", name + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        content = text.encode("utf-8", "surrogateescape")
        return b"iTXt", name + b"\0\0\0\0\0" + content


def encode_png(pixels: np.ndarray, metadata: Metadata) -> bytes:
    """Encodes a PNG file of 8 or 16 bits; Pillow cannot write 16-bit colour."""
    chunks = []
    if metadata.icc:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    chunks += _described(metadata)
    if metadata.dpi:
        per_metre = [round(dpi / 0.0254) for dpi in metadata.dpi]
        chunks.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if metadata.exif:
        chunks.append((b"eXIf", metadata.exif.removeprefix(b"Exif\0\0")))
    data = bytes(imagecodecs.png_encode(pixels, level=PNG_LEVEL))
    # The chunks go after the signature and the header, which have 33 bytes.
    return data[:33] + b"".join(chunk(*content) for content in chunks) + data[33:]


def write_tiff(
    path: Path,
    pixels: Image.Image | np.ndarray,
    metadata: Metadata,
    exif: Image.Exif,
    *,
    largest: int,
) -> None:
    """Writes in strips with tifffile: Pillow lacks 16-bit colour and files over 4 GB.

    Args:
        path: file to write.
        pixels: Pillow image or array [H, W, C].
        metadata: profile, resolution and XMP to write.
        exif: EXIF tags to write.
        largest: bytes of pixels beyond which the file is a BigTIFF.

    Raises:
        ValueError: there are EXIF tags, which a BigTIFF cannot hold here.
    """
    if isinstance(pixels, np.ndarray):
        (height, width, channels), dtype = pixels.shape, pixels.dtype
    else:
        height, width, dtype = pixels.height, pixels.width, np.dtype(np.uint8)
        channels = len(pixels.getbands())
    rows = max(1, 2**18 // width)
    is_big = height * width * channels * dtype.itemsize > largest
    if is_big and exif:
        raise ValueError("the file is a BigTIFF")
    tifffile.imwrite(
        path,
        (_strip(pixels, top, min(top + rows, height)) for top in range(0, height, rows)),
        byteorder="<",
        bigtiff=is_big,
        shape=(height, width, channels) if channels > 1 else (height, width),
        dtype=dtype,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        rowsperstrip=rows,
        compression="adobe_deflate",
        predictor=True,
        resolution=metadata.dpi,
        iccprofile=metadata.icc,
        extratags=[(_XMP_TAG, 1, len(metadata.xmp), metadata.xmp, True)]
        if metadata.xmp
        else None,
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
