"""Reads PNG files chunk by chunk: pixels, transparency, and what describes them.

libpng decodes the pixels: Pillow lacks 16-bit colour, and rejects a file for a damaged or
large text. A damaged chunk of metadata is left out with a message.
"""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from eddsrn_jax.errors import InputError
from eddsrn_jax.images.photo import (
    EXIF_DAMAGED,
    ORIENTATION,
    Header,
    Photo,
    parsed_exif,
    turned,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that change how the pixels look.
COLOUR_CHUNKS = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_OTHER_CHUNKS = (b"tRNS", b"iCCP", b"eXIf", b"pHYs", b"acTL")
_XMP = "XML:com.adobe.xmp"
_END = b"\0\0\0\0IEND\xaeB`\x82"
# The most bytes of one chunk of metadata, and of its content after decompression.
_LARGEST = 64 * 2**20
# Channels and allowed bit depths, by the colour type of the file.
_COLOURS = {
    0: (1, (1, 2, 4, 8, 16)),
    2: (3, (8, 16)),
    3: (3, (1, 2, 4, 8)),
    4: (2, (8, 16)),
    6: (4, (8, 16)),
}
# First row and column, and steps, of each pass of an interlaced file.
_PASSES = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)


def chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yields kind, offset and size of each PNG chunk, length and checksum included."""
    offset = stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        size = int.from_bytes(head[:4], "big") + 12
        yield head[4:], offset, size
        offset = stream.seek(offset + size)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Returns a chunk with its length and checksum."""
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def open_png(stream: BinaryIO) -> Photo:
    """Reads everything but the pixels.

    Raises:
        InputError: the header is invalid.
    """
    height, width, bits, colour = _dimensions(stream)
    channels, _ = _COLOURS[colour]
    found = _Metadata()
    for kind, offset, size in chunks(stream):
        if kind in (*COLOUR_CHUNKS, *_TEXT_CHUNKS, *_OTHER_CHUNKS):
            found.add(kind, _content(stream, offset, size))
    if found.transparent and colour in (0, 2, 3):
        channels += 1
    exif = parsed_exif(found.exif, found.notes)
    orientation = exif.get(ORIENTATION, 1)
    header = Header(
        *turned(height, width, orientation),
        channels,
        np.dtype(np.uint16 if bits == 16 else np.uint8),
    )
    return Photo(
        stream=stream,
        header=header,
        orientation=orientation,
        exif=exif,
        info=found.info,
        several=found.several,
        kind="PNG",
        decoder=lambda lenient: _decode(stream, lenient),
        notes=found.notes,
    )


def _dimensions(stream: BinaryIO) -> tuple[int, int, int, int]:
    """Returns height, width, bit depth and colour type."""
    stream.seek(8)
    head = stream.read(25)
    if head[:8] != b"\0\0\0\rIHDR" or len(head) < 25:
        raise InputError("the PNG header is missing")
    width, height, bits, colour = struct.unpack(">IIBB", head[8:18])
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise InputError(f"the PNG header declares {width}x{height} pixels")
    if colour not in _COLOURS or bits not in _COLOURS[colour][1]:
        raise InputError(
            f"the PNG header declares colour type {colour} with {bits} bits, which does"
            " not exist"
        )
    return height, width, bits, colour


def _content(stream: BinaryIO, offset: int, size: int) -> bytes | None:
    """Reads the content of a chunk; None if it is damaged, truncated or too large."""
    if size > _LARGEST:
        return None
    stream.seek(offset + 4)
    data = stream.read(size - 4)
    intact = len(data) == size - 4
    if not intact or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
        return None
    return data[4:-4]


class _Metadata:
    """Collects the metadata of a file from its chunks."""

    def __init__(self):
        self.info: dict[str, Any] = {}
        self.exif = b""
        self.notes: list[str] = []
        self.several = self.transparent = False
        # Bytes that compressed metadata may still take.
        self._room = _LARGEST

    def add(self, kind: bytes, content: bytes | None) -> None:
        """Adds a chunk; None as its content stands for a damaged one."""
        if kind == b"tRNS":
            # If the chunk is damaged, decoding says so.
            self.transparent = True
            return
        try:
            if content is None:
                raise ValueError("damaged")
            self._add(kind, content)
        except Exception as error:
            too_large = isinstance(error, _TooLargeError)
            reason = str(error) if too_large else "it is damaged"
            name = {b"iCCP": "the colour profile", b"eXIf": "EXIF"}.get(kind)
            name = name or f"the PNG chunk {kind.decode()}"
            left_out = f"{name} was left out: {reason}"
            damaged_exif = kind == b"eXIf" and not too_large
            self.notes.append(EXIF_DAMAGED if damaged_exif else left_out)

    def _add(self, kind: bytes, content: bytes) -> None:
        if kind in COLOUR_CHUNKS:
            # Only the first chunk of a kind counts; libpng does the same.
            colour = self.info.setdefault("colour", [])
            if kind not in dict(colour):
                colour.append((kind, content))
        elif kind == b"iCCP":
            _, _, rest = content.partition(b"\0")
            self.info.setdefault("icc_profile", self._inflated(rest[1:]))
        elif kind == b"eXIf":
            self.exif = b"Exif\0\0" + content.removeprefix(b"Exif\0\0")
        elif kind == b"pHYs":
            x, y, unit = struct.unpack(">IIB", content)
            if unit == 1:
                self.info["dpi"] = (x * 0.0254, y * 0.0254)
        elif kind == b"acTL":
            self.several = int.from_bytes(content[:4], "big") > 1
        else:
            self._add_text(*self._text(kind, content))

    def _text(self, kind: bytes, content: bytes) -> tuple[str, str]:
        """Returns the key and the text of a text chunk."""
        key, _, rest = content.partition(b"\0")
        if kind == b"tEXt":
            return key.decode("latin-1"), rest.decode("latin-1")
        if kind == b"zTXt":
            return key.decode("latin-1"), self._inflated(rest[1:]).decode("latin-1")
        compressed, (_, _, text) = rest[0], rest[2:].split(b"\0", 2)
        text = self._inflated(text) if compressed else text
        return key.decode("latin-1"), text.decode("utf-8", "surrogateescape")

    def _inflated(self, data: bytes) -> bytes:
        """Returns decompressed data, as long as all of a file take less than _LARGEST."""
        inflate = zlib.decompressobj()
        # One more byte than allowed, as 0 would mean any number of bytes.
        content = inflate.decompress(data, self._room + 1)
        if len(content) > self._room:
            raise _TooLargeError(f"the metadata have more than {_LARGEST // 2**20} MB")
        if not inflate.eof:
            raise ValueError("truncated")
        self._room -= len(content)
        return content

    def _add_text(self, key: str, text: str) -> None:
        if key == _XMP:
            self.info["xmp"] = text.encode("utf-8", "surrogateescape")
        elif key.startswith("Raw profile type "):
            # ImageMagick's form: a line with the name, one with the length, then hex.
            profile = bytes.fromhex("".join(text.split("\n")[3:]))
            name = key.removeprefix("Raw profile type ").lower()
            if name in ("exif", "app1") and profile[:4] == b"Exif" and not self.exif:
                self.exif = profile
            elif name == "xmp":
                self.info.setdefault("xmp", profile)
            elif name in ("icc", "icm"):
                self.info.setdefault("icc_profile", profile)
            else:
                self.notes.append(f"{name.upper()} data is not kept")
        else:
            self.info.setdefault("texts", []).append((key, text))


class _TooLargeError(ValueError):
    pass


def _decode(stream: BinaryIO, lenient: bool) -> np.ndarray:
    stream.seek(0)
    file = memoryview(stream.read())
    # Other chunks are left out, since libpng might reject them.
    kept = [
        file[offset : offset + size]
        for kind, offset, size in chunks(stream)
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
    ]
    if lenient:
        kept = _repaired(kept, *_dimensions(stream))
    # Imported here, so that training on other formats works without imagecodecs.
    import imagecodecs

    return imagecodecs.png_decode(b"".join([file[:8], *kept, _END]))


def _repaired(
    kept: list[memoryview], height: int, width: int, bits: int, colour: int
) -> list[bytes]:
    """Returns chunks with valid checksums; pixels that are missing become zeros."""
    is_palette_of_alpha = {b"PLTE", b"tRNS"}
    heads = [
        chunk(bytes(part[4:8]), bytes(part[8:-4]))
        for part in kept
        if part[4:8] == b"IHDR" or bytes(part[4:8]) in is_palette_of_alpha
    ]
    data = b"".join(part[8:-4] for part in kept if part[4:8] == b"IDAT")
    interlaced = kept[0][8 + 12]
    bits_per_pixel = bits * (1 if colour == 3 else _COLOURS[colour][0])
    # A row begins with the number of its filter.
    row_bytes = lambda pixels: 1 + (pixels * bits_per_pixel + 7) // 8  # noqa: E731
    expected = 0
    for top, left, down, across in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns = (width - left + across - 1) // across
        if columns > 0:
            expected += (height - top + down - 1) // down * row_bytes(columns)
    rows = _inflated_as_far_as_possible(data, expected).ljust(expected, b"\0")
    return [*heads, chunk(b"IDAT", zlib.compress(rows, 1))]


def _inflated_as_far_as_possible(data: bytes, most: int) -> bytes:
    """Returns decompressed data up to the first error, at most so many bytes."""
    inflate, found = zlib.decompressobj(), bytearray()
    stream = io.BytesIO(data)
    with contextlib.suppress(zlib.error):
        while len(found) < most and (part := stream.read(2**12)):
            found += inflate.decompress(part, most - len(found))
    return bytes(found)
