import io
import logging
import os
import struct
import warnings
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from samples import SRGB, encoded, exif, mutated, small_files, smooth, tiff

from eddsrn_jax.errors import InputError
from eddsrn_jax.images import read_image
from eddsrn_jax.images.decoding import Header
from eddsrn_jax.images.metadata import Metadata
from eddsrn_jax.images.pictures import (
    fit_to_format,
    read_header,
    read_picture,
    write_picture,
)
from eddsrn_jax.images.pixels import convert, from_pillow, to_pillow

SUFFIXES = (".png", ".jpg", ".tif", ".webp", ".bmp")
UINT8, UINT16 = np.dtype(np.uint8), np.dtype(np.uint16)


def tags_of(content: bytes | None) -> tuple[dict, dict]:
    tags = Image.Exif()
    tags.load(content or b"")
    return dict(tags), dict(tags.get_ifd(0x8769))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_round_trip_keeps_pixels_and_metadata(tmp_path, caplog, channels, dtype, suffix):
    path, pixels = tmp_path / f"a{suffix}", smooth(channels, dtype)
    metadata = Metadata(SRGB, exif(), (300.0, 150.0))
    messages = write_picture(path, pixels, metadata)
    found, kept = read_picture(path)
    header = Header(*pixels.shape, pixels.dtype)
    fitting, bits, losses = fit_to_format(suffix, header)
    assert set(losses) <= set(messages)
    expected = convert(pixels, fitting, bits)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    tolerance = {".jpg": 3, ".webp": 8}.get(suffix, 0)
    np.testing.assert_allclose(found.astype(int), expected, atol=tolerance)
    # libpng ignores an RGB profile in a gray file, and BMP files have no profile.
    has_icc = suffix != ".bmp" and not (suffix == ".png" and channels < 3)
    assert kept.icc == (SRGB if has_icc else None)
    assert any("ICC" in message for message in messages) == (not has_icc)
    if suffix != ".webp":
        np.testing.assert_allclose(kept.dpi, (300, 150), atol=0.02)
    if suffix != ".bmp":
        file, camera = tags_of(kept.exif)
        assert (file[0x010F], file[0x013B], file[0x0112]) == ("Maker", "Jürgen", 1)
        assert not {0x0100, 0x0103, 0x0106} & set(file)
        assert camera == {0x829A: 0.5, 0xA002: 60, 0xA003: 40, 0xA434: "Lens"}
    assert not caplog.records


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pillow_images_are_written_like_arrays(tmp_path, mode, suffix):
    pixels = smooth(len(mode), np.uint8)
    image = to_pillow(pixels)
    assert image.mode == mode
    np.testing.assert_array_equal(from_pillow(image), pixels)
    one, other = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    assert write_picture(one, image, Metadata()) == write_picture(
        other, pixels, Metadata()
    )
    assert one.read_bytes() == other.read_bytes()


def test_from_pillow_rotates_keeps_16_bits_and_rejects_floats(tmp_path):
    pixels = smooth(3, np.uint8)
    for format in ("PNG", "TIFF"):
        file = io.BytesIO(encoded(Image.fromarray(pixels), format, exif=exif_object(6)))
        np.testing.assert_array_equal(from_pillow(Image.open(file)), np.rot90(pixels, -1))
    wide = smooth(1, np.uint16)
    np.testing.assert_array_equal(from_pillow(to_pillow(wide)), wide)
    with pytest.raises(InputError, match="floating-point pixels"):
        from_pillow(Image.new("F", (3, 3)))


def exif_object(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_applied_and_reset(read, orientation):
    pixels, wide = smooth(3, np.uint8), smooth(3, np.uint16)
    image = Image.fromarray(pixels)
    tag = [(0x0112, "H", 1, orientation, True)]
    tags = exif_object(orientation)
    wide_png = imagecodecs.png_encode(wide)
    for source, content in [
        (pixels, encoded(image, "PNG", exif=tags)),
        (pixels, encoded(image, "TIFF", exif=tags)),
        (pixels, encoded(image, "TIFF", exif=tags, compression="tiff_lzw")),
        (wide, tiff(wide, photometric="rgb", extratags=tag)),
        # PNG allows EXIF after the pixels, too.
        (wide, wide_png[:-12] + chunk(b"eXIf", tags.tobytes()[6:]) + wide_png[-12:]),
    ]:
        found, metadata = read(content)
        np.testing.assert_array_equal(found, UPRIGHT[orientation](source))
        assert tags_of(metadata.exif)[0].get(0x0112, 1) == 1
    found, metadata = read(encoded(image, "JPEG", exif=tags, quality=95, subsampling=0))
    np.testing.assert_allclose(found.astype(int), UPRIGHT[orientation](pixels), atol=3)


def chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png(rows: list[bytes], *, width: int, bits: int, colour: int, extra=b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    end = chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + end


def test_reads_png_colour_types_bit_depths_and_transparency(read):
    gray = dict(width=2, colour=0)
    palette = chunk(b"PLTE", bytes([9, 8, 7, 6, 5, 4]))
    for content, expected in [
        (png([b"\x40"], bits=1, **gray), [[[0], [255]]]),
        (png([b"\x1b"], bits=2, **(gray | {"width": 4})), [[[0], [85], [170], [255]]]),
        (
            png([b"\1\2"], bits=8, **gray, extra=chunk(b"tRNS", b"\0\2")),
            [[[1, 255], [2, 0]]],
        ),
        (png([b"\1\2\3\4"], bits=16, **gray), [[[0x102], [0x304]]]),
        (png([b"\1\2\3\4"], width=1, bits=16, colour=4), [[[0x102, 0x304]]]),
        (
            png([b"\0\1"], width=2, bits=8, colour=3, extra=palette),
            [[[9, 8, 7], [6, 5, 4]]],
        ),
        (
            png(
                [b"\0\1"],
                width=2,
                bits=8,
                colour=3,
                extra=palette + chunk(b"tRNS", b"\3"),
            ),
            [[[9, 8, 7, 3], [6, 5, 4, 255]]],
        ),
        (
            png(
                [b"\1\2\3"],
                width=1,
                bits=8,
                colour=2,
                extra=chunk(b"tRNS", b"\0\1\0\2\0\3"),
            ),
            [[[1, 2, 3, 0]]],
        ),
    ]:
        np.testing.assert_array_equal(read(content)[0], expected)


def test_reads_palette_ycbcr_one_bit_rgba_and_lab_images(read, caplog):
    rgba = Image.fromarray(smooth(4, np.uint8))
    rgb = rgba.convert("RGB")
    palette, ycbcr = rgb.convert("P"), rgb.convert("YCbCr")
    found, _ = read(encoded(palette, "BMP"))
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))
    found, _ = read(encoded(ycbcr, "TIFF", compression="tiff_lzw"))
    np.testing.assert_allclose(found.astype(int), np.asarray(rgb), atol=3)
    bits = rgb.convert("1")
    for format in ("BMP", "TIFF", "PNG"):
        found, _ = read(encoded(bits, format))
        np.testing.assert_array_equal(found[:, :, 0], np.asarray(bits) * 255)
    found, _ = read(encoded(rgba, "WEBP", lossless=True, exact=True))
    np.testing.assert_array_equal(found, np.asarray(rgba))
    # Colours are muted, because LAB with 8 bits cannot represent strong ones precisely.
    rgb = rgb.point(lambda value: 96 + value // 4)
    lab = ImageCms.profileToProfile(
        rgb,
        ImageCms.createProfile("sRGB"),
        ImageCms.createProfile("LAB"),
        outputMode="LAB",
    )
    found, _ = read(encoded(lab, "TIFF"))
    np.testing.assert_allclose(found.astype(int), np.asarray(rgb), atol=3)
    assert not caplog.records


def test_cmyk_conversion_warns_and_uses_the_profile_if_it_applies(
    read, caplog, monkeypatch
):
    flat = Image.new("CMYK", (16, 16), (0, 128, 255, 0))
    found, metadata = read(encoded(flat, "TIFF", icc_profile=SRGB))
    np.testing.assert_array_equal(found[0, 0], [255, 127, 0])
    assert metadata.icc is None and "CMYK profile not used" in caplog.text
    assert "CMYK converted to RGB without a profile" in caplog.text
    # The transform is replaced, because no press profile is free to ship.
    swap = Image.new("RGB", (16, 16), (1, 2, 3))
    monkeypatch.setattr(ImageCms, "profileToProfile", lambda *_, **__: swap)
    found, metadata = read(encoded(flat, "JPEG", icc_profile=SRGB))
    np.testing.assert_array_equal(found[0, 0], [1, 2, 3])
    assert metadata.icc[16:20] == b"RGB " and "by the embedded profile" in caplog.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded(Image.new("F", (3, 3), 2), "TIFF"), "floating-point pixels"),
        (encoded(Image.new("I", (3, 3)), "TIFF"), "32-bit integer pixels"),
        (tiff(-np.ones((3, 3, 3), np.float16), photometric="rgb"), "from -1 to -1"),
        (encoded(Image.new("L", (3, 3)), "PDF"), "cannot identify"),
        (b"", "cannot identify"),
        (png([bytes(9)] * 2, width=3, bits=8, colour=2)[:50], ""),
    ],
)
def test_error_names_unreadable_file_and_reason(read, content, reason):
    with pytest.raises(InputError, match=f"a.png: .*{reason}") as caught:
        read(content, "a.png")
    assert "\n" not in str(caught.value) and " at 0x" not in str(caught.value)


def test_rejects_paths_that_are_not_regular_files(tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("loop.png", "folder.png", "pipe.png", "absent.png", "nul\0.png"):
        for function in (read_header, read_picture):
            with pytest.raises(InputError, match=f"{name}: .*") as caught:
                function(tmp_path / name)
            assert str(caught.value).count(str(tmp_path)) == 1


def test_rejects_files_with_missing_pixels(read):
    """The files look valid, but end early or lack parts of their pixels."""
    pixels = smooth(3, np.uint8)
    short = png([row.tobytes() for row in pixels[:20]], width=60, bits=8, colour=2)
    taller = struct.pack(">IIBBBBB", 60, 40, 8, 2, 0, 0, 0)
    contents = [short[:8] + chunk(b"IHDR", taller) + short[33:]]
    for dtype in (np.uint8, np.uint16):
        for options in ({}, {"compression": "lzw"}):
            whole = tiff(smooth(3, dtype), photometric="rgb", rowsperstrip=10, **options)
            with tifffile.TiffFile(io.BytesIO(whole)) as file:
                tags = [
                    file.pages[0].tags[name]
                    for name in ("StripOffsets", "StripByteCounts")
                ]
            fewer = bytearray(whole)
            for tag in tags:
                fewer[tag.offset + 4 : tag.offset + 8] = struct.pack("<L", 3)
            contents.append(bytes(fewer))
    for content in contents:
        with pytest.raises(InputError):
            read(content)


def test_reads_only_the_first_of_several_images_with_a_warning(read, caplog):
    pixels = smooth(3, np.uint8)
    image, wide = Image.fromarray(pixels), smooth(3, np.uint16)
    for format in ("PNG", "WEBP", "TIFF", "MPO"):
        caplog.clear()
        more = dict(save_all=True, append_images=[image.rotate(180)])
        more |= {"lossless": True} if format == "WEBP" else {}
        found, _ = read(encoded(image, format, **more))
        np.testing.assert_allclose(
            found.astype(int), pixels, atol=9 if format == "MPO" else 0
        )
        assert "picture.bin: only the first of several pictures is" in caplog.text
    caplog.clear()
    found, _ = read(tiff(np.stack([wide, wide // 2]), photometric="rgb"))
    np.testing.assert_array_equal(found, wide)
    assert "only the first" in caplog.text


def test_reads_and_writes_images_despite_bad_exif(read, tmp_path, caplog):
    pixels = smooth(3, np.uint8)
    image = Image.fromarray(pixels)
    for broken in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\0\0", exif()[:-40]):
        read(encoded(image, "JPEG", exif=broken))
        np.testing.assert_array_equal(read(encoded(image, "PNG", exif=broken))[0], pixels)
    assert "picture.bin: " in caplog.text
    huge = Image.Exif()
    huge[0x010E] = "x" * 70000
    (message,) = write_picture(
        tmp_path / "a.jpg", pixels, Metadata(SRGB, huge.tobytes(), (72.0, 72.0))
    )
    assert message.startswith("EXIF not written (EXIF data is too long")
    _, kept = read_picture(tmp_path / "a.jpg")
    assert kept == Metadata(SRGB, None, (72.0, 72.0))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writing_into_a_missing_folder_raises_file_not_found(tmp_path, suffix):
    metadata = Metadata(SRGB, exif(), (72.0, 72.0))
    with pytest.raises(FileNotFoundError):
        write_picture(tmp_path / "absent" / f"a{suffix}", smooth(3, np.uint8), metadata)


def test_reading_does_not_change_process_wide_settings(read, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    before = list(warnings.filters)
    pixels = smooth(3, np.uint8)
    for format in ("PNG", "TIFF", "WEBP", "BMP"):
        options = {"lossless": True} if format == "WEBP" else {}
        found, _ = read(encoded(Image.fromarray(pixels), format, **options))
        np.testing.assert_array_equal(found, pixels)
    assert Image.MAX_IMAGE_PIXELS == 100 and warnings.filters == before
    assert not logging.getLogger("tifffile").filters


def test_keeps_or_rejects_long_sides_by_format_limits(read, tmp_path):
    for height, width in ((1, 1), (1, 70000), (70000, 1)):
        pixels = np.arange(height * width, dtype=np.uint16).reshape(height, width, 1)
        for suffix in (".png", ".tif"):
            write_picture(tmp_path / f"a{suffix}", pixels, Metadata())
            np.testing.assert_array_equal(
                read_picture(tmp_path / f"a{suffix}")[0], pixels
            )
    for suffix, longest, name in (
        (".webp", "16,383", "WebP"),
        (".jpeg", "65,500", "JPEG"),
    ):
        with pytest.raises(InputError, match=f"70000x1 pixels .* {name}.* {longest}"):
            fit_to_format(suffix, Header(1, 70000, 3, UINT8))
    with pytest.raises(InputError, match=r"'.gif': unknown extension, use one of .bmp"):
        fit_to_format(".gif", Header(1, 1, 3, UINT8))
    assert fit_to_format(".jpg", Header(1, 65500, 4, UINT16)) == (
        *(3, UINT8),
        [
            "alpha dropped: JPEG cannot hold it",
            "reduced to 8 bits: JPEG cannot hold 16",
        ],
    )


def test_convert_rounds_to_8_bits_and_scales_to_16_bits():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    expected = np.rint(every / 257).astype(np.uint8)
    np.testing.assert_array_equal(convert(every, 1, np.uint8), expected)
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    np.testing.assert_array_equal(
        convert(eight, 3, np.uint16)[:, :, 1], eight[:, :, 0] * 257.0
    )


@pytest.mark.parametrize("which", range(11))
def test_reads_or_rejects_mutated_files(tmp_path, which, capfd):
    files, rng, path = small_files(), np.random.default_rng(which), tmp_path / "x.png"
    path.write_bytes(files[which])
    whole, _ = read_picture(path)
    for n in range(100):
        path.write_bytes(mutated(files, which, rng, n))
        try:
            header = read_header(path)
            if header.height * header.width > 10**6:
                continue
            pixels, _ = read_picture(path)
        except InputError as error:
            assert "\n" not in str(error) and " at 0x" not in str(error)
            assert str(error).startswith(f"{path}: ")
        else:
            assert pixels.shape == (header.height, header.width, header.channels)
            if n % 4 == 0:
                np.testing.assert_array_equal(pixels, whole)
        if n % 10 == 0:
            try:
                read_image(Path(path))
            except (InputError, UserWarning) as error:
                assert "\n" not in str(error)
