"""From sharp photographs to the network's input and targets, on the device.

Photographs come in as uint8 RGB [H, W, 3]; images leave as float32 RGB in [0, 1].
Everything is a pure function of (image, key) or (image, sigma), written for one image
and vmapped over a batch, and serves training, validation and evaluation alike.

Source: paper, section 3.1: bicubic / 4, then a Gaussian of sigma ~ U[1, 2] on the
small image. Differs: the paper says no more; the blur's radius (ceil(2 sigma)), its
replicated edges and its 8-bit rounding are those of MATLAB's imgaussfilt, with which
published networks reproduce the rows of the paper's Table 1.
"""

import math

import jax
import jax.numpy as jnp

from eddsrn_jax.resize import (
    band_matrix,
    downscale_matrix,
    resample_columns,
    resample_rows,
)


def augment(key: jax.Array, image: jax.Array) -> jax.Array:
    """One of the eight rotations and reflections of a square image, each as likely."""
    transpose, flip_rows, flip_columns = jax.random.bernoulli(key, shape=(3,))
    image = jnp.where(transpose, image.swapaxes(0, 1), image)
    image = jnp.where(flip_rows, image[::-1], image)
    return jnp.where(flip_columns, image[:, ::-1], image)


def round_to_8_bits(image: jax.Array) -> jax.Array:
    """Clips to [0, 1] and rounds to multiples of 1 / 255, halves up."""
    return jnp.floor(jnp.clip(image, 0.0, 1.0) * 255.0 + 0.5) / 255.0


def blur_matrix(
    sigma: jax.Array, size: jax.Array | int, padded_size: int, *, max_sigma: float
) -> jax.Array:
    """The matrix that blurs `size` samples with a Gaussian, edges replicated.

    Args:
        sigma: standard deviation in samples, in [0, max_sigma]; may be traced.
        size: samples that count; may be traced.
        padded_size: samples in the vector; those from `size` on are ignored.
        max_sigma: bounds the number of taps, which must be known when compiling.

    Returns:
        float32 [padded_size, padded_size]; rows from `size` on are without meaning.
    """
    max_radius = math.ceil(2 * max_sigma)
    taps = jnp.arange(-max_radius, max_radius + 1)
    # Without blur only the middle tap is left, 0 / 0.
    weights = jnp.exp(-0.5 * jnp.square(taps / jnp.maximum(sigma, 1e-6)))
    weights = jnp.where(jnp.abs(taps) <= jnp.ceil(2 * sigma), weights, 0.0)
    indices = jnp.clip(jnp.arange(padded_size)[:, None] + taps[None, :], 0, size - 1)
    return band_matrix(indices, weights / weights.sum(), padded_size)


def degrade(
    hr: jax.Array,
    sigma: jax.Array,
    *,
    scale: int,
    max_sigma: float,
    size: tuple[jax.Array | int, jax.Array | int] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """A photograph's small sharp image and its small blurry one.

    Args:
        hr: uint8 [H, W, 3], H and W multiples of `scale`.
        sigma: standard deviation of the blur in pixels of the small image.
        scale: whole factor.
        max_sigma: upper bound of `sigma`.
        size: (height, width) of the part of `hr` that counts, multiples of `scale`;
            may be traced. Outputs beyond `size / scale` are without meaning.

    Returns:
        lr_sharp: float32 [H / scale, W / scale, 3], clipped to [0, 1], unrounded.
        lr_blur: the same shape, rounded to 8 bits.
    """
    height, width, _ = hr.shape
    rows, columns = size or (height, width)
    # MATLAB's imresize of an 8-bit image cannot overshoot between its two passes.
    tall = resample_rows(
        downscale_matrix(rows, height, scale), hr.astype(jnp.float32) / 255.0
    )
    lr_sharp = resample_columns(
        downscale_matrix(columns, width, scale), jnp.clip(tall, 0.0, 1.0)
    )
    lr_sharp = jnp.clip(lr_sharp, 0.0, 1.0)

    def blur(size: jax.Array | int, padded_size: int) -> jax.Array:
        return blur_matrix(
            sigma, size // scale, padded_size // scale, max_sigma=max_sigma
        )

    lr_blur = resample_columns(
        blur(columns, width), resample_rows(blur(rows, height), lr_sharp)
    )
    return lr_sharp, round_to_8_bits(lr_blur)


def training_triple(
    key: jax.Array, hr: jax.Array, *, scale: int, sigma_range: tuple[float, float]
) -> dict[str, jax.Array]:
    """A training example from a crop: augmented, shrunk, blurred at random.

    Args:
        key: PRNG key; decides augmentation and sigma.
        hr: uint8 [H, H, 3], H a multiple of `scale`.
        scale: whole factor.
        sigma_range: bounds of the uniform distribution of sigma.

    Returns:
        "hr" [H, H, 3]; "lr_sharp" and "lr_blur" [H / scale, H / scale, 3], float32.
    """
    augment_key, sigma_key = jax.random.split(key)
    low, high = sigma_range
    sigma = jax.random.uniform(sigma_key, minval=low, maxval=high)
    hr = augment(augment_key, hr)
    lr_sharp, lr_blur = degrade(hr, sigma, scale=scale, max_sigma=high)
    hr = hr.astype(jnp.float32) / 255.0
    return {"hr": hr, "lr_sharp": lr_sharp, "lr_blur": lr_blur}
