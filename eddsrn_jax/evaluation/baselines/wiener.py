"""The Wiener filter for a known Gaussian blur; it shows how much knowing the blur helps.

Source: Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series",
1949. The power of natural photos falls with the square of the frequency (Field,
"Relations between the statistics of natural images and the response properties of
cortical cells", 1987).
"""

import math
from typing import Any

import numpy as np
import scipy.fft

from eddsrn_jax.evaluation.baselines.bicubic import bicubic
from eddsrn_jax.images.pixels import rounded
from eddsrn_jax.restoration.outputs import Restored

# SciPy has no annotations, and type checkers guess wrong types for some of its results.
_fft: Any = scipy.fft

# Power of noise divided by the power of photos at one cycle a pixel. Noise is rounding
# and the blur model's error at edges. This value was the best of 1e-5, 2e-5, 5e-5 .. 2e-2
# on 40 photos of 512 x 512, all five sigmas together. None of these is in a reported set.
NOISE_TO_SIGNAL = 2e-3


def deblur(
    image: np.ndarray, sigma: float, *, noise_to_signal: float = NOISE_TO_SIGNAL
) -> np.ndarray:
    """Removes a known Gaussian blur.

    The photo is continued by mirroring, so that the cosine transform diagonalises the
    blur. The protocol's blur replicates edges instead, which differs in a pixel or two.

    Args:
        image: uint8 [h, w, C].
        sigma: standard deviation of the blur in pixels. The blur is cut off after
            ceil(2 sigma).
        noise_to_signal: noise power divided by the photo's power at one cycle a pixel.

    Returns:
        uint8 [h, w, C].
    """
    height, width, _ = image.shape
    blur = _response(height, sigma)[:, None] * _response(width, sigma)
    # Frequencies are in cycles a pixel, up to a half.
    rows, columns = (np.arange(n) / (2 * n) for n in (height, width))
    frequency = rows[:, None] ** 2 + columns**2
    gain = blur / (blur**2 + noise_to_signal * frequency)
    gain[0, 0] = 1.0
    spectrum = _fft.dctn(image.astype(np.float64), axes=(0, 1))
    restored = _fft.idctn(spectrum * gain[:, :, None], axes=(0, 1))
    return rounded(restored, np.uint8)


def _response(size: int, sigma: float) -> np.ndarray:
    """Returns the blur's factor for each frequency of a cosine transform, [size]."""
    taps = np.arange(1, math.ceil(2 * sigma) + 1)
    weights = np.exp(-0.5 * (taps / max(sigma, 1e-6)) ** 2)
    angles = np.pi * np.arange(size)[:, None] * taps / size
    return (1 + 2 * np.cos(angles) @ weights) / (1 + 2 * weights.sum())


class Wiener:
    """Wiener filter, then bicubic interpolation; a method that needs the true sigma."""

    takes_sigma = True

    def __call__(self, lr_blur: np.ndarray, sigma: float) -> Restored:
        """Restores uint8 [h, w, C] that has a Gaussian blur of sigma pixels."""
        deblurred = deblur(lr_blur, sigma)
        return Restored(sr=bicubic(deblurred).sr, deblurred=deblurred)
