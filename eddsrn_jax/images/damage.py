"""Finds damaged image data that decoders accept silently.

JPEG decoders fill in what is missing. libtiff does not verify the checksums of a strip
that decodes to its end. PNG needs no check of its own, since libpng verifies checksums.
"""

import re
import zlib
from collections.abc import Iterator

import numpy as np

from eddsrn_jax.images.photo import Photo

_OFFSETS_AND_SIZES = ((273, 279), (324, 325))
_COMPRESSION, _JPEG_TABLES = 259, 347
_JPEG, _DEFLATE = 7, (8, 32946)
# Bytes of a pixel of 16 samples in float64, and of data that are inflated at once.
_MOST_BYTES, _PIECE = 128, 2**20
# Parts of the messages with which libjpeg reports damage.
_DAMAGE = (
    *("corrupt", "premature", "extraneous", "bogus", "inconsistent progression"),
    *("marker", "not a jpeg", "was not defined", "invalid jpeg", "invalid progressive"),
)
# libjpeg's message about bytes between the image data and the end marker.
_PADDING = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


def find_damage(photo: Photo) -> str | None:
    """Returns the reason why image data is damaged, or None if none is found.

    Only JPEG, and TIFF with JPEG or deflate compression, are examined.
    """
    photo.stream.seek(0)
    if photo.kind == "JPEG":
        return _jpeg_damage(photo.stream.read())
    if photo.kind == "TIFF":
        return next(_tiff_damage(photo), None)
    return None


def _jpeg_damage(data: bytes) -> str | None:
    """Decodes a JPEG file at an eighth of its size, and returns libjpeg's warning."""
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(
            data, colorspace="GRAY", min_height=1, min_width=1, min_factor=8
        )
    except ValueError as error:
        reason = str(error)
        # Some cameras pad the data before its end. After damage, too, data can be left
        # there; but its bytes differ.
        padding = _PADDING.search(reason)
        if padding and _ends_with_padding(data, int(padding[1])):
            return None
        # Other errors are limits of this decoder; the main one judges the file.
        return reason if any(mark in reason.lower() for mark in _DAMAGE) else None
    return None


def _ends_with_padding(data: bytes, count: int) -> bool:
    """Returns whether an end marker follows on `count` bytes, two or more, of one value.

    Other data may follow the image, with end markers of its own.
    """
    # A regular expression would take time that grows with the square of a run's length.
    values = np.frombuffer(data, np.uint8)
    markers = np.flatnonzero((values[:-1] == 0xFF) & (values[1:] == 0xD9))
    changes = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    markers = markers[markers > 0]
    # The first position of the run of equal bytes that ends before each marker.
    starts = changes[np.searchsorted(changes, markers - 1, side="right") - 1]
    return bool((markers - starts >= max(count, 2)).any())


def _tiff_damage(photo: Photo) -> Iterator[str]:
    """Yields a message for each damaged strip or tile of a TIFF file."""
    tags = photo.exif
    compression = tags.get(_COMPRESSION)
    if compression != _JPEG and compression not in _DEFLATE:
        return
    # More than this is no photo, but a file that inflates to fill the memory or the day.
    left = photo.header.height * photo.header.width * _MOST_BYTES + _PIECE
    for number, segment in enumerate(_segments(photo)):
        if compression == _JPEG:
            tables = tags.get(_JPEG_TABLES)
            # The tables are a JPEG file of their own, which ends with a marker of two
            # bytes; the segment begins with one.
            if isinstance(tables, bytes) and len(tables) > 4:
                segment = tables[:-2] + segment[2:]
            reason = _jpeg_damage(segment)
        else:
            reason, size = _deflate_damage(segment, left)
            left -= size
        left -= len(segment)
        if reason:
            yield f"strip or tile {number}: {reason}"
        if left < 0:
            return


def _segments(photo: Photo) -> Iterator[bytes]:
    for offsets_tag, sizes_tag in _OFFSETS_AND_SIZES:
        offsets, sizes = photo.exif.get(offsets_tag), photo.exif.get(sizes_tag)
        if offsets is None or sizes is None:
            continue
        offsets = offsets if isinstance(offsets, tuple) else (offsets,)
        sizes = sizes if isinstance(sizes, tuple) else (sizes,)
        for offset, size in zip(offsets, sizes, strict=False):
            photo.stream.seek(offset)
            yield photo.stream.read(size)


def _deflate_damage(segment: bytes, most: int) -> tuple[str | None, int]:
    """Inflates a segment; returns the damage, if any, and the size.

    Args:
        segment: deflated bytes.
        most: size at which inflating ends.
    """
    inflate, size = zlib.decompressobj(), 0
    try:
        # The pixels are dropped piece by piece, since a segment can be a whole photo.
        for start in range(0, len(segment), _PIECE):
            piece = segment[start : start + _PIECE]
            while piece and not inflate.eof and size <= most:
                size += len(inflate.decompress(piece, _PIECE))
                piece = inflate.unconsumed_tail
    except zlib.error as error:
        return str(error), size
    return None, size
