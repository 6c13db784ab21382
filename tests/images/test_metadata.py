"""Colour chunks, large or damaged metadata, text, XMP, resolution and orientation."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from samples import SRGB, encoded, smooth, tiff

from eddsrn_jax.images.metadata import Metadata
from eddsrn_jax.images.pictures import read_picture, write_picture
from eddsrn_jax.images.pixels import from_pillow

FLAT = smooth(3, np.uint8)
IMAGE = Image.fromarray(FLAT)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6" dc:title="Cat"/>'
COLOUR = (
    (b"gAMA", struct.pack(">I", 100000)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
    (b"cICP", bytes((12, 16, 0, 1))),
    (b"mDCV", bytes(24)),
    (b"cLLI", bytes(8)),
)


@pytest.fixture
def rewritten(tmp_path):
    """Returns a function that reads a file and writes it in another format."""

    def rewritten(content, suffix=".png"):
        path, target = tmp_path / "picture.bin", tmp_path / f"result{suffix}"
        path.write_bytes(content)
        pixels, metadata = read_picture(path)
        messages = write_picture(target, pixels, metadata)
        return pixels, metadata, target, messages

    return rewritten


def chunk(kind: bytes, data: bytes, *, damaged: bool = False) -> bytes:
    check = zlib.crc32(kind + data) ^ damaged
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png(*chunks: bytes, pixels=FLAT) -> bytes:
    """Returns a PNG file with additional chunks after its header."""
    import imagecodecs

    content = bytes(imagecodecs.png_encode(pixels))
    return content[:33] + b"".join(chunks) + content[33:]


def chunks_of(path) -> dict[bytes, bytes]:
    content, position, found = path.read_bytes(), 8, {}
    while position < len(content):
        (size,) = struct.unpack(">I", content[position : position + 4])
        kind = content[position + 4 : position + 8]
        found[kind] = content[position + 8 : position + 8 + size]
        assert (
            zlib.crc32(kind + found[kind])
            == struct.unpack(">I", content[position + 8 + size : position + 12 + size])[0]
        )
        position += size + 12
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kinds", [(0,), (0, 1), (2,), (0, 1, 2, 3, 4)])
def test_png_colour_chunks_are_kept_in_png(rewritten, dtype, kinds):
    wanted = [COLOUR[i] for i in kinds]
    content = png(*(chunk(*x) for x in wanted), pixels=smooth(3, dtype))
    pixels, _, target, messages = rewritten(content)
    found = chunks_of(target)
    assert all(found[kind] == data for kind, data in wanted) and not messages
    np.testing.assert_array_equal(read_picture(target)[0], pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".webp", ".bmp"])
def test_png_colour_chunks_that_a_format_cannot_hold_are_named(rewritten, suffix):
    *_, messages = rewritten(png(chunk(*COLOUR[0]), chunk(*COLOUR[2])), suffix)
    assert any("colour chunks cICP dropped" in message for message in messages)
    *_, messages = rewritten(png(chunk(*COLOUR[0]), chunk(*COLOUR[1])), suffix)
    assert any("colour chunks gAMA, cHRM dropped" in message for message in messages)
    # These two are the values of sRGB.
    gamma = chunk(b"gAMA", struct.pack(">I", 45455))
    *_, messages = rewritten(png(gamma, chunk(b"sRGB", b"\0")), suffix)
    assert not messages


def test_large_profiles_and_texts_of_png_are_kept(rewritten):
    profile = SRGB + np.random.default_rng(0).bytes(1_500_000)
    content = png(
        chunk(b"iCCP", b"big\0\0" + zlib.compress(profile)),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 2_000_000)),
        chunk(b"iTXt", b"Title\0\1\0\0\0" + zlib.compress("Käse 写真".encode())),
    )
    _, metadata, target, messages = rewritten(content)
    assert metadata.icc == profile and not messages
    assert read_picture(target)[1] == metadata
    assert dict(metadata.texts)["Title"] == "Käse 写真"
    assert dict(metadata.texts)["Comment"] == "x" * 2_000_000


@pytest.mark.parametrize(
    "bad",
    [
        chunk(b"tEXt", b"Comment\0text", damaged=True),
        chunk(b"zTXt", b"Comment\0\0not zlib"),
        chunk(b"iTXt", b"Comment"),
        chunk(b"iCCP", b"name\0\0nonsense"),
        chunk(b"pHYs", b"123"),
        chunk(b"gAMA", bytes(4), damaged=True),
    ],
)
def test_damaged_png_metadata_is_left_out_with_a_warning(rewritten, caplog, bad):
    pixels, *_ = rewritten(png(bad))
    np.testing.assert_array_equal(pixels, FLAT)
    assert "was left out: it is damaged" in caplog.text


def test_too_large_metadata_is_left_out_in_own_words(rewritten, caplog):
    # Each text has fewer than 64 MB, both together have more.
    text = b"Comment\0\0" + zlib.compress(bytes(40 * 2**20))
    pixels, metadata, *_ = rewritten(png(*(chunk(b"zTXt", text) for _ in range(2))))
    np.testing.assert_array_equal(pixels, FLAT)
    assert len(metadata.texts) == 1
    message = "the PNG chunk zTXt was left out: the metadata have more than 64 MB"
    assert caplog.text.count(message) == 1


def exif_with_texts() -> Image.Exif:
    tags = Image.Exif()
    tags[0x010F] = "Maker"
    tags[0x8769] = {0xA434: "Objektiv", 0xA430: "Besitzer", 0x829A: 0.5}
    return tags


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("text", ["Größe", "写真 カメラ"])
def test_text_tags_stay_text(rewritten, suffix, text):
    content = exif_with_texts().tobytes()
    # EXIF of cameras holds UTF-8. The placeholders are as long as the texts.
    for placeholder in (b"Objektiv", b"Besitzer"):
        short = text.encode()[: len(placeholder)]
        content = content.replace(placeholder, short.ljust(len(placeholder), b"."))
    *_, target, _ = rewritten(encoded(IMAGE, "JPEG", exif=content), suffix)
    with Image.open(target) as image:
        found = image.getexif().get_ifd(0x8769)
    expected = text.encode()[:8].ljust(8, b".").decode("latin-1")
    assert found[0xA434] == found[0xA430] == expected
    assert read_types(target)[0xA434] == 2


def read_types(path) -> dict[int, int]:
    """Returns the type of each tag in the EXIF directory of a file."""
    with Image.open(path) as image:
        exif = image.getexif()
        exif.fp.seek(exif[0x8769])
        order = "<" if exif.endian == "<" else ">"
        (count,) = struct.unpack(order + "H", exif.fp.read(2))
        entries = [struct.unpack(order + "HH8x", exif.fp.read(12)) for _ in range(count)]
    return dict(entries)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_is_kept_with_an_upright_orientation(rewritten, source, suffix):
    if source == "PNG":
        content = png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP))
    elif source == "TIFF":
        content = tiff(FLAT, photometric="rgb", extratags=[(700, 1, len(XMP), XMP, True)])
    else:
        content = encoded(IMAGE, source, xmp=XMP)
    pixels, _, target, messages = rewritten(content, suffix)
    # XMP alone does not turn a photo, as in browsers.
    assert pixels.shape == FLAT.shape and not messages
    expected = XMP.replace(b'"6"', b'"1"')
    assert read_picture(target)[1].xmp == expected
    with Image.open(target) as image:
        assert image.size == (60, 40)
        found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
        found = found or image.getexif().get(700)
    assert (found.encode() if isinstance(found, str) else found) == expected


def test_xmp_alone_does_not_turn_a_pillow_image():
    with Image.open(io.BytesIO(encoded(IMAGE, "PNG"))) as image:
        image.info["xmp"] = XMP
        np.testing.assert_array_equal(from_pillow(image), FLAT)
        assert image.info["xmp"] == XMP


def test_xmp_does_not_turn_a_photo_whose_exif_has_no_orientation(rewritten):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    content = encoded(IMAGE, "JPEG", exif=exif.tobytes(), xmp=XMP)
    assert rewritten(content)[0].shape == FLAT.shape
    # Pillow has read the orientation when it looked for a resolution.
    with Image.open(io.BytesIO(content)) as image:
        assert from_pillow(image).shape == FLAT.shape


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_damaged_exif_of_a_pillow_image_is_ignored(format):
    content = encoded(IMAGE, format, exif=b"Exif\0\0nonsense", xmp=XMP, dpi=(72, 72))
    with Image.open(io.BytesIO(content)) as image:
        assert from_pillow(image).shape == FLAT.shape
        assert image.info["xmp"] == XMP


def test_a_resolution_that_is_text_is_no_resolution(rewritten):
    entries = [struct.pack("<HHI", tag, 2, 4) + b"abc\0" for tag in (282, 283)]
    exif = b"II*\0\x08\0\0\0\x02\0" + b"".join(entries) + bytes(4)
    pixels, metadata, *_ = rewritten(encoded(IMAGE, "JPEG", exif=b"Exif\0\0" + exif))
    assert pixels.shape == FLAT.shape and metadata.dpi is None


def test_comments_and_texts_are_kept_or_named(rewritten):
    comment = "naïve".encode()
    content = encoded(IMAGE, "JPEG", comment=comment)
    *_, target, messages = rewritten(content)
    with Image.open(target) as image:
        assert image.info["Comment"] == "naïve" and not messages
    *_, target, messages = rewritten(content, ".jpg")
    with Image.open(target) as image:
        assert image.info["comment"] == comment and not messages
    *_, messages = rewritten(content, ".webp")
    assert messages == ["text dropped: WebP cannot hold it (Comment)"]
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Eve")
    *_, messages = rewritten(encoded(IMAGE, "PNG", pnginfo=info), ".jpg")
    assert messages == ["text dropped: JPEG cannot hold it (Author)"]


def test_comments_that_are_not_utf_8_are_kept(rewritten):
    text = chunk(b"iTXt", b"Comment\0\0\0\0\0caf\xe9")
    *_, target, messages = rewritten(png(text), ".jpg")
    with Image.open(target) as image:
        assert image.info["comment"] == b"caf\xe9" and not messages


def test_iptc_data_is_named_once(rewritten, caplog):
    record = b"\x1c\x02\x78\0\3cap"
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + record + b"\0"
    content = b"Photoshop 3.0\0" + block
    segment = b"\xff\xed" + struct.pack(">H", len(content) + 2) + content
    jpeg = encoded(IMAGE, "JPEG")
    rewritten(jpeg[:2] + segment + jpeg[2:])
    assert caplog.text.count("IPTC data is not kept") == 1


def test_iptc_data_of_a_16_bit_tiff_is_named(rewritten, caplog):
    record = b"\x1c\x02\x78\0\3cap"
    tags = [(33723, 1, len(record), record, True)]
    rewritten(tiff(smooth(3, np.uint16), photometric="rgb", extratags=tags))
    assert caplog.text.count("IPTC data is not kept") == 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("source", ["JPEG", "TIFF", "TIFF16", "PNG", "WEBP"])
def test_no_resolution_is_invented(rewritten, source, suffix):
    if source == "TIFF16":
        content = tiff(smooth(3, np.uint16), photometric="rgb")
    elif source == "TIFF":
        content = encoded(IMAGE, "TIFF")
    else:
        content = encoded(IMAGE, source, exif=exif_with_texts().tobytes())
    _, metadata, target, _ = rewritten(content, suffix)
    assert metadata.dpi is None
    assert read_picture(target)[1].dpi is None


def test_the_resolution_in_exif_is_kept(rewritten):
    tags = exif_with_texts()
    tags[282], tags[283], tags[296] = 240.0, 120.0, 2
    for source in ("JPEG", "PNG", "WEBP"):
        assert rewritten(encoded(IMAGE, source, exif=tags))[1].dpi == (240, 120)
    # The photo is turned, and its resolutions with it.
    tags[274] = 6
    assert rewritten(encoded(IMAGE, "JPEG", exif=tags))[1].dpi == (120, 240)
    tags[274] = 1
    *_, messages = rewritten(encoded(IMAGE, "JPEG", exif=tags), ".webp")
    assert messages == ["resolution dropped: it is not written to WebP"]
    tags[296] = 3
    found = rewritten(encoded(IMAGE, "JPEG", exif=tags))[1].dpi
    assert found == pytest.approx((609.6, 304.8))


@pytest.mark.parametrize("cut", [30, 60, 80])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_is_left_out_with_a_warning(rewritten, caplog, source, cut):
    content = exif_with_texts().tobytes()[:cut]
    pixels, metadata, *_ = rewritten(encoded(IMAGE, source, exif=content))
    assert pixels.shape == FLAT.shape and metadata.exif is None
    found = [record.getMessage().split(": ", 1)[1] for record in caplog.records]
    assert found == ["EXIF is damaged and was left out"]


def test_a_gain_map_is_named_and_its_description_left_out(rewritten, caplog):
    xmp = XMP.replace(b"dc:title", b"hdrgm:Version")
    _, metadata, *_ = rewritten(encoded(IMAGE, "JPEG", xmp=xmp))
    assert metadata.xmp is None and "the HDR gain map and XMP are lost" in caplog.text


def test_extended_xmp_is_named_and_not_announced(rewritten, caplog):
    xmp = XMP.replace(b" dc:", b' xmpNote:HasExtendedXMP="0123ABCD" dc:')
    _, metadata, *_ = rewritten(encoded(IMAGE, "JPEG", xmp=xmp))
    assert metadata.xmp == XMP.replace(b'"6"', b'"1"')
    assert "extended XMP is not kept" in caplog.text


def test_long_runs_of_spaces_in_xmp_are_searched_in_linear_time(rewritten):
    # A pattern that began with spaces took minutes.
    xmp = XMP.replace(b" dc:", b" " * 1_000_000 + b"dc:")
    _, metadata, *_ = rewritten(encoded(IMAGE, "WEBP", xmp=xmp), ".webp")
    assert len(metadata.xmp) == len(xmp)


def test_bmp_names_what_it_cannot_hold(rewritten):
    *_, messages = rewritten(encoded(IMAGE, "JPEG", xmp=XMP), ".bmp")
    assert messages == ["XMP dropped: BMP cannot hold metadata"]


def test_metadata_without_anything_special_gives_no_message(rewritten, caplog):
    for source in ("PNG", "JPEG", "TIFF", "WEBP", "BMP"):
        _, metadata, _, messages = rewritten(encoded(IMAGE, source), ".jpg")
        assert not messages and not metadata.texts
        # Pillow's BMP files have a resolution.
        assert metadata == Metadata(dpi=metadata.dpi if source == "BMP" else None)
    assert not caplog.records


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("colour", ["gray", "rgb"])
def test_a_transparent_colour_of_png_becomes_alpha(rewritten, dtype, colour):
    pixels = smooth(1 if colour == "gray" else 3, dtype)
    key = pixels[7, 11]
    content = png(chunk(b"tRNS", key.astype(">u2").tobytes()), pixels=pixels.squeeze())
    found, *_ = rewritten(content)
    peak = np.iinfo(dtype).max
    expected = np.where((pixels == key).all(axis=2), 0, peak)
    np.testing.assert_array_equal(found[:, :, -1], expected)
    assert found.dtype == dtype and found.shape[2] == pixels.shape[2] + 1
