"""Opening and decoding image files, with all the kinds of pixels that they hold."""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms

from eddsrn_jax.errors import InputError

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# By content, whatever the extension: a PDF named .png is not opened. JPEG includes MPO.
_FORMATS = ("BMP", "DIB", "JPEG", "PNG", "TIFF", "WEBP")
# The mode of the pixels, by the mode in which Pillow decodes.
_MODES = {
    **dict.fromkeys(("1", "L"), "L"),
    **dict.fromkeys(("LA", "La"), "LA"),
    **dict.fromkeys(("P", "RGB", "RGBX", "CMYK", "YCbCr", "LAB"), "RGB"),
    **dict.fromkeys(("PA", "RGBA", "RGBa"), "RGBA"),
}
# The channels to take, by how many there are and how many there shall be.
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
    """What is known of a picture before it is decoded.

    Attributes:
        height, width: in pixels, after the EXIF orientation.
        channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.
        dtype: uint8 or uint16.
    """

    height: int
    width: int
    channels: int
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Photo:
    """An open image file of which only the header is read.

    Attributes:
        stream: the file's bytes.
        header: of what `decode` returns.
        orientation: EXIF's, 1 to 8, that `decode` applies.
        exif: all tags, of a TIFF file the structural ones too.
        info: "icc_profile" and "dpi" where the file has them.
        several: further pictures follow in the file.
        image: Pillow's; None where it would open 16 bits as 8.
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
    """Whatever is raised in the block becomes "NAME: FAILURE (reason)".

    Raises:
        InputError: for any exception: decoders raise what their bytes lead them to.
    """
    try:
        yield
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        # Pillow's "cannot identify image file" ends in an object's address.
        reason = reason or " ".join(str(error).split(" <")[0].split())
        # A key says nothing without its dictionary.
        if not reason or isinstance(error, KeyError):
            reason = f"{type(error).__name__} {reason}".strip()
        raise InputError(f"{name}: {failure} ({reason})") from error


@contextlib.contextmanager
def open_photo(file: Path | bytes) -> Iterator[Photo]:
    """Opens an image file, by path or content, and reads its header."""
    if isinstance(file, bytes):
        stream = io.BytesIO(file)
    elif file.exists() and not file.is_file():
        # Opening a pipe would wait for its other end.
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
        raise InputError(f"{raw_mode} pixels have no known range")
    mode = _pixel_mode(mode, image)
    exif = _exif(image)
    orientation, size = exif.get(_ORIENTATION, 1), image.size[::-1]
    # Pillow turns TIFF pictures itself, and tells their size after that.
    if image.format == "TIFF":
        _check_tiles(image)
        orientation = 1
    elif orientation in _SIDEWAYS:
        size = size[::-1]
    header = Header(*size, _CHANNELS[mode], np.dtype(f"uint{bits}"))
    several = getattr(image, "is_animated", False)
    return Photo(stream, header, orientation, exif, image.info, several, image)


def _pixel_mode(mode: str, image: Image.Image) -> str:
    """The mode of an image's pixels in memory: L, LA, RGB or RGBA."""
    if mode not in _MODES:
        kind = "floating-point" if mode == "F" else "32-bit integer"
        raise InputError(f"{kind} pixels have no known range")
    mode = _MODES[mode]
    if "transparency" in image.info:
        return {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    return mode


def _exif(image: Image.Image) -> Image.Exif:
    """The EXIF tags, none where they cannot be parsed; never decodes pixels."""
    if image.format == "PNG" and "exif" not in image.info:
        # They may follow the pixels, and Pillow would decode those to get there.
        position = image.fp.tell()
        for kind, offset, size in _png_chunks(image.fp):
            if kind == b"eXIf" and size < 2**24:
                image.fp.seek(offset + 8)
                image.info["exif"] = b"Exif\0\0" + image.fp.read(size - 12)
        image.fp.seek(position)
    try:
        # Not PNG's own method, for the reason above.
        return Image.Image.getexif(image)
    except Exception as error:
        warnings.warn(f"EXIF cannot be read: {error}", stacklevel=2)
        return Image.Exif()


def _png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, offset and size of the chunks, their length and check included."""
    offset = stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        size = int.from_bytes(head[:4], "big") + 12
        yield head[4:], offset, size
        offset = stream.seek(offset + size)


def _check_tiles(image: Image.Image) -> None:
    """Pillow leaves black what no strip of a TIFF file covers."""
    covered = sum((x1 - x0) * (y1 - y0) for _, (x0, y0, x1, y1), *_ in image.tile)
    # Planes, if separate, are covered one by one; a compressed file is one tile.
    planar = image.tag_v2.get(284) == 2 and image.tile[0][0] == "raw"
    planes = len(image.getbands()) if planar else 1
    if covered != image.width * image.height * planes:
        raise InputError("strips or tiles are missing")


def _wide_tiff(stream: BinaryIO) -> Photo | None:
    """The header of a TIFF file of 16-bit gray or RGB, None for all other files."""
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
    # Decoders take memory for one tile and all samples, however small the picture.
    if exif.get(322, 0) * exif.get(323, 0) > 4 * (width * height + 2**20) or samples > 16:
        raise InputError(f"{samples} samples, tiles of {exif.get(322)}x{exif.get(323)}")
    bits, formats = np.ravel(exif.get(258, 1)), np.ravel(exif.get(339, 1))
    photometric = exif.get(262)
    if photometric not in (0, 1, 2) or {*bits} != {16} or {*formats} != {1}:
        return None
    # The directory may be cut for Pillow, and its end be read by libtiff all the same.
    if not ({273, 279} <= set(exif) or {322, 323, 324, 325} <= set(exif)):
        raise InputError("strips or tiles are missing")
    colours = 3 if photometric == 2 else 1
    has_alpha = samples > colours and _extra_sample(exif, colours) in (1, 2)
    orientation, size = exif.get(_ORIENTATION, 1), (height, width)
    if orientation in _SIDEWAYS:
        size = size[::-1]
    header = Header(*size, colours + has_alpha, np.dtype(np.uint16))
    # So EXIF calls the next directory, where a thumbnail would be.
    several = bool(exif.get_ifd(ExifTags.IFD.IFD1))
    info = {"icc_profile": exif.get(34675)}
    unit = {2: 1.0, 3: 2.54}.get(exif.get(296, 2))
    if unit and 282 in exif and 283 in exif:
        info["dpi"] = (exif[282] * unit, exif[283] * unit)
    return Photo(stream, header, orientation, exif, info, several)


def _extra_sample(exif: Image.Exif, colours: int) -> int:
    """What the sample after the colours is: 1 premultiplied alpha, 2 alpha."""
    # Four samples of RGB without a word on the fourth are read as RGBA everywhere.
    default = 2 if colours == 3 else 0
    return int(np.ravel(exif.get(338, default))[0])


def decode(photo: Photo) -> np.ndarray:
    """The pixels of an open photo, upright.

    One bit and gray become one channel, all colours RGB (CMYK without its profile).

    Returns:
        uint8 or uint16 [H, W, C], as the header says.
    """
    if photo.image is None:
        pixels = _decode_wide_tiff(photo)
    elif photo.image.format == "PNG":
        pixels = _decode_png(photo.stream)
    else:
        pixels = to_array(photo.image)
    pixels = upright(pixels.reshape(*pixels.shape[:2], -1), photo.orientation)
    found = Header(*pixels.shape, pixels.dtype)
    if found != photo.header:
        raise InputError(f"{found} where {photo.header} is announced")
    return pixels


def _decode_png(stream: BinaryIO) -> np.ndarray:
    """By libpng: Pillow has no 16-bit colour, and leaves black what a file lacks."""
    stream.seek(0)
    file = memoryview(stream.read())
    # Without all that is not pixels, about which libpng might complain.
    kept = [
        file[offset : offset + size]
        for kind, offset, size in _png_chunks(stream)
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
    ]
    # Here, so that photos in other formats can be trained on where it is not installed.
    import imagecodecs

    return imagecodecs.png_decode(b"".join([file[:8], *kept, _PNG_END]))


def to_array(image: Image.Image) -> np.ndarray:
    """The pixels of a Pillow image of 8 bits, uint8 [H, W, C]."""
    image.load()
    mode = _pixel_mode(image.mode, image)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    elif image.mode != mode:
        image = image.convert(mode)
    pixels = np.empty((image.height, image.width, _CHANNELS[mode]), np.uint8)
    # By bands: of the whole image Pillow would make two more copies.
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
    """[H, W, C] turned as an EXIF orientation, 1 to 8, says."""
    if orientation in _SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def convert(pixels: np.ndarray, channels: int, dtype: np.typing.DTypeLike) -> np.ndarray:
    """The same picture in other channels and bits.

    Gray becomes three equal channels, alpha is dropped where there is no room for it.
    65535 and 255 are the same white; 16 bits are rounded to 8, not cut.

    Args:
        pixels: uint8 or uint16 [H, W, C], gray, gray and alpha, RGB or RGBA.
        channels: of the result. Alpha is not invented, and colour does not become gray.
        dtype: uint8 or uint16.

    Returns:
        [H, W, channels] of the dtype; the pixels themselves where they are that already.
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
    """The pixels of a Pillow image, upright, uint8 or uint16 [H, W, C].

    Raises:
        InputError: floating-point or 32-bit pixels, whose range is not known.
    """
    if image.mode.startswith("I;16"):
        pixels = np.array(image, np.uint16)[:, :, None]
    else:
        pixels = to_array(image)
    return upright(pixels, image.getexif().get(ExifTags.Base.Orientation, 1))


def to_pillow(pixels: np.ndarray) -> Image.Image:
    """A Pillow image of uint8 [H, W, C], or of uint16 [H, W, 1]: it has no more."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
