"""Reads HEIC, AVIF of 10 and 12 bits, JPEG XL, JPEG 2000 and JPEG of 12 bits."""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from eddsrn_jax.errors import InputError
from eddsrn_jax.images.photo import (
    ORIENTATION,
    Header,
    Photo,
    exif_of,
    parsed_exif,
    turned,
)
from eddsrn_jax.images.pixels import CHANNELS, from_unit_range, widened, without_xmp

READ = "BMP, PNG, JPEG, TIFF, WebP, GIF, HEIC, AVIF, JPEG XL and JPEG 2000"
_HEIC_BRANDS = (
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    *(b"mif1", b"msf1"),
)
_JXL_BOXES, _JXL = b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"
_JP2_BOXES, _JP2 = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
# JPEG XL tells the depth of its pixels only with the pixels, so photos of up to this
# number of them are decoded to know their header.
_LARGEST_JXL = 400_000_000
# Formats by the first bytes of a file, from an offset, that are known but not read.
_UNREAD = (
    (0, b"8BPS", "a Photoshop file"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"FUJIFILMCCD-RAW", "a raw photo"),
    (0, b"IIRO", "a raw photo"),
    (0, b"IIU\0", "a raw photo"),
    (0, b"FOVb", "a raw photo"),
    (4, b"ftypcrx ", "a raw photo"),
    (4, b"ftypqt", "a video"),
    (4, b"ftypmp4", "a video"),
    (4, b"ftypiso", "a video"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "SVG or another text file"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"qoif", "QOI"),
    (0, b"II\xbc\x01", "JPEG XR"),
)


def open_other(stream: BinaryIO) -> Photo | None:
    """Reads the header of a file of these formats; returns None for other formats.

    Raises:
        InputError: the file is of a known format that cannot be read, or is damaged.
    """
    head = stream.read(2**16)
    stream.seek(0)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS and b"avif" not in head[8:64]:
        return _open_heic(stream, head)
    if head[4:8] == b"ftyp" and b"avif" in head[8:64]:
        return _open_deep_avif(stream, head)
    if head.startswith((_JXL_BOXES, _JXL)):
        return _open_jxl(stream)
    if head.startswith((_JP2_BOXES, _JP2)):
        return _open_deep_jp2(stream, head)
    if head.startswith(b"\xff\xd8"):
        return _open_12_bit_jpeg(stream)
    for offset, mark, name in _UNREAD:
        if head[offset:].startswith(mark):
            raise InputError(f"is {name}, which cannot be read; {READ} can")
    return None


def _open_heic(stream: BinaryIO, head: bytes) -> Photo:
    try:
        import pillow_heif
    except ImportError as error:
        raise InputError(
            "is HEIC, which needs the package pillow-heif; without it"
            f" {READ.replace('HEIC, ', '')} can be read"
        ) from error
    file = pillow_heif.open_heif(
        stream, convert_hdr_to_8bit=False, hdr_to_16bit=False, reload_size=True
    )
    mode, _, depth = file.mode.partition(";")
    bits = int(depth or 8)
    width, height = file.size
    channels = CHANNELS.get(mode)
    if channels is None:
        raise InputError(f"is HEIC with {file.mode} pixels, which cannot be read")
    notes: list[str] = []
    exif = parsed_exif(file.info.get("exif"), notes)
    header = Header(height, width, channels, np.dtype(f"uint{8 if bits == 8 else 16}"))

    def pixels(_: bool) -> np.ndarray:
        found = np.asarray(file).reshape(height, width, channels)
        return found.copy() if bits == 8 else widened(found, bits)

    info = {key: file.info.get(key) for key in ("icc_profile", "xmp")}
    # Libheif has turned the pixels, whatever the EXIF orientation says.
    photo = Photo(
        stream=stream,
        header=header,
        orientation=1,
        exif=exif,
        info=info,
        several=len(file) > 1,
        kind="HEIC",
        decoder=pixels,
        notes=notes,
    )
    add_coded_colour(photo, head)
    if any("hdrgainmap" in str(name).lower() for name in file.info.get("aux") or {}):
        photo.notes.append("the HDR gain map is lost")
    return photo


def _open_deep_avif(stream: BinaryIO, head: bytes) -> Photo | None:
    """Opens an AVIF file of 10 or 12 bits; Pillow reads those of 8 bits."""
    settings = head.find(b"av1C")
    if settings < 0 or not head[settings + 6] & 0x40:
        return None
    bits = 12 if head[settings + 6] & 0x20 else 10
    notes: list[str] = []
    with Image.open(stream, formats=("AVIF",)) as image:
        (width, height), channels = image.size, len(image.getbands())
        info = {"xmp": without_xmp(image), "icc_profile": image.info.get("icc_profile")}
        exif = exif_of(image, notes)
    if head[settings + 6] & 0x10:
        channels -= 2
    stream.seek(0)
    orientation = exif.get(ORIENTATION, 1)
    size = turned(height, width, orientation)

    def pixels(_: bool) -> np.ndarray:
        import imagecodecs

        stream.seek(0)
        found = imagecodecs.avif_decode(stream.read(), index=0)
        found = found.reshape(height, width, -1)
        # Gray may be decoded as three equal channels.
        if found.shape[2] == channels + 2:
            found = found[:, :, [0, 3][:channels]]
        return widened(found, bits)

    header = Header(*size, channels, np.dtype(np.uint16))
    photo = Photo(
        stream=stream,
        header=header,
        orientation=orientation,
        exif=exif,
        info=info,
        several=False,
        kind="AVIF",
        decoder=pixels,
        notes=notes,
    )
    add_coded_colour(photo, head)
    return photo


def add_coded_colour(photo: Photo, head: bytes) -> None:
    """Adds the colour space that HEIC and AVIF code as numbers, as a PNG chunk cICP."""
    found = head.find(b"colrnclx")
    if photo.info.get("icc_profile") or found < 0:
        return
    primaries, transfer = struct.unpack(">HH", head[found + 8 : found + 12])
    plain = primaries in (1, 2) and transfer in (1, 2, 6, 13)
    if not plain and max(primaries, transfer) < 256:
        photo.info["colour"] = [(b"cICP", bytes((primaries, transfer, 0, 1)))]


def _open_deep_jp2(stream: BinaryIO, head: bytes) -> Photo | None:
    """Opens a JPEG 2000 file of more than 8 bits; Pillow reads those of 8 bits."""
    start = head.find(_JP2) + 4
    if not 4 <= start <= len(head) - 64:
        # Metadata of any size may come first.
        stream.seek(0)
        head = stream.read()
        stream.seek(0)
        start = head.find(_JP2) + 4
    if start < 4:
        return None
    fields = struct.unpack(">2x2x8I", head[start : start + 36])
    (components,) = struct.unpack(">H", head[start + 36 : start + 38])
    depths = {head[start + 38 + 3 * i] for i in range(min(components, 4))}
    bits = max(depth & 0x7F for depth in depths) + 1
    if bits <= 8:
        return None
    if bits > 16 or len(depths) > 1 or components > 4 or max(depths) & 0x80:
        raise InputError(
            f"is JPEG 2000 with {components} channels of {bits} bits; it cannot be read"
        )
    width, height = fields[0] - fields[2], fields[1] - fields[3]

    def pixels(_: bool) -> np.ndarray:
        import imagecodecs

        stream.seek(0)
        found = imagecodecs.jpeg2k_decode(stream.read())
        return widened(found.reshape(height, width, components), bits)

    header = Header(height, width, components, np.dtype(np.uint16))
    return Photo(
        stream=stream,
        header=header,
        orientation=1,
        exif=Image.Exif(),
        info={},
        several=False,
        kind="JPEG 2000",
        decoder=pixels,
        notes=["colour profile and metadata of JPEG 2000 are not read"],
    )


def _open_12_bit_jpeg(stream: BinaryIO) -> Photo | None:
    """Opens a JPEG file of 12 bits; Pillow reads those of 8 bits."""
    exif_content, icc, frame = b"", b"", None
    for marker, content in _jpeg_segments(stream):
        if marker in (0xC0, 0xC1, 0xC2):
            frame = content
            break
        if marker == 0xE1 and content.startswith(b"Exif\0\0"):
            exif_content = content
        elif marker == 0xE2 and content.startswith(b"ICC_PROFILE\0"):
            icc += content[14:]
    stream.seek(0)
    if not frame or frame[0] != 12:
        return None
    height, width, channels = struct.unpack(">HHB", frame[1:6])
    if channels not in (1, 3):
        raise InputError(f"is a 12-bit JPEG file of {channels} channels")
    notes: list[str] = []
    exif = parsed_exif(exif_content, notes)
    orientation = exif.get(ORIENTATION, 1)

    def pixels(_: bool) -> np.ndarray:
        import imagecodecs

        stream.seek(0)
        found = imagecodecs.jpeg8_decode(stream.read())
        return widened(found.reshape(height, width, channels), 12)

    header = Header(*turned(height, width, orientation), channels, np.dtype(np.uint16))
    info = {"icc_profile": icc or None}
    return Photo(
        stream=stream,
        header=header,
        orientation=orientation,
        exif=exif,
        info=info,
        several=False,
        kind="JPEG of 12 bits",
        decoder=pixels,
        notes=notes,
    )


def _jpeg_segments(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields marker and content of each segment before the image data."""
    stream.seek(2)
    while len(head := stream.read(4)) == 4 and head[0] == 0xFF and head[1] != 0xDA:
        if head[1] == 0xFF:
            # A fill byte.
            stream.seek(-3, io.SEEK_CUR)
            continue
        size = int.from_bytes(head[2:], "big") - 2
        if size < 0:
            return
        yield head[1], stream.read(size)


def _open_jxl(stream: BinaryIO) -> Photo:
    import imagecodecs

    from eddsrn_jax.images.jpeg_xl import size_and_bits

    data = stream.read()
    stream.seek(0)
    height, width, bits = size_and_bits(data)
    if height * width > _LARGEST_JXL:
        raise InputError(
            f"is JPEG XL of {width}x{height} pixels; at most {_LARGEST_JXL:,} are read"
        )
    found = imagecodecs.jpegxl_decode(data)
    if found.ndim not in (2, 3) or (found.ndim == 3 and found.shape[2] > 4):
        raise InputError("has too many channels")
    found = found.reshape(*found.shape[:2], -1)
    notes = ["colour profile and metadata of JPEG XL are not read"]
    if found.dtype.kind == "f":
        found = from_unit_range(found)
    elif found.dtype == np.uint16:
        found = widened(found, bits)
    elif found.dtype != np.uint8:
        raise InputError(f"is JPEG XL with {found.dtype} pixels, which cannot be read")
    height, width, channels = found.shape
    header = Header(height, width, channels, found.dtype)
    return Photo(
        stream=stream,
        header=header,
        orientation=1,
        exif=Image.Exif(),
        info={},
        several=False,
        kind="JPEG XL",
        decoder=lambda _: found,
        notes=notes,
    )
