"""Estimates the blur of a photo from its edges.

Photos are uint8, uint16, or float in [0, 1]; gray [h, w] or RGB [h, w, 3], of any size.
Blur is the standard deviation of a Gaussian, in pixels of the photo.

A step edge blurred by sigma, then blurred again by s, is as steep as one blurred by
sqrt(sigma^2 + s^2). How much each s weakens the edges therefore reveals sigma,
independently of their contrast. The strength of edges is the 4-norm of the third
derivative: this derivative drops fastest, and the strongest edges dominate the norm. A
quadratic polynomial maps the logarithms of ratios of strengths to sigma;
`python -m benchmarks.blur_estimator` fits and measures it.

Source: Zhuo & Sim, "Defocus map estimation from a single image", 2011, for the idea of
blurring again. Differs: the derivative, pooling over the photo, the fitted map.
"""

from typing import Literal

import numpy as np
from scipy import ndimage

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
_REBLURS = (0.0, 0.5, 1.0, 2.0)
# Coefficients of 1, x0, x1, x2, x0^2, x0 x1, x0 x2, x1^2, x1 x2, x2^2.
_COEFFICIENTS = (
    3.509,
    5.981,
    -3.573,
    -2.620,
    -5.982,
    4.995,
    -4.285,
    0.938,
    -0.402,
    1.478,
)
_MAX_SIGMA = 4.0
_MIN_SIDE = 24
# The third derivative, after the last reblur, of an edge one level of 255 high. Weaker
# edges are indistinguishable from rounding to 8 bits.
_WEAKEST = 1 / (_REBLURS[-1] ** 3 * np.sqrt(2 * np.pi))
_BLOCK = 256
_BLOCKS_PER_SIDE = 4
# Estimates are off by less than this factor for all but a few per cent of photos.
_MARGIN = 1.25


def estimate_sigma(image: np.ndarray) -> float | None:
    """Estimates the standard deviation of the Gaussian blur of a photo.

    Photos that were never blurred give about 0.5. The largest estimate is 4. Photos of
    more than 1024 x 1024 pixels are judged by at most 16 evenly spaced blocks.

    Returns:
        The estimate in pixels; None if a side is under 24 pixels or no edges stand out
        from 8-bit rounding.
    """
    x = log_ratios(image)
    if x is None:
        return None
    return float(np.clip(quadratic_terms(x) @ _COEFFICIENTS, 0.0, _MAX_SIGMA))


def outside_trained_range(
    sigma: float | None, sigma_range: tuple[float, float]
) -> Literal["sharper", "blurrier"] | None:
    """Compares an estimate with the range of blurs that a network was trained for.

    Args:
        sigma: result of `estimate_sigma`.
        sigma_range: lowest and highest sigma of the training.

    Returns:
        "sharper" or "blurrier" if the estimate is clearly outside the range; None if it
        is inside, too near to tell, or missing.
    """
    low, high = sigma_range
    if sigma is None or low / _MARGIN <= sigma <= high * _MARGIN:
        return None
    return "sharper" if sigma < low else "blurrier"


def log_ratios(image: np.ndarray) -> np.ndarray | None:
    """Measures by how much each reblur weakens the edges: the input of the estimate.

    Returns:
        float64 [3], logarithms of the ratios of one edge strength to the next; None in
        the cases of `estimate_sigma`.
    """
    if min(image.shape[:2]) < _MIN_SIDE:
        return None
    y = _luminance(_blocks(image))
    strengths = [_edge_strength(_blur(y, sigma)) for sigma in _REBLURS]
    if min(strengths) < _WEAKEST:
        return None
    return -np.diff(np.log(strengths))


def quadratic_terms(x: np.ndarray) -> np.ndarray:
    """Returns the products of up to two of `log_ratios`: [..., 3] -> [..., 10]."""
    x = np.concatenate([np.ones_like(x[..., :1]), x], axis=-1)
    first, second = np.triu_indices(x.shape[-1])
    return x[..., first] * x[..., second]


def _blocks(image: np.ndarray) -> np.ndarray:
    """Returns an image as [1, h, w, ...], or evenly spaced blocks of it if large."""
    height, width = image.shape[:2]
    if height * width <= (_BLOCK * _BLOCKS_PER_SIDE) ** 2:
        return image[None]
    rows, columns = (_starts(size) for size in (height, width))
    return np.stack(
        [image[i : i + _BLOCK, j : j + _BLOCK] for i in rows for j in columns]
    )


def _starts(size: int) -> np.ndarray:
    return np.unique(
        np.linspace(0, max(size - _BLOCK, 0), _BLOCKS_PER_SIDE).astype(np.int64)
    )


def _luminance(image: np.ndarray) -> np.ndarray:
    """Converts [n, h, w] or [n, h, w, 3] of any dtype to float32 [n, h, w], [0, 255]."""
    peak = np.iinfo(image.dtype).max if image.dtype.kind in "ui" else 1.0
    y = np.clip(image, 0, peak).astype(np.float32) * np.float32(255.0 / peak)
    return y @ _LUMINANCE if y.ndim == 4 else y


def _blur(y: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(y, (0, sigma, sigma), mode="nearest")


def _edge_strength(y: np.ndarray) -> float:
    """Returns the 4-norm of the gradient of the Laplacian of [n, h, w]."""
    laplacian = y[:, 1:-1, 2:] + y[:, 1:-1, :-2] + y[:, 2:, 1:-1] + y[:, :-2, 1:-1]
    laplacian -= 4 * y[:, 1:-1, 1:-1]
    down = laplacian[:, 2:, 1:-1] - laplacian[:, :-2, 1:-1]
    right = laplacian[:, 1:-1, 2:] - laplacian[:, 1:-1, :-2]
    squared = (down**2 + right**2) / 4
    return float(np.mean(squared**2, dtype=np.float64) ** 0.25)
