"""Opens and decodes image files, with all supported kinds of pixels."""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms

from eddsrn_jax.errors import InputError

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# The formats that are opened. The content decides, not the extension: a PDF named .png is
# refused. JPEG includes MPO.
_FORMATS = ("BMP", "DIB", "JPEG", "PNG", "TIFF", "WEBP")
# The mode of the pixels in memory, by the mode in which Pillow decodes.
_MODES = {
    **dict.fromkeys(("1", "L"), "L"),
    **dict.fromkeys(("LA", "La"), "LA"),
    **dict.fromkeys(("P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB"), "RGB"),
    **dict.fromkeys(("PA", "RGBA", "RGBa"), "RGBA"),
}
# The channels to take, by the present and the wanted number of channels.
_TAKEN = {
    (1, 3): [0, 0, 0],
    (2, 1): [0],
    (2, 3): [0, 0, 0],
    (2, 4): [0, 0, 0, 1],
    (4, 3): [0, 1, 2],
}
_CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_ORIENTATION = 0x0112
# The orientations that exchange height and width.
_SIDEWAYS = (5, 6, 7, 8)
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


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
        info: dict with "icc_profile" and "dpi" if the file has them.
        several: whether further images follow in the file.
        image: Pillow image; None for 16-bit TIFF files, which Pillow may open as 8 bits.
    """

    stream: BinaryIO
    header: Header
    orientation: int
    exif: Image.Exif
    info: dict
    several: bool
    image: Image.Image | None = None


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
        # The message of a KeyError is the bare key, so its type is added.
        if not reason or isinstance(error, KeyError):
            reason = f"{type(error).__name__} {reason}".strip()
        raise InputError(f"{name}: {failure} ({reason})") from error


@contextlib.contextmanager
def open_photo(file: Path | bytes) -> Iterator[Photo]:
    """Opens an image file, by path or content, and reads its header."""
    if isinstance(file, bytes):
        stream = io.BytesIO(file)
    elif file.exists() and not file.is_file():
        # Opening a named pipe would wait for its other end.
        raise InputError("not a file")
    else:
        stream = file.open("rb")
    with stream:
        yield _wide_tiff(stream) or _pillow(stream)


def _pillow(stream: BinaryIO) -> Photo:
    image = Image.open(stream, formats=_FORMATS)
    arguments = image.tile[0][3] if image.tile else image.mode
    # How the file stores pixels, such as "RGB;16B"; known only before decoding.
    raw_mode = str(arguments[0] if isinstance(arguments, tuple) else arguments)
    mode, bits = image.mode, 8
    if image.format == "PNG":
        mode = raw_mode.split(";")[0].replace("I", "L")
        bits = 16 if ";16" in raw_mode else 8
    elif mode.startswith("I;"):
        raise InputError(f"the value range of {raw_mode} pixels is unknown")
    mode = _pixel_mode(mode, image)
    exif = _exif(image, stream)
    orientation, (width, height) = exif.get(_ORIENTATION, 1), image.size
    # Pillow turns TIFF images itself, and its size is the one after turning.
    if image.format == "TIFF":
        _check_tiles(image)
        orientation = 1
    elif orientation in _SIDEWAYS:
        width, height = height, width
    header = Header(height, width, _CHANNELS[mode], np.dtype(f"uint{bits}"))
    several = getattr(image, "is_animated", False)
    return Photo(stream, header, orientation, exif, image.info, several, image)


def _pixel_mode(mode: str, image: Image.Image) -> str:
    """Returns the mode of an image's pixels in memory: L, LA, RGB or RGBA."""
    if mode not in _MODES:
        kind = "floating-point" if mode == "F" else "32-bit integer"
        raise InputError(f"the value range of {kind} pixels is unknown")
    mode = _MODES[mode]
    if "transparency" in image.info:
        return {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    return mode


def _exif(image: Image.Image, stream: BinaryIO) -> Image.Exif:
    """Returns the EXIF tags without decoding pixels; none if they cannot be parsed."""
    if image.format == "PNG" and "exif" not in image.info:
        # The tags may follow the pixels, which Pillow would decode to reach them.
        position = stream.tell()
        for kind, offset, size in _png_chunks(stream):
            if kind == b"eXIf" and size < 2**24:
                stream.seek(offset + 8)
                image.info["exif"] = b"Exif\0\0" + stream.read(size - 12)
        stream.seek(position)
    try:
        # The method of Pillow's PNG class would decode the pixels.
        return Image.Image.getexif(image)
    except Exception as error:
        warnings.warn(f"EXIF cannot be read: {error}", stacklevel=2)
        return Image.Exif()


def _png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yields kind, offset and size of each PNG chunk, length and checksum included."""
    offset = stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        size = int.from_bytes(head[:4], "big") + 12
        yield head[4:], offset, size
        offset = stream.seek(offset + size)


def _check_tiles(image: Any) -> None:
    """Raises InputError if a TIFF file lacks strips, which Pillow would leave black."""
    covered = sum((x1 - x0) * (y1 - y0) for _, (x0, y0, x1, y1), *_ in image.tile)
    # Separate planes are covered one by one; to Pillow a compressed file is one tile.
    planar = image.tag_v2.get(284) == 2 and image.tile[0][0] == "raw"
    planes = len(image.getbands()) if planar else 1
    if covered != image.width * image.height * planes:
        raise InputError("strips or tiles are missing")


def _wide_tiff(stream: BinaryIO) -> Photo | None:
    """Reads the header of a TIFF file of 16-bit gray or RGB; None for other files."""
    head = stream.read(8)
    stream.seek(0)
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0"):
        return None
    exif = Image.Exif()
    if head[2] == 43:
        head = stream.read(16)
        exif.bigtiff, exif.endian = True, "<"
        exif.load_from_fp(stream, int.from_bytes(head[8:], "little"))
    else:
        exif.load_from_fp(stream)
    stream.seek(0)
    width, height, samples = exif.get(256, 0), exif.get(257, 0), exif.get(277, 1)
    # Decoders allocate a whole tile with all its samples, even for a small image.
    if exif.get(322, 0) * exif.get(323, 0) > 4 * (width * height + 2**20) or samples > 16:
        raise InputError(
            f"implausible header: {samples} samples, tiles of"
            f" {exif.get(322)}x{exif.get(323)}"
        )
    bits, formats = np.ravel(exif.get(258, 1)), np.ravel(exif.get(339, 1))
    photometric = exif.get(262)
    if photometric not in (0, 1, 2) or {*bits} != {16} or {*formats} != {1}:
        return None
    # libtiff may read to its end a directory that Pillow finds truncated.
    if not ({273, 279} <= set(exif) or {322, 323, 324, 325} <= set(exif)):
        raise InputError("strips or tiles are missing")
    colours = 3 if photometric == 2 else 1
    has_alpha = samples > colours and _extra_sample(exif, colours) in (1, 2)
    orientation = exif.get(_ORIENTATION, 1)
    if orientation in _SIDEWAYS:
        width, height = height, width
    header = Header(height, width, colours + has_alpha, np.dtype(np.uint16))
    # EXIF calls the next directory IFD1, and puts a thumbnail there. If it exists, it
    # counts as a further image.
    several = bool(exif.get_ifd(ExifTags.IFD.IFD1))
    info = {"icc_profile": exif.get(34675)}
    unit = {2: 1.0, 3: 2.54}.get(exif.get(296, 2))
    if unit and 282 in exif and 283 in exif:
        info["dpi"] = (exif[282] * unit, exif[283] * unit)
    return Photo(stream, header, orientation, exif, info, several)


def _extra_sample(exif: Image.Exif, colours: int) -> int:
    """Returns the kind of the sample after the colours: 1 premultiplied, 2 alpha."""
    # Other readers take a fourth sample of RGB as alpha if the tag is missing.
    default = 2 if colours == 3 else 0
    return int(np.ravel(exif.get(338, default))[0])


def decode(photo: Photo) -> np.ndarray:
    """Decodes an open photo and turns it upright.

    Gray and 1 bit become one channel. All colours become RGB; CMYK is converted without
    its profile. Alpha is kept.

    Returns:
        Pixels, uint8 or uint16 [H, W, C], as in the header.

    Raises:
        InputError: the pixels do not match the header.
    """
    if photo.image is None:
        pixels = _decode_wide_tiff(photo)
    elif photo.image.format == "PNG":
        pixels = _decode_png(photo.stream)
    else:
        pixels = to_array(photo.image)
    pixels = upright(pixels.reshape(*pixels.shape[:2], -1), photo.orientation)
    height, width, channels = pixels.shape
    found = Header(height, width, channels, pixels.dtype)
    if found != photo.header:
        raise InputError(f"decoded as {found}, but the file declares {photo.header}")
    return pixels


def _decode_png(stream: BinaryIO) -> np.ndarray:
    """Decodes with libpng: Pillow lacks 16-bit colour and leaves missing pixels black."""
    stream.seek(0)
    file = memoryview(stream.read())
    # Other chunks are left out, since libpng might reject them.
    kept = [
        file[offset : offset + size]
        for kind, offset, size in _png_chunks(stream)
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
    ]
    # Imported here, so that training on other formats works without imagecodecs.
    import imagecodecs

    return imagecodecs.png_decode(b"".join([file[:8], *kept, _PNG_END]))


def to_array(image: Image.Image) -> np.ndarray:
    """Returns the pixels of an 8-bit Pillow image, uint8 [H, W, C]."""
    image.load()
    mode = _pixel_mode(image.mode, image)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        # Only a conversion in place returns None.
        assert converted is not None
        image = converted
    elif image.mode != mode:
        image = image.convert(mode)
    pixels = np.empty((image.height, image.width, _CHANNELS[mode]), np.uint8)
    # Pillow would make two more copies of the whole image, so it is copied in bands.
    rows = max(1, 2**20 // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(band).reshape(-1, *pixels.shape[1:])
    return pixels


def _decode_wide_tiff(photo: Photo) -> np.ndarray:
    import imagecodecs

    photo.stream.seek(0)
    pixels = imagecodecs.tiff_decode(photo.stream.read(), index=0)
    if pixels.ndim == 3 and photo.exif.get(284) == 2:
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels.reshape(*pixels.shape[:2], -1)[:, :, : photo.header.channels]
    if photo.exif[262] == 0:
        pixels[:, :, 0] = 65535 - pixels[:, :, 0]
    if (
        photo.header.channels in (2, 4)
        and _extra_sample(photo.exif, photo.header.channels - 1) == 1
    ):
        for row in pixels:
            colours, alpha = row[:, :-1], np.maximum(row[:, -1:], 1).astype(np.uint32)
            colours[:] = np.minimum(
                (colours * np.uint32(65535) + alpha // 2) // alpha, 65535
            )
    return pixels


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels [H, W, C] upright, given their EXIF orientation, 1 to 8."""
    if orientation in _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def convert(pixels: np.ndarray, channels: int, dtype: np.typing.DTypeLike) -> np.ndarray:
    """Converts an image to another number of channels and another dtype.

    Gray becomes three equal channels. Alpha is dropped if the result has no channel for
    it. 65535 and 255 are the same white; 16 bits are rounded to 8, not truncated.

    Args:
        pixels: uint8 or uint16 [H, W, C]: gray, gray and alpha, RGB or RGBA.
        channels: number of channels of the result. Alpha cannot be added, and colour
            cannot become gray.
        dtype: type of the result, uint8 or uint16.

    Returns:
        [H, W, channels] of the dtype; `pixels` itself if nothing changes.
    """
    if pixels.dtype == np.uint16 and dtype == np.uint8:
        quotient, rest = np.divmod(pixels, np.uint16(257))
        pixels = (quotient + (rest > 128)).astype(np.uint8)
    elif pixels.dtype == np.uint8 and dtype == np.uint16:
        pixels = pixels * np.uint16(257)
    if pixels.shape[2] == channels:
        return pixels
    return np.take(pixels, _TAKEN[pixels.shape[2], channels], axis=2)


def from_pillow(image: Image.Image) -> np.ndarray:
    """Returns the pixels of a Pillow image, upright, uint8 or uint16 [H, W, C].

    Raises:
        InputError: the value range of the pixels (floating-point or 32-bit) is unknown.
    """
    if image.mode.startswith("I;16"):
        pixels = np.array(image, np.uint16)[:, :, None]
    else:
        pixels = to_array(image)
    return upright(pixels, image.getexif().get(ExifTags.Base.Orientation, 1))


def to_pillow(pixels: np.ndarray) -> Image.Image:
    """Makes a Pillow image of uint8 [H, W, C] or uint16 [H, W, 1].

    Pillow has no other kinds of 16-bit images.
    """
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
