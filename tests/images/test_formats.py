"""Reads HEIC, AVIF, JPEG XL, JPEG 2000, GIF, 12-bit JPEG and unusual TIFF files."""

import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from samples import encoded, exif, smooth, tiff

from eddsrn_jax.errors import InputError
from eddsrn_jax.images.files import list_images
from eddsrn_jax.images.pictures import read_header, write_picture

DEEP = smooth(3, np.uint16)
FLAT = smooth(3, np.uint8)


def difference(found, expected) -> float:
    """Returns the mean difference as a share of white."""
    assert found.shape == expected.shape
    peak = np.iinfo(found.dtype).max, np.iinfo(expected.dtype).max
    return float(np.abs(found / peak[0] - expected / peak[1]).mean())


def heic(pixels: np.ndarray, **options) -> bytes:
    import io

    pillow_heif = pytest.importorskip("pillow_heif")
    names = {1: "L", 3: "RGB", 4: "RGBA"}
    mode = names[pixels.shape[2]] + (";16" if pixels.dtype == np.uint16 else "")
    height, width, _ = pixels.shape
    file, stream = pillow_heif.from_bytes(mode, (width, height), pixels.tobytes()), None
    stream = io.BytesIO()
    file.save(stream, quality=95, **options)
    return stream.getvalue()


@pytest.mark.parametrize("channels", [3, 4])
def test_reads_heic_of_8_and_10_bits(read, channels):
    for dtype in (np.uint8, np.uint16):
        pixels = smooth(channels, dtype)
        found, _ = read(heic(pixels))
        assert found.dtype == dtype and difference(found, pixels) < 0.01
    # White is white in all depths.
    found, _ = read(heic(np.full((16, 16, 3), 65535, np.uint16)))
    assert found.min() > 65000 and found.max() == 65535


def test_reads_exif_of_heic_and_ignores_its_orientation(read):
    found, metadata = read(heic(FLAT, exif=exif(6)))
    assert found.shape[:2] in (FLAT.shape[:2], FLAT.shape[1::-1])
    tags = Image.Exif()
    tags.load(metadata.exif)
    assert tags[0x010F] == "Maker" and tags[0x0112] == 1


def test_names_heic_if_the_library_is_missing(read, monkeypatch):
    content = heic(FLAT)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(InputError, match="is HEIC, which needs .*: BMP, PNG|is HEIC"):
        read(content)


def test_reads_avif_of_8_10_and_12_bits(read):
    found, _ = read(imagecodecs.avif_encode(FLAT, level=95))
    assert found.dtype == np.uint8 and difference(found, FLAT) < 0.01
    for bits in (10, 12):
        content = imagecodecs.avif_encode(DEEP >> (16 - bits), bitspersample=bits)
        found, _ = read(content)
        assert found.dtype == np.uint16 and difference(found, DEEP) < 0.01


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_reads_jpeg_xl_of_all_depths_without_loss(read, channels):
    for dtype in (np.uint8, np.uint16):
        pixels = smooth(channels, dtype)
        stored = pixels[:, :, 0] if channels == 1 else pixels
        found, _ = read(imagecodecs.jpegxl_encode(stored, lossless=True))
        np.testing.assert_array_equal(found, pixels)


def test_reads_jpeg_xl_of_10_bits_and_floats(read):
    content = imagecodecs.jpegxl_encode(DEEP >> 6, bitspersample=10, lossless=True)
    assert difference(read(content)[0], DEEP) < 1 / 1000
    floats = (DEEP / 65535).astype(np.float32)
    found, _ = read(imagecodecs.jpegxl_encode(floats, lossless=True))
    assert difference(found, DEEP) < 1e-5


@pytest.mark.parametrize(
    ("height", "width"), [(40, 60), (8, 8), (64, 64), (300, 400), (1, 9)]
)
def test_reads_the_size_of_jpeg_xl_from_its_header(height, width):
    from eddsrn_jax.images.jpeg_xl import size_and_bits

    pixels = smooth(3, np.uint8, height, width)
    assert size_and_bits(imagecodecs.jpegxl_encode(pixels)) == (height, width, 8)


def test_reads_jpeg_2000_of_8_12_and_16_bits(read):
    found, _ = read(imagecodecs.jpeg2k_encode(FLAT, reversible=True))
    np.testing.assert_array_equal(found, FLAT)
    for bits in (12, 16):
        stored = DEEP >> (16 - bits)
        content = imagecodecs.jpeg2k_encode(stored, bitspersample=bits, reversible=True)
        found, _ = read(content)
        assert found.dtype == np.uint16 and difference(found, DEEP) < 1 / 2**bits
    # Metadata of any size may come before the pixels.
    content = imagecodecs.jpeg2k_encode(DEEP, codecformat="jp2", reversible=True)
    start = content.index(b"jp2c") - 4
    box = struct.pack(">I", 100_024) + b"uuid" + bytes(100_016)
    found, _ = read(content[:start] + box + content[start:])
    assert difference(found, DEEP) < 1e-5
    gray = imagecodecs.jpeg2k_encode(DEEP[:, :, 0], reversible=True)
    np.testing.assert_array_equal(read(gray)[0], DEEP[:, :, :1])


@pytest.mark.parametrize("channels", [1, 3])
def test_reads_12_bit_jpeg(read, channels):
    stored = (DEEP >> 4)[:, :, :channels]
    stored = stored[:, :, 0] if channels == 1 else stored
    content = imagecodecs.jpeg8_encode(
        np.ascontiguousarray(stored), level=98, bitspersample=12
    )
    found, _ = read(content)
    assert found.dtype == np.uint16
    assert difference(found, DEEP[:, :, :channels]) < 0.01


def test_reads_the_first_frame_of_a_gif_with_its_transparency(read, caplog):
    image = Image.fromarray(FLAT).quantize(64)
    found, _ = read(encoded(image, "GIF"))
    np.testing.assert_array_equal(found, image.convert("RGB"))
    assert not caplog.records
    found, _ = read(encoded(image, "GIF", transparency=3))
    hidden = np.asarray(image) == 3
    np.testing.assert_array_equal(found[:, :, 3] == 0, hidden)
    read(encoded(image, "GIF", save_all=True, append_images=[image.rotate(180)]))
    assert "only the first of several pictures is read" in caplog.text


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("layout", ["gray", "rgb", "alpha", "planar", "big-endian"])
def test_reads_floating_point_tiff_in_unit_range(read, caplog, dtype, layout):
    channels = {"gray": 1, "alpha": 4}.get(layout, 3)
    pixels = smooth(channels, np.uint16)
    stored = (pixels / 65535).astype(dtype)
    options = {
        "gray": {"photometric": "minisblack"},
        "alpha": {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        "planar": {"photometric": "rgb", "planarconfig": "separate"},
        "big-endian": {"photometric": "rgb", "byteorder": ">"},
    }.get(layout, {"photometric": "rgb"})
    stored = stored[:, :, 0] if layout == "gray" else stored
    stored = np.moveaxis(stored, 2, 0) if layout == "planar" else stored
    found, _ = read(tiff(np.ascontiguousarray(stored), **options))
    assert found.dtype == np.uint16
    assert difference(found, pixels) < (1e-3 if dtype == "float16" else 1e-5)
    assert "floating-point pixels in [0, 1] become 16 bits" in caplog.text


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((4, 4), 1.5, np.float32), "pixels from 1.5 to 1.5; only a range of"),
        (np.full((4, 4), np.nan, np.float32), "pixels from nan to nan"),
        (np.zeros((4, 4), np.int8), "range of signed integer pixels is unknown"),
        (np.zeros((4, 4), np.int16), "range of signed integer pixels is unknown"),
    ],
)
def test_rejects_tiff_of_unknown_value_range(read, pixels, message):
    with pytest.raises(InputError, match=message):
        read(tiff(pixels, photometric="minisblack"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_reads_bigtiff_of_both_byte_orders(read, dtype):
    for order in "<>":
        pixels = DEEP if dtype != np.uint8 else FLAT
        stored = (pixels / 65535).astype(dtype) if dtype == np.float32 else pixels
        content = tiff(stored, photometric="rgb", bigtiff=True, byteorder=order)
        assert difference(read(content)[0], pixels) < 1e-4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("flagged", [True, False])
def test_reads_the_largest_page_after_a_thumbnail(read, tmp_path, caplog, dtype, flagged):
    import io

    import tifffile

    pixels = FLAT if dtype == np.uint8 else DEEP
    stored = (pixels / 65535).astype(dtype) if dtype == np.float32 else pixels
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        options = dict(photometric="rgb", metadata=None)
        file.write(stored[::4, ::4].copy(), subfiletype=int(flagged), **options)
        file.write(stored, **options)
    found, _ = read(stream.getvalue())
    assert difference(found, pixels) < 1e-4
    assert "first page is a thumbnail of 15x10 pixels; the largest page is" in caplog.text


def test_reads_the_first_of_pages_that_are_no_thumbnails(read, caplog):
    image = Image.fromarray(FLAT)
    larger = image.resize((80, 41))
    content = encoded(image, "TIFF", save_all=True, append_images=[larger])
    np.testing.assert_array_equal(read(content)[0], FLAT)
    assert "only the first of several pictures is read" in caplog.text


def test_raw_photos_are_not_mistaken_for_their_previews(read):
    import io

    import tifffile

    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        options = dict(photometric="rgb", metadata=None)
        file.write(FLAT[::4, ::4].copy(), subfiletype=1, subifds=1, **options)
        file.write(FLAT, **options)
    version = [(50706, 1, 4, b"\1\4\0\0", True)]
    for content in (
        stream.getvalue(),
        tiff(FLAT, photometric="rgb", extratags=version),
    ):
        with pytest.raises(InputError, match="is a raw photo, which cannot be read"):
            read(content)


def test_16_bit_cmyk_is_reduced_with_a_message(read, caplog):
    ink = np.zeros((8, 8, 4), np.uint16)
    ink[..., 0] = 65535
    found, _ = read(tiff(ink, photometric="separated"))
    np.testing.assert_array_equal(found[0, 0], [0, 255, 255])
    assert "reduced to 8 bits" in caplog.text


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"8BPS\0\1" + bytes(60), "is a Photoshop file, which cannot be read; BMP, PNG"),
        (b"<svg xmlns=''></svg>" + bytes(60), "is SVG, which cannot be read"),
        (bytes(4) + b"ftypqt  " + bytes(60), "is a video, which cannot be read"),
        (b"qoif" + bytes(60), "is QOI, which cannot be read"),
        (b"nothing known" * 9, "cannot identify image file; BMP, PNG, JPEG, TIFF, .* re"),
    ],
)
def test_names_formats_that_are_not_read(read, content, name):
    with pytest.raises(InputError, match=name):
        read(content)


def test_folders_of_photos_to_restore_include_the_new_extensions(tmp_path):
    from eddsrn_jax.images.decoding import READ_EXTENSIONS

    names = ["a.heic", "b.AVIF", "c.jxl", "d.jp2", "e.gif", "f.jfif", "g.mpo", "h.png"]
    for name in names:
        (tmp_path / name).touch()
    found = list_images(tmp_path, extensions=READ_EXTENSIONS)
    assert [path.name for path in found] == names
    assert [path.name for path in list_images(tmp_path)] == ["h.png"]


def test_mpo_and_jfif_are_read_as_jpeg(read, tmp_path):
    image = Image.fromarray(FLAT)
    content = encoded(image, "JPEG", quality=95, subsampling=0)
    assert difference(read(content)[0], FLAT) < 0.01
    write_picture(tmp_path / "a.png", read(content)[0], read(content)[1])


def test_jpeg_xl_animations_are_refused_before_they_are_decoded(read, monkeypatch):
    frames = np.zeros((3, 16, 24, 3), np.uint8)
    content = imagecodecs.jpegxl_encode(frames)
    monkeypatch.setattr(imagecodecs, "jpegxl_decode", None)
    with pytest.raises(InputError, match="is an animation, which cannot be read"):
        read(content)


def test_negative_sizes_are_refused_when_the_header_is_read(tmp_path):
    content = bytearray(
        imagecodecs.jpeg2k_encode(smooth(3, np.uint16), codecformat="jp2")
    )
    # The offset of the image in its grid, after the size of the grid.
    place = content.index(b"\xff\x4f\xff\x51") + 16
    content[place : place + 4] = (160).to_bytes(4, "big")
    (tmp_path / "a.jp2").write_bytes(content)
    with pytest.raises(InputError, match="implausible header: -100x40 pixels"):
        read_header(tmp_path / "a.jp2")
