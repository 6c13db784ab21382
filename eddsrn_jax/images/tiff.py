"""Reads TIFF files of 16-bit and floating-point pixels, and chooses the page to read.

Pillow reads the other kinds; it may open 16 bits as 8.
"""

from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from eddsrn_jax.errors import InputError
from eddsrn_jax.images.photo import (
    IPTC_LOST,
    ORIENTATION,
    Header,
    Photo,
    dots_per_inch,
    has_iptc,
    turned,
)
from eddsrn_jax.images.pixels import divide_by_alpha, from_unit_range

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FLOAT = 3
# Tags and photometric interpretations of raw photos, in which TIFF readers find only a
# small preview.
_DNG_VERSION, _SENSOR = 50706, (32803, 34892)
# Tags of the number of layers of a volume, and of a tile of it.
_DEPTHS = (32997, 32998)
# Four samples of float64, or 16 of 16 bits.
_MOST_BITS = 256
# A first page of at most this share of the largest page's area is a thumbnail, if it has
# the same shape.
_THUMBNAIL_AREA, _SAME_SHAPE = 1 / 4, 0.1


def page_to_read(stream: BinaryIO) -> tuple[int, int | None, list[str]]:
    """Returns index and offset of the page to read, and a message if it is not the first.

    This is the first page, or the largest if the first is a thumbnail. The offset of the
    first page is None.
    """
    import tifffile

    try:
        with tifffile.TiffFile(stream) as file:
            pages = [
                (page.imagelength, page.imagewidth, page.subfiletype, page.offset)
                for page in file.pages
                if isinstance(page, tifffile.TiffPage)
            ]
    except Exception:
        # Whatever is wrong with the file, reading its first page says it better.
        return 0, None, []
    finally:
        stream.seek(0)
    if len(pages) < 2:
        return 0, None, []
    height, width, subtype, _ = pages[0]
    index = max(range(len(pages)), key=lambda i: pages[i][0] * pages[i][1])
    high, wide, _, offset = pages[index]
    same_shape = abs(width * high - height * wide) < _SAME_SHAPE * height * wide
    small = height * width <= _THUMBNAIL_AREA * high * wide and same_shape
    if not index or not (subtype & 1 or small):
        return 0, None, []
    note = (
        f"the first page is a thumbnail of {width}x{height} pixels; the largest page is"
        " read"
    )
    return index, offset, [note]


def open_wide_tiff(
    stream: BinaryIO, page: int, offset: int | None, notes: list[str]
) -> Photo | None:
    """Reads the header of a file of 16-bit or floating-point gray or RGB.

    Args:
        stream: file to read.
        page, offset, notes: see `page_to_read`.

    Returns:
        None if the file is of another kind, which Pillow reads.

    Raises:
        InputError: the header is implausible, or strips are missing.
    """
    exif = _tags(stream, page, offset)
    _refuse_raw(exif)
    width, height, samples = exif.get(256, 0), exif.get(257, 0), exif.get(277, 1)
    bits, formats = np.ravel(exif.get(258, 1)), np.ravel(exif.get(339, 1))
    _refuse_large_tiles(exif, width * height, samples * bits.max())
    photometric = exif.get(262)
    if 2 in formats and bits.max() <= 16:
        raise InputError("the value range of signed integer pixels is unknown")
    if photometric == 5 and bits.max() == 16:
        notes.append("reduced to 8 bits: CMYK is converted with 8")
    is_float = {*formats} == {_FLOAT} and {*bits} <= {16, 32, 64}
    # Pillow cannot open a big-endian BigTIFF of any depth.
    depths = (8, 16) if _is_big_endian_bigtiff(stream) else (16,)
    is_wide = {*formats} == {1} and len({*bits}) == 1 and bits[0] in depths
    if photometric not in (0, 1, 2) or not (is_float or is_wide):
        return None
    # libtiff may read to its end a directory that Pillow finds truncated.
    if not ({273, 279} <= set(exif) or {322, 323, 324, 325} <= set(exif)):
        raise InputError("strips or tiles are missing")
    if is_float:
        notes.append("floating-point pixels in [0, 1] become 16 bits")
    if has_iptc(exif):
        notes.append(IPTC_LOST)
    colours = 3 if photometric == 2 else 1
    has_alpha = samples > colours and _extra_sample(exif, colours) in (1, 2)
    orientation = exif.get(ORIENTATION, 1)
    size = turned(height, width, orientation)
    dtype = np.dtype(np.uint8 if bits[0] == 8 else np.uint16)
    header = Header(*size, colours + has_alpha, dtype)
    # EXIF calls the next directory IFD1, and puts a thumbnail there. If it exists, it
    # counts as a further image.
    several = bool(not page and exif._info and exif.get_ifd(ExifTags.IFD.IFD1))
    return Photo(
        stream=stream,
        header=header,
        orientation=orientation,
        exif=exif,
        info=tiff_info(exif),
        several=several,
        kind="TIFF",
        decoder=lambda _: _decode(stream, page, header.channels, exif),
        notes=notes,
    )


def _refuse_raw(exif: Image.Exif) -> None:
    has_hidden_image = exif.get(254) == 1 and 330 in exif
    if _DNG_VERSION in exif or exif.get(262) in _SENSOR or has_hidden_image:
        raise InputError("is a raw photo, which cannot be read; convert it to TIFF first")


def _refuse_large_tiles(exif: Image.Exif, num_pixels: int, bits: int) -> None:
    """Raises InputError if decoding would take far more memory than the image.

    Decoders allocate a whole tile with all its samples, even for a small image, and all
    layers of a volume.

    Args:
        exif: tags of the page.
        num_pixels: number of its pixels.
        bits: bits of all samples of a pixel.
    """
    width, height = exif.get(322, 0), exif.get(323, 0)
    depth = max(exif.get(tag, 1) for tag in _DEPTHS)
    if width * height > 4 * (num_pixels + 2**20) or bits > _MOST_BITS or depth > 1:
        raise InputError(
            f"implausible header: {bits} bits a pixel, tiles of {width}x{height},"
            f" {depth} layers"
        )


def tiff_info(exif: Image.Exif) -> dict:
    """Returns the profile, XMP and resolution that TIFF tags hold."""
    info = {"icc_profile": exif.get(34675), "dpi": dots_per_inch(exif)}
    if isinstance(xmp := exif.get(700), bytes):
        info["xmp"] = xmp
    return info


def _tags(stream: BinaryIO, page: int, offset: int | None) -> Image.Exif:
    head = stream.read(16)
    stream.seek(0)
    exif = Image.Exif()
    is_little, is_big = head[:2] == b"II", 43 in head[2:4]
    if _is_big_endian_bigtiff(stream):
        _load_big_endian(exif, stream, page)
    elif is_big or offset is not None:
        exif.bigtiff, exif.endian = is_big, "<" if is_little else ">"
        exif.load_from_fp(stream, offset or int.from_bytes(head[8:16], "little"))
    else:
        exif.load_from_fp(stream)
    stream.seek(0)
    return exif


def _is_big_endian_bigtiff(stream: BinaryIO) -> bool:
    head = stream.read(4)
    stream.seek(0)
    return head == b"MM\0+"


def _load_big_endian(exif: Image.Exif, stream: BinaryIO, page: int) -> None:
    """Reads the tags of a big-endian BigTIFF, which Pillow cannot."""
    import tifffile

    with tifffile.TiffFile(stream) as file:
        for tag in file.pages[page].aspage().tags:
            exif[tag.code] = tag.value


def _extra_sample(exif: Image.Exif, colours: int) -> int:
    """Returns the kind of the sample after the colours: 1 premultiplied, 2 alpha."""
    # Other readers take a fourth sample of RGB as alpha if the tag is missing.
    default = 2 if colours == 3 else 0
    return int(np.ravel(exif.get(338, default))[0])


def _decode(stream: BinaryIO, page: int, channels: int, exif: Image.Exif) -> np.ndarray:
    import imagecodecs
    import tifffile

    stream.seek(0)
    if np.ravel(exif.get(339, 1))[0] == _FLOAT:
        with tifffile.TiffFile(stream) as file:
            pixels = np.asarray(file.pages[page].asarray())
    else:
        pixels = imagecodecs.tiff_decode(stream.read(), index=page)
    if pixels.ndim == 3 and exif.get(284) == 2:
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels.reshape(*pixels.shape[:2], -1)[:, :, :channels]
    if pixels.dtype.kind == "f":
        pixels = from_unit_range(pixels)
    if exif[262] == 0:
        pixels[:, :, 0] = np.iinfo(pixels.dtype).max - pixels[:, :, 0]
    if channels in (2, 4) and _extra_sample(exif, channels - 1) == 1:
        divide_by_alpha(pixels)
    return pixels


def check_strips(image: Image.Image) -> None:
    """Raises InputError if a TIFF file lacks strips, which Pillow would leave black."""
    tiles = getattr(image, "tile", [])
    covered = sum((x1 - x0) * (y1 - y0) for _, (x0, y0, x1, y1), *_ in tiles)
    # Separate planes are covered one by one; to Pillow a compressed file is one tile.
    tags = getattr(image, "tag_v2", {})
    planar = tags.get(284) == 2 and tiles[0][0] == "raw"
    planes = len(image.getbands()) if planar else 1
    if covered != image.width * image.height * planes:
        raise InputError("strips or tiles are missing")
