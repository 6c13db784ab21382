"""TIFF files of 16 bits, in all layouts, written and read."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from samples import SRGB, exif, smooth, tiff

from eddsrn_jax.errors import InputError
from eddsrn_jax.images.metadata import Metadata
from eddsrn_jax.images.pictures import (
    read_picture,
    write_picture,
)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_other_libraries_read_written_16_bit_files(tmp_path, channels, suffix):
    path, pixels = tmp_path / f"a{suffix}", smooth(channels, np.uint16)
    write_picture(path, pixels, Metadata(None, exif(), (72.0, 72.0)))
    read = tifffile.imread if suffix == ".tif" else imagecodecs.imread
    np.testing.assert_array_equal(read(path).reshape(pixels.shape), pixels)
    if suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            assert file.pages[0].tags["Make"].value == "Maker"
            assert file.pages[0].tags["ExifTag"].value["PixelXDimension"] == 60


@pytest.mark.parametrize("layout", ["strips", "big-endian", "tiles", "planar", "bigtiff"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_reads_16_bit_tiff_layouts(read, channels, layout):
    pixels = smooth(channels, np.uint16)
    options = {
        "strips": dict(compression="adobe_deflate", predictor=2, rowsperstrip=7),
        "big-endian": dict(byteorder=">", rowsperstrip=7),
        "tiles": dict(compression="lzw", tile=(16, 32)),
        "planar": dict(planarconfig="separate"),
        "bigtiff": dict(bigtiff=True),
    }[layout]
    if channels in (2, 4):
        options["extrasamples"] = ["unassalpha"]
    stored = np.moveaxis(pixels, 2, 0) if layout == "planar" else pixels
    stored = pixels[:, :, 0] if channels == 1 else stored
    if channels == 1:
        options.pop("planarconfig", None)
    options["photometric"] = "rgb" if channels > 2 else "minisblack"
    content = tiff(np.ascontiguousarray(stored), **options, iccprofile=SRGB)
    found, metadata = read(content)
    np.testing.assert_array_equal(found, pixels)
    assert metadata.icc == SRGB


def test_reads_16_bit_tiff_inverted_premultiplied_or_with_spare_channel(read):
    gray = smooth(1, np.uint16)
    found, _ = read(tiff(gray[:, :, 0], photometric="miniswhite"))
    np.testing.assert_array_equal(found, 65535 - gray)
    pixel = np.array([[[20000, 100, 0, 40000]]], np.uint16)
    found, _ = read(tiff(pixel, photometric="rgb", extrasamples=["assocalpha"]))
    # The values are 20000 * 65535 / 40000 and 100 * 65535 / 40000, rounded.
    np.testing.assert_array_equal(found, [[[32768, 164, 0, 40000]]])
    found, _ = read(tiff(pixel, photometric="rgb", extrasamples=["unspecified"]))
    np.testing.assert_array_equal(found, pixel[:, :, :3])


def test_rejects_tiff_with_oversized_tiles(read):
    content = bytearray(tiff(smooth(3, np.uint16), photometric="rgb", tile=(16, 16)))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        tags = [file.pages[0].tags[name] for name in ("TileWidth", "TileLength")]
    for tag in tags:
        content[tag.valueoffset : tag.valueoffset + 2] = struct.pack("<H", 60000)
    with pytest.raises(InputError, match="tiles of 60000x60000"):
        read(bytes(content))


def test_rejects_tiff_of_several_layers_before_it_is_decoded(read):
    volume = np.zeros((4, 32, 32), np.uint16)
    for options in ({"tile": (4, 16, 16)}, {}):
        content = tiff(volume, photometric="minisblack", volumetric=True, **options)
        with pytest.raises(InputError, match="16 bits a pixel, .* 4 layers"):
            read(content)


def test_bigtiff_keeps_pixels_profile_and_dpi_but_not_exif(tmp_path, monkeypatch):
    monkeypatch.setattr("eddsrn_jax.images.pictures._LARGEST_TIFF", 100)
    path = tmp_path / "a.tif"
    for dtype in (np.uint8, np.uint16):
        pixels = smooth(3, dtype)
        messages = write_picture(path, pixels, Metadata(SRGB, exif(), (72.0, 72.0)))
        assert messages == ["EXIF not written (the file is a BigTIFF)"]
        assert path.read_bytes()[:4] == b"II+\0"
        found, kept = read_picture(path)
        np.testing.assert_array_equal(found, pixels)
        assert kept == Metadata(SRGB, None, (72.0, 72.0))
