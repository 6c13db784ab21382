import errno
import io
import logging
import os

import numpy as np
import pytest
from PIL import Image
from processes import python

from eddsrn_jax.errors import InputError
from eddsrn_jax.images import count_pixels, list_images, read_image, write_image


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def rgb(photo) -> np.ndarray:
    return np.ascontiguousarray(photo[:20, :30])


def test_png_round_trip_keeps_rgb_pixels(rgb, tmp_path):
    path = tmp_path / "deep" / "photo.png"
    write_image(path, rgb)
    for file in (path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(read_image(file), rgb)


def test_gray_becomes_three_equal_channels(rgb):
    gray = Image.fromarray(rgb).convert("L")
    expected = np.stack([np.asarray(gray)] * 3, axis=2)
    np.testing.assert_array_equal(read_image(encoded(gray)), expected)


def test_reads_palette_and_one_bit_images(rgb):
    palette = Image.fromarray(rgb).convert("P")
    np.testing.assert_array_equal(read_image(encoded(palette)), palette.convert("RGB"))
    bits = read_image(encoded(Image.fromarray(rgb).convert("1")))
    assert set(np.unique(bits)) == {0, 255}


def test_alpha_is_ignored_with_a_warning(rgb, caplog):
    alpha = np.linspace(0, 255, 600).astype(np.uint8).reshape(20, 30, 1)
    file = encoded(Image.fromarray(np.concatenate([rgb, alpha], axis=2)))
    np.testing.assert_array_equal(read_image(file, "see-through.png"), rgb)
    assert "see-through.png: alpha channel ignored" in caplog.text


def test_sixteen_bit_gray_is_scaled_not_clipped(rgb, caplog):
    gray = rgb[:, :, 0]
    wide = Image.fromarray(gray.astype(np.uint16) * 257)
    for format in ("PNG", "TIFF"):
        found = read_image(encoded(wide, format), "wide")
        np.testing.assert_array_equal(found, np.stack([gray] * 3, axis=2))
    assert "wide: reduced to 8 bits" in caplog.text


def test_sixteen_bit_colour_is_reduced_with_a_warning(rgb, caplog):
    found = read_image(sixteen_bit_png(rgb), "wide.png")
    np.testing.assert_array_equal(found, rgb)
    assert "wide.png: reduced to 8 bits" in caplog.text


def sixteen_bit_png(rgb: np.ndarray) -> bytes:
    """Encodes a PNG by hand, because Pillow cannot write 16-bit colour."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    height, width, _ = rgb.shape
    rows = (rgb.astype(">u2") * 257).astype(">u2")
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def test_converts_cmyk_to_rgb(rgb):
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    found = read_image(encoded(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=95))
    np.testing.assert_allclose(found.astype(int), flat, atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(Image.fromarray(rgb), exif=exif)
    upright = {
        1: rgb,
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        5: rgb.swapaxes(0, 1),
        6: np.rot90(rgb, -1),
        7: rgb[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(rgb),
    }[orientation]
    found = read_image(file)
    np.testing.assert_array_equal(found, upright)


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(40)], ids=str
)
def test_error_names_a_file_that_is_not_an_image(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    for read in (read_image, lambda p: count_pixels(p, str(p))):
        with pytest.raises(InputError, match="broken.png: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_error_names_a_truncated_file(tmp_path, photo, format):
    path = tmp_path / "half"
    whole = encoded(Image.fromarray(photo), format)
    path.write_bytes(whole[: len(whole) // 2])
    assert count_pixels(path, str(path)) == photo.shape[0] * photo.shape[1]
    with pytest.raises(InputError, match="half: cannot be decoded"):
        read_image(path)


def test_list_images_names_folders_that_cannot_be_read(tmp_path, caplog, monkeypatch):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        Image.new("RGB", (9, 9)).save(folder / "photo.png")
    scan = os.scandir

    def scandir(path):
        if str(path).startswith(str(locked)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    locked, left_out = tmp_path / "a", {}
    assert list_images(tmp_path, left_out=left_out) == [tmp_path / "b" / "photo.png"]
    assert left_out == {locked: "it cannot be read: Permission denied"}
    assert f"{locked}: left out, because it cannot be read" in caplog.text
    locked = tmp_path
    with pytest.raises(InputError, match=f"^{tmp_path}: Permission denied$"):
        list_images(tmp_path)


def test_list_images_recurses_sorts_and_warns_of_omitted_files(tmp_path, caplog):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.png").mkdir()
    for name in ("b.PNG", "a/c.jpeg", "a/notes.txt", ".hidden.png", "d.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a/c.jpeg", "b.PNG", "d.tif"]
    assert "1 files left out, because their names match none of *.bmp" in caplog.text
    assert "*.webp: notes.txt" in caplog.text
    assert "gone.png: left out, because it is not a file (a broken" in caplog.text


def test_list_images_rejects_empty_and_missing_folders(tmp_path):
    with pytest.raises(InputError, match=r"no images found \(looked for .*\*\.png"):
        list_images(tmp_path)
    with pytest.raises(InputError, match="absent: no such folder"):
        list_images(tmp_path / "absent")


def test_reading_a_valid_image_logs_nothing(rgb, caplog):
    with caplog.at_level(logging.INFO, "eddsrn_jax"):
        read_image(encoded(Image.fromarray(rgb)))
    assert not caplog.records


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".png", ".tif", ".webp"])
def test_a_file_that_the_disk_cuts_off_is_an_error(tmp_path, suffix):
    # A limit on the size of files stands for a full disk: the last write is partial.
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from eddsrn_jax.images.metadata import Metadata\n"
        "from eddsrn_jax.images.pictures import write_picture\n"
        "from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)\n"
        "write_picture(Path(sys.argv[1]), pixels, Metadata())"
    )
    run = python(code, arguments=[tmp_path / f"a{suffix}"])
    _, err = run.communicate()
    assert run.returncode and "File too large" in err, err
