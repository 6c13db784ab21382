"""Bicubic resizing of images in NumPy, clipped and rounded to their dtype.

They become smaller by any factor, or larger by an integer factor.
"""

import numpy as np
from scipy import sparse

from eddsrn_jax.images.pixels import rounded
from eddsrn_jax.ops.resize import bicubic_upscale, cubic_kernel, mirrored

# Rows of the result that are computed at once, to save memory.
_BAND = 64


def enlarged(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Enlarges an image by an integer factor.

    Args:
        pixels: [H, W, C], integers or floats in [0, 1].
        scale: factor for height and width.

    Returns:
        [scale * H, scale * W, C] clipped; rounded to the same dtype if integer, else
        float32.
    """
    height, width, channels = pixels.shape
    is_float = pixels.dtype.kind == "f"
    result = np.empty(
        (scale * height, scale * width, channels),
        np.float32 if is_float else pixels.dtype,
    )
    for top in range(0, height, _BAND):
        # Interpolation reads two rows on each side.
        rows = mirrored(np.arange(top - 2, min(top + _BAND, height) + 2), height)
        band = bicubic_upscale(pixels[rows][None].astype(np.float32), scale)[0]
        band = band[2 * scale : -2 * scale]
        band = np.clip(band, 0, 1) if is_float else rounded(band, pixels.dtype)
        result[scale * top : scale * (top + _BAND)] = band
    return result


def reduced(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Shrinks an image bicubically with antialiasing, as MATLAB's imresize.

    Args:
        pixels: uint8 or uint16 [H, W, C].
        height: height of the result, at most H.
        width: width of the result, at most W.

    Returns:
        [height, width, C] of the same dtype, rounded.
    """
    rows, columns = _matrix(len(pixels), height), _matrix(pixels.shape[1], width)
    channels = pixels.shape[2]
    result = np.empty((height, width, channels), pixels.dtype)
    for top in range(0, height, _BAND):
        part = rows[top : top + _BAND]
        first, last = part.indices.min(), part.indices.max()
        source = pixels[first : last + 1].astype(np.float32)
        band = part[:, first : last + 1] @ source.reshape(len(source), -1)
        across = band.reshape(part.shape[0], -1, channels).swapaxes(0, 1)
        band = columns @ across.reshape(pixels.shape[1], -1)
        band = band.reshape(width, -1, channels).swapaxes(0, 1)
        result[top : top + _BAND] = rounded(band, pixels.dtype)
    return result


def _matrix(size: int, reduced_size: int) -> sparse.csr_array:
    """Makes the matrix [reduced_size, size] that shrinks a vector."""
    factor = size / reduced_size
    centres = (np.arange(reduced_size) + 0.5) * factor - 0.5
    taps = np.arange(int(np.ceil(4 * factor)) + 1)
    indices = np.floor(centres - 2 * factor).astype(int)[:, None] + 1 + taps
    weights = cubic_kernel((indices - centres[:, None]) / factor)
    weights /= weights.sum(axis=1, keepdims=True)
    lines = np.repeat(np.arange(reduced_size), len(taps))
    entries = (lines, mirrored(indices, size).ravel())
    shape = (reduced_size, size)
    matrix = sparse.coo_array((weights.ravel().astype(np.float32), entries), shape)
    return matrix.tocsr()
