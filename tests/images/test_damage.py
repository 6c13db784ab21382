"""Damaged image data is an error, or is restored with a warning."""

import io
import re
import struct
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from samples import encoded, smooth, tiff

from eddsrn_jax.errors import InputError
from eddsrn_jax.images.damage import _deflate_damage, _ends_with_padding
from eddsrn_jax.images.pictures import read_picture

NOISE = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


@pytest.fixture
def picture(tmp_path):
    """Returns a function that writes a picture and returns its path."""

    def picture(content):
        path = tmp_path / "picture.bin"
        path.write_bytes(content)
        return path

    return picture


def without_middle(content: bytes, count: int = 300) -> bytes:
    """Returns a file that lacks bytes in its middle but has its end."""
    middle = len(content) // 2
    return content[:middle] + content[middle + count :]


def jpeg(mode: str = "RGB", **options) -> bytes:
    return encoded(Image.fromarray(NOISE).convert(mode), "JPEG", quality=90, **options)


def damaged_strips(pixels, **options) -> bytes:
    """Returns a TIFF file with changed bytes in the middle of its second strip."""
    photometric = "ycbcr" if options["compression"] == "jpeg" else "rgb"
    content = bytearray(tiff(pixels, photometric=photometric, rowsperstrip=16, **options))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages[0]
        start = page.dataoffsets[1] + page.databytecounts[1] // 2
    content[start : start + 8] = bytes(x ^ 0x55 for x in content[start : start + 8])
    return bytes(content)


def checksum_damaged(pixels) -> bytes:
    """Returns a TIFF file with a wrong checksum at the end of its last strip."""
    content = bytearray(tiff(pixels, photometric="rgb", compression="adobe_deflate"))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages[0]
        content[page.dataoffsets[-1] + page.databytecounts[-1] - 1] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        without_middle(jpeg()),
        without_middle(jpeg("L")),
        without_middle(jpeg("CMYK")),
        without_middle(jpeg(progressive=True)),
        jpeg()[:-600] + bytes(600),
        damaged_strips(NOISE, compression="jpeg"),
    ],
)
def test_silently_decoded_damage_is_an_error_or_a_warning(picture, caplog, content):
    path = picture(content)
    with pytest.raises(InputError, match="cannot be decoded .the image data is damaged"):
        read_picture(path)
    assert not caplog.records
    pixels, _ = read_picture(path, damaged="restore")
    assert pixels.shape[:2] == NOISE.shape[:2]
    assert "parts of the image are damaged: cannot be decoded" in caplog.text


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("damaged", ["fail", "restore"])
def test_a_wrong_checksum_of_a_tiff_strip_is_an_error(picture, damaged, dtype):
    """No decoder returns such a strip, so the photo cannot be restored either."""
    content = checksum_damaged(NOISE.astype(dtype))
    with pytest.raises(InputError, match="cannot be decoded"):
        read_picture(picture(content), damaged=damaged)


@pytest.mark.parametrize("kind", ["RGB", "L", "progressive"])
def test_restores_the_intact_beginning_of_a_truncated_jpeg(picture, caplog, kind):
    options = {"progressive": True} if kind == "progressive" else {}
    content = jpeg("L" if kind == "L" else "RGB", **options)
    whole, _ = read_picture(picture(content))
    path = picture(content[: len(content) * 2 // 3])
    with pytest.raises(InputError, match="damaged|truncated"):
        read_picture(path)
    pixels, _ = read_picture(path, damaged="restore")
    if kind != "progressive":
        np.testing.assert_array_equal(pixels[:16], whole[:16])
    assert "parts of the image are damaged" in caplog.text


def png_chunks(content: bytes):
    position = 8
    while position < len(content):
        size = struct.unpack(">I", content[position : position + 4])[0] + 12
        yield position, content[position + 4 : position + 8], size
        position += size


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "P", "L", "RGB16", "interlaced"])
def test_restores_the_intact_beginning_of_a_damaged_png(picture, caplog, kind):
    image = Image.fromarray(NOISE)
    if kind == "RGB16":
        content = imagecodecs.png_encode(NOISE.astype(np.uint16) * 257)
    elif kind == "interlaced":
        content = interlaced(NOISE[:, :, 0])
    else:
        content = encoded(image.convert(kind), "PNG")
    whole, _ = read_picture(picture(content))
    data = [(start, size) for start, name, size in png_chunks(content) if name == b"IDAT"]
    start, size = data[0][0], data[-1][0] + data[-1][1] - data[0][0]
    wrong_checksum = bytearray(content)
    wrong_checksum[data[-1][0] + data[-1][1] - 1] ^= 1
    for damaged in (content[: start + size * 3 // 4], bytes(wrong_checksum)):
        path = picture(damaged)
        with pytest.raises(InputError, match="cannot be decoded"):
            read_picture(path)
        pixels, _ = read_picture(path, damaged="restore")
        assert pixels.shape == whole.shape and pixels.dtype == whole.dtype
        if kind != "interlaced":
            np.testing.assert_array_equal(pixels[:40], whole[:40])
        elif damaged != content[: start + size * 3 // 4]:
            np.testing.assert_array_equal(pixels, whole)
    assert "parts of the image are damaged" in caplog.text


def test_a_damaged_png_is_inflated_only_up_to_its_size(picture):
    content = encoded(Image.new("RGB", (10, 10)), "PNG")
    start = content.index(b"IDAT") - 4
    bomb = zlib.compress(bytes(2**28))
    data = b"IDAT" + bomb
    content = content[:start] + struct.pack(">I", len(bomb)) + data + bytes(4)
    tracemalloc.start()
    pixels, _ = read_picture(picture(content), damaged="restore")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pixels.shape == (10, 10, 3) and peak < 2**24


def test_a_tiff_strip_is_inflated_only_up_to_the_size_of_a_photo():
    bomb = zlib.compress(bytes(2**28))
    reason, size = _deflate_damage(bomb, 5 * 2**20)
    assert reason is None and 5 * 2**20 < size <= 6 * 2**20
    assert _deflate_damage(bomb, 2**30) == (None, 2**28)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_padding_before_the_end_of_a_jpeg_is_recognised_in_linear_time(count):
    rng = np.random.default_rng(count)
    pattern = re.compile(rb"(.)\1{%d}\xff\xd9" % max(count - 1, 1), re.DOTALL)
    found = set()
    for _ in range(300):
        data = rng.choice(np.array([0, 0xFF, 0xD9], np.uint8), 40).tobytes()
        found.add(expected := bool(pattern.search(data)))
        assert _ends_with_padding(data, count) == expected
    assert found == {False, True}
    # The pattern would take minutes.
    assert not _ends_with_padding(bytes(500_000) + b"a\xff\xd9", 250_000)
    assert _ends_with_padding(b"a" + bytes(500_000) + b"\xff\xd9", 250_000)


def interlaced(gray: np.ndarray) -> bytes:
    """Encodes 8-bit gray with Adam7 by hand, since Pillow cannot."""
    import zlib

    passes = (
        *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
        *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
    )
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, across in passes
        for row in gray[top::down, left::across]
    )

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    height, width = gray.shape
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_files_that_are_no_images_fail_with_either_setting(picture):
    for content in (b"", b"no photo", b"\x89PNG\r\n\x1a\n" + bytes(9), b"\xff\xd8\xff"):
        path = picture(content)
        for damaged in ("fail", "restore"):
            with pytest.raises(InputError):
                read_picture(path, damaged=damaged)


@pytest.mark.parametrize(
    "content",
    [
        *(jpeg(), jpeg("L"), jpeg("CMYK"), jpeg(progressive=True)),
        *(jpeg(subsampling="4:1:1"), jpeg(restart_marker_blocks=2)),
        # Some cameras pad the data before its end.
        jpeg()[:-2] + 6 * b"\x12" + jpeg()[-2:],
        jpeg()[:-2] + 6 * b"\x12" + jpeg()[-2:] + jpeg(),
        # Phones add a video or other data after the image.
        jpeg() + bytes(1000),
        tiff(NOISE, photometric="ycbcr", compression="jpeg", tile=(32, 32)),
        tiff(NOISE, photometric="rgb", compression="adobe_deflate", rowsperstrip=9),
        tiff(NOISE, photometric="rgb", compression="lzw"),
    ],
)
def test_intact_files_are_read_without_a_message(picture, caplog, content):
    read_picture(picture(content))
    assert {x.getMessage().split(": ")[1] for x in caplog.records} <= {
        "CMYK converted to RGB without a profile"
    }


def test_smooth_jpeg_photos_are_intact(picture, caplog):
    for quality in (10, 50, 95):
        image = Image.fromarray(smooth(3, np.uint8))
        read_picture(picture(encoded(image, "JPEG", quality=quality)))
    assert not caplog.records
