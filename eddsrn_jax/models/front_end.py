"""A fixed bank of inverse filters that a network can have before its first layer.

Inverting a Gaussian blur is ill-conditioned. The covariance of 13 x 13 patches of a
blurred photo has a condition number of 10^6. Gradient descent therefore needs many
decades of steps to find even the best linear filter. The bank holds such a filter for
each of several blurs. The network gets the photo and the change that each filter makes to
it, so it starts where a linear method ends. The paper's network has no such bank.

A bank is computed from a formula. It is not fitted and has no trained parameters.

Source: Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series",
1949, for a filter of finite size. The power of natural photos falls with the square of
the frequency (Field, "Relations between the statistics of natural images and the response
properties of cortical cells", 1987). Related: DWDN (Dong et al., NeurIPS 2020) and USRNet
(Zhang et al., CVPR 2020), whose filters need to know the blur.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from eddsrn_jax.errors import InputError
from eddsrn_jax.ops.resize import PRECISION

# Side of the periodic plane on which covariances of pixels are computed.
_PLANE = 256
_DECIMALS = 4
# Standard deviation of a photo's pixels in grey levels, rounded to a power of two.
# Division by a power of two keeps 8-bit values exact in bfloat16.
PHOTO_SCALE = 64.0


@dataclasses.dataclass(frozen=True)
class Bank:
    """Inverse filters for several Gaussian blurs.

    Attributes:
        filters: two numbers for each filter. The first is the standard deviation of the
            blur that it inverts, in pixels. The second is the variance of the noise that
            it expects, relative to a photo's power at one cycle a pixel.
        size: side of each filter, odd.
        scales: standard deviation, in grey levels, of the change that each filter makes
            to a photo. Fixed, so that a network gets inputs of about unit variance.
    """

    filters: tuple[tuple[float, float], ...]
    size: int
    scales: tuple[float, ...]

    @functools.cached_property
    def kernels(self) -> np.ndarray:
        """The filters, float32 [size, size, len(filters)], each with sum 1.

        They are rounded to four decimals, which are the same on every machine. Further
        decimals depend on the machine's linear algebra.
        """
        kernels = np.stack(
            [
                inverse_filter(sigma, noise=noise, size=self.size)
                for sigma, noise in self.filters
            ],
            axis=-1,
        )
        kernels = np.round(kernels, _DECIMALS)
        middle = self.size // 2
        kernels[middle, middle] += 1 - kernels.sum(axis=(0, 1))
        # Adding 0 turns -0.0 into 0.0; their bytes, and so the checksums, differ.
        return np.round(kernels, _DECIMALS).astype(np.float32) + 0

    @property
    def checksum(self) -> str:
        """First eight hexadecimal digits of the SHA-256 of kernels and scales."""
        kernels, scales = (np.asarray(x, "<f4") for x in (self.kernels, self.scales))
        digest = hashlib.sha256(kernels.tobytes() + scales.tobytes())
        return digest.hexdigest()[:8]


def inverse_filter(sigma: float, *, noise: float, size: int) -> np.ndarray:
    """Returns the linear filter of a given size that best inverts a Gaussian blur.

    Among all filters with sum 1 it minimises the mean squared error over photos whose
    power falls with the square of the frequency.

    Args:
        sigma: standard deviation of the blur in pixels. As in the degradation, the blur
            is cut off after ceil(2 sigma).
        noise: variance of white noise, relative to a photo's power at one cycle a pixel.
        size: side of the filter, odd.

    Returns:
        float64 [size, size].
    """
    frequencies = np.fft.fftfreq(_PLANE)
    taps = np.arange(-math.ceil(2 * sigma), math.ceil(2 * sigma) + 1)
    # For sigma 0 only the middle tap is left; the maximum avoids 0 / 0 there.
    weights = np.exp(-0.5 * (taps / max(sigma, 1e-6)) ** 2)
    response = np.cos(2 * np.pi * frequencies[:, None] * taps) @ weights / weights.sum()
    blur = response[:, None] * response
    # Power would be infinite at frequency 0; the plane's lowest frequency bounds it.
    power = 1 / (frequencies[:, None] ** 2 + frequencies**2 + 1 / _PLANE**2)
    # Covariances of blurred pixels with each other and with the sharp pixel.
    blurred = np.fft.ifft2(power * blur**2).real
    crossed = np.fft.ifft2(power * blur).real

    offsets = np.arange(size) - size // 2
    rows, columns = (x.ravel() for x in np.meshgrid(offsets, offsets, indexing="ij"))
    covariance = blurred[rows[:, None] - rows, columns[:, None] - columns]
    covariance += noise * np.eye(size**2)
    right_sides = np.stack([crossed[rows, columns], np.ones(size**2)], axis=1)
    best, ones = np.linalg.solve(covariance, right_sides).T
    # A Lagrange multiplier makes the sum 1.
    kernel = best + ones * (1 - best.sum()) / ones.sum()
    return kernel.reshape(size, size)


# A bank never changes once networks are trained with it; a new bank gets a new name.
_GAUSSIAN_1 = Bank(
    filters=tuple((sigma, 2e-3) for sigma in (1.0, 1.25, 1.5, 1.75, 2.0)),
    size=13,
    scales=(6.0, 10.0, 20.0, 32.0, 50.0),
)
# For blurs of 0 to 3 pixels, with or without noise. The first six filters are for clean
# photos.
_PHOTO_1 = Bank(
    filters=(
        *((sigma, 2e-3) for sigma in (0.6, 1.0, 1.5, 2.0, 2.5, 3.0)),
        *((sigma, 0.1) for sigma in (1.0, 2.0, 3.0)),
        (0.0, 1.0),
    ),
    size=13,
    scales=(4.0, 20.0, 32.0, 50.0, 64.0, 64.0, 6.0, 16.0, 32.0, 0.5),
)
# A name ends with the bank's checksum, so that a config or a weights file states exactly
# which filters its network has.
BANKS: Mapping[str, Bank] = {
    "gaussian-1-084c6179": _GAUSSIAN_1,
    "photo-1-3a2e862a": _PHOTO_1,
}


def find_bank(name: str) -> Bank:
    """Returns the bank of that name; raises InputError if there is none."""
    if name not in BANKS:
        raise InputError(f"no front end {name!r}, only {', '.join(BANKS)}")
    return BANKS[name]


class FrontEnd(nn.Module):
    """A filter bank as a module without parameters.

    Attributes:
        bank: name of the bank, see BANKS.
    """

    bank: str

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Applies every filter to every channel, with replicated edges, in float32.

        Args:
            images: float32 [N, h, w, C] in [0, 1].

        Returns:
            Change that each filter makes to the images, float32 [N, h, w, filters, C].
        """
        bank = find_bank(self.bank)
        n, h, w, c = images.shape
        half = bank.size // 2
        around = ((0, 0), (half, half), (half, half), (0, 0))
        planes = jnp.pad(images, around, mode="edge").transpose(0, 3, 1, 2)
        filtered = lax.conv_general_dilated(
            planes.reshape(n * c, h + 2 * half, w + 2 * half, 1),
            jnp.asarray(bank.kernels)[:, :, None],
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=PRECISION,
        )
        filtered = filtered.reshape(n, c, h, w, -1).transpose(0, 2, 3, 4, 1)
        return filtered - images[:, :, :, None]


def front_end_channels(
    images: jax.Array, changes: jax.Array, *, bank: str, dtype: DTypeLike
) -> jax.Array:
    """Scales images and a front end's changes to network input of about unit variance.

    Args:
        images: float32 [N, h, w, C] in [0, 1].
        changes: [N, h, w, filters, C], see FrontEnd.
        bank: name of the bank.
        dtype: type of the result; values are scaled before they are cast.

    Returns:
        [N, h, w, C + filters * C]: the images' channels, then each filter's channels.
    """
    # 8-bit images give whole numbers over a power of two, which bfloat16 holds exactly.
    levels = (255.0 * images - 128.0) / PHOTO_SCALE
    scales = np.array(find_bank(bank).scales, np.float32).reshape(1, 1, 1, -1, 1)
    scaled = 255.0 / scales * changes
    # At a sharp edge, a filter for strong blurs makes up to twenty times its usual
    # change. An invertible function compresses the values to (-4, 4).
    bounded = (scaled / (1 + jnp.abs(scaled) / 4)).reshape(*images.shape[:3], -1)
    return jnp.concatenate([x.astype(dtype) for x in (levels, bounded)], axis=-1)


def network_input(images: jax.Array, front_end: str, dtype: DTypeLike) -> jax.Array:
    """Returns the input of a network's first layer: images, or a front end's channels.

    Call this within a module's `__call__`.

    Args:
        images: float32 [N, h, w, C] in [0, 1].
        front_end: name of a bank; empty for unchanged images.
        dtype: type of a front end's channels.
    """
    if not front_end:
        return images
    changes = FrontEnd(front_end, name="bank")(images)
    return front_end_channels(images, changes, bank=front_end, dtype=dtype)


def front_end_radius(front_end: str) -> int:
    """Returns the receptive-field radius of a front end; 0 if there is none."""
    return find_bank(front_end).size // 2 if front_end else 0
