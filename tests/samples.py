"""Makes image files of many kinds, valid and broken."""

import io

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def smooth(channels: int, dtype: type, height: int = 40, width: int = 60) -> np.ndarray:
    """Returns a ramp per channel, [height, width, channels], that uses all low bits."""
    peak = np.iinfo(dtype).max
    rows, columns = np.mgrid[:height, :width] / (height + width)
    ramps = [rows + columns, 1 - rows, 1 - columns, (rows + 1) / 2][:channels]
    return (np.stack(ramps, axis=2) * peak).astype(dtype)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **options)
    return buffer.getvalue()


def exif(orientation: int = 1) -> bytes:
    tags = Image.Exif()
    tags[0x010F], tags[0x013B] = "Maker", "Jürgen".encode("latin-1")
    tags[0x0112] = orientation
    # These tags describe the file, not the photo: width, compression and photometric
    # interpretation.
    tags[0x0100], tags[0x0103], tags[0x0106] = 7, 5, 0
    tags[0x8769] = {0x829A: 0.5, 0xA002: 7, 0xA003: 9, 0xA434: "Lens"}
    return tags.tobytes()


def small_files() -> list[bytes]:
    pixels, wide = smooth(3, np.uint8, 24, 32), smooth(3, np.uint16, 24, 32)
    image, tags = Image.fromarray(pixels), exif(6)
    tiles = dict(tile=(16, 16), compression="lzw", extrasamples=["unassalpha"])
    return [
        encoded(image, "PNG", exif=tags, icc_profile=SRGB),
        encoded(image.convert("P"), "PNG", transparency=3),
        imagecodecs.png_encode(wide),
        encoded(image, "JPEG", exif=tags, dpi=(72, 72)),
        encoded(image.convert("CMYK"), "JPEG", progressive=True),
        encoded(image, "TIFF", compression="tiff_lzw"),
        tiff(pixels, photometric="rgb", rowsperstrip=5),
        tiff(wide[:, :, :2].copy(), photometric="minisblack", **tiles),
        encoded(image, "WEBP", exif=tags),
        encoded(image.convert("P"), "BMP"),
        encoded(image, "MPO", save_all=True, append_images=[image]),
    ]


def mutated(files: list[bytes], which: int, rng: np.random.Generator, n: int) -> bytes:
    content = bytearray(files[which])
    if n % 4 == 0:
        return bytes(content[: rng.integers(len(content))])
    if n % 4 == 1:
        other = files[rng.integers(len(files))]
        cut = rng.integers(1, min(len(other), len(content), 300))
        return other[:cut] + bytes(content[cut:])
    # For n % 4 == 2, only the header is changed.
    end = len(content) if n % 4 == 3 else min(200, len(content))
    for _ in range(rng.integers(1, 8)):
        content[rng.integers(end)] = rng.choice([0, 1, 127, 255, rng.integers(256)])
    return bytes(content)


# A file of each bit depth, with and without alpha, by its name.
KINDS = {
    "L.png": encoded(Image.fromarray(smooth(1, np.uint8)[:, :, 0]), "PNG"),
    "LA.png": encoded(Image.fromarray(smooth(2, np.uint8)), "PNG"),
    "P.png": encoded(
        Image.fromarray(smooth(3, np.uint8)).convert("P"), "PNG", transparency=7
    ),
    "1.png": encoded(Image.fromarray(smooth(1, np.uint8)[:, :, 0]).convert("1"), "PNG"),
    "RGBA.webp": encoded(
        Image.fromarray(smooth(4, np.uint8)), "WEBP", lossless=True, exact=True
    ),
    "CMYK.jpg": encoded(Image.fromarray(smooth(3, np.uint8)).convert("CMYK"), "JPEG"),
    "RGB.bmp": encoded(Image.fromarray(smooth(3, np.uint8)), "BMP"),
    "L16.png": imagecodecs.png_encode(smooth(1, np.uint16)[:, :, 0]),
    "LA16.tif": tiff(
        smooth(2, np.uint16), photometric="minisblack", extrasamples=["unassalpha"]
    ),
    "RGB16.png": imagecodecs.png_encode(smooth(3, np.uint16)),
    "RGBA16.tif": tiff(
        smooth(4, np.uint16), photometric="rgb", extrasamples=["unassalpha"]
    ),
}
