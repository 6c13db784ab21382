"""Converts pixels between Pillow images and arrays, channels, depths and orientations."""

import numpy as np
from PIL import Image, ImageCms

from eddsrn_jax.errors import InputError
from eddsrn_jax.images.photo import ORIENTATION, SIDEWAYS, exif_of

# The number of channels by mode, and the mode by number of channels.
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
MODES = {count: mode for mode, count in CHANNELS.items()}
# The mode of the pixels in memory, by the mode in which Pillow decodes.
_MODE_IN_MEMORY = {
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


def pixel_mode(image: Image.Image) -> str:
    """Returns the mode of a Pillow image's pixels in memory: L, LA, RGB or RGBA.

    Raises:
        InputError: the value range of the pixels is unknown.
    """
    if image.mode not in _MODE_IN_MEMORY:
        kinds = {"F": "floating-point", "I": "32-bit integer"}
        kind = kinds.get(image.mode, image.mode)
        raise InputError(
            f"the value range of {kind} pixels is unknown; convert the image to RGB,"
            " RGBA, L, LA or I;16 first"
        )
    mode = _MODE_IN_MEMORY[image.mode]
    if "transparency" in image.info:
        return {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    return mode


def to_array(image: Image.Image) -> np.ndarray:
    """Returns the pixels of an 8-bit Pillow image, uint8 [H, W, C]."""
    image.load()
    mode = pixel_mode(image)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        # Only a conversion in place returns None.
        assert converted is not None
        image = converted
    elif image.mode != mode:
        image = image.convert(mode)
    pixels = np.empty((image.height, image.width, CHANNELS[mode]), np.uint8)
    # Pillow would make two more copies of the whole image, so it is copied in bands.
    rows = max(1, 2**20 // max(image.width, 1))
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(band).reshape(-1, *pixels.shape[1:])
    return pixels


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns pixels [H, W, C] upright, given their EXIF orientation, 1 to 8."""
    if orientation in SIDEWAYS:
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


def rounded(levels: np.ndarray, dtype: np.typing.DTypeLike) -> np.ndarray:
    """Clips grey levels to the range of an integer dtype and rounds them, halves up."""
    peak = np.iinfo(dtype).max
    return np.floor(np.clip(levels, 0, peak) + 0.5).astype(dtype)


def widened(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Scales integers of 9 to 16 bits, whose white is 2^bits - 1, to all of uint16."""
    if bits == 16:
        return pixels
    peak = np.uint32(2**bits - 1)
    scaled = (np.minimum(pixels, peak) * np.uint32(65535) + peak // 2) // peak
    return scaled.astype(np.uint16)


def from_unit_range(pixels: np.ndarray) -> np.ndarray:
    """Converts floats in [0, 1] to uint16.

    Raises:
        InputError: a value is outside [0, 1] or not a number.
    """
    low, high = pixels.min(), pixels.max()
    # NaN fails this comparison too.
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"floating-point pixels from {low:g} to {high:g}; only a range of [0, 1] can"
            " be read"
        )
    return rounded(pixels * np.float64(65535), np.uint16)


def divide_by_alpha(pixels: np.ndarray) -> None:
    """Divides premultiplied colours, integers [H, W, C], by their alpha, in place."""
    peak = np.uint32(np.iinfo(pixels.dtype).max)
    for row in pixels:
        colours, alpha = row[:, :-1], np.maximum(row[:, -1:], 1).astype(np.uint32)
        colours[:] = np.minimum((colours * peak + alpha // 2) // alpha, peak)


def without_xmp(image: Image.Image) -> bytes | None:
    """Removes XMP from a Pillow image's info and returns it.

    Pillow would take the orientation from XMP if EXIF has none. Browsers do not.
    """
    found = [image.info.pop(key, None) for key in ("xmp", "XML:com.adobe.xmp")]
    xmp = found[0] or found[1]
    return xmp.encode() if isinstance(xmp, str) else xmp


def from_pillow(image: Image.Image) -> np.ndarray:
    """Returns the pixels of a Pillow image, upright, uint8 or uint16 [H, W, C].

    Raises:
        InputError: the value range of the pixels (floating-point or 32-bit) is unknown.
    """
    if image.mode.startswith("I;16"):
        pixels = np.array(image, np.uint16)[:, :, None]
    else:
        pixels = to_array(image)
    kept = dict(image.info)
    without_xmp(image)
    orientation = exif_of(image, []).get(ORIENTATION, 1)
    image.info.update(kept)
    return upright(pixels, orientation)


def to_pillow(pixels: np.ndarray) -> Image.Image:
    """Makes a Pillow image of uint8 [H, W, C] or uint16 [H, W, 1].

    Pillow has no other kinds of 16-bit images.
    """
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
