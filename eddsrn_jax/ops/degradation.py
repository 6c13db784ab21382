"""Makes the network's inputs and targets from sharp photos, on the device.

Photos are uint8 RGB [H, W, 3]; the resulting images are float32 RGB in [0, 1]. The
functions are pure, of (image, key) or (image, sigma). Each handles one image and is
vmapped over batches. Training, validation and evaluation share them.

Source: paper, section 3.1: bicubic / 4, then a Gaussian of sigma ~ U[1, 2] on the
small image. Differs: the paper gives no more details. The blur's radius (ceil(2 sigma)),
its replicated edges and its 8-bit rounding are those of MATLAB's imgaussfilt; with them,
published networks reproduce the rows of the paper's Table 1.

For realistic photos of cameras and web pages, training can add directional blur, sensor
noise and JPEG compression, which the paper does not have. The order is blur, noise,
rounding, JPEG.
"""

import math
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from eddsrn_jax.errors import InputError
from eddsrn_jax.ops.jpeg import UNIT, jpeg
from eddsrn_jax.ops.resize import (
    PRECISION,
    band_matrix,
    downscale_matrix,
    resample_columns,
    resample_rows,
)
from eddsrn_jax.own_code import explaining, import_function

# Users' own degradations by import path.
OWN_DEGRADATIONS: MutableMapping[str, Callable[..., Any]] = {}


def import_degradation(path: str) -> None:
    """Adds a user's own degradation, a function of (key, image), to OWN_DEGRADATIONS.

    Args:
        path: import path that the user has named, see `import_object`. `degrade_by`
            describes the function.

    Raises:
        InputError: the path cannot be imported, or is not that of a function.
    """
    OWN_DEGRADATIONS[path] = import_function(path, "(key, image)")


def degrade_by(path: str, key: jax.Array, lr_sharp: jax.Array) -> jax.Array:
    """Applies a user's own degradation in place of the Gaussian blur.

    Args:
        path: import path in OWN_DEGRADATIONS. Its function maps a PRNG key and an image,
            float32 [h, w, 3] in [0, 1], to the degraded image of the same shape. JAX
            must be able to trace and vectorise it.
        key: PRNG key, the only source of randomness.
        lr_sharp: small sharp image.

    Returns:
        float32 of the same shape. The caller clips and rounds it.

    Raises:
        InputError: the path is not imported, or the function raises an error or returns
            something else.
    """
    if path not in OWN_DEGRADATIONS:
        raise InputError(f"{path} is not imported; call import_degradation first")
    with explaining(f"{path}: cannot degrade an image"):
        degraded = OWN_DEGRADATIONS[path](key, lr_sharp)
        shape, dtype = jnp.shape(degraded), jnp.result_type(degraded)
    if shape != lr_sharp.shape or not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            f"{path}: returned {dtype} {list(shape)} for an image of"
            f" {list(lr_sharp.shape)}; expected floats of the same shape"
        )
    return degraded.astype(jnp.float32)


def augment(key: jax.Array, image: jax.Array) -> jax.Array:
    """Rotates or reflects a square image at random: eight equally likely ways."""
    transpose, flip_rows, flip_columns = jax.random.bernoulli(key, shape=(3,))
    image = jnp.where(transpose, image.swapaxes(0, 1), image)
    image = jnp.where(flip_rows, image[::-1], image)
    return jnp.where(flip_columns, image[:, ::-1], image)


def round_to_8_bits(image: jax.Array) -> jax.Array:
    """Clips an image to [0, 1] and rounds to multiples of 1 / 255, halves up."""
    return jnp.floor(jnp.clip(image, 0.0, 1.0) * 255.0 + 0.5) / 255.0


def blur_matrix(
    sigma: jax.Array, size: jax.Array | int, padded_size: int, *, max_sigma: float
) -> jax.Array:
    """Makes the matrix that blurs `size` samples with a Gaussian, edges replicated.

    Args:
        sigma: standard deviation in samples, in [0, max_sigma]; may be traced.
        size: number of valid samples; may be traced.
        padded_size: number of samples in the vector; those from `size` on are ignored.
        max_sigma: bound that fixes the number of taps when compiling.

    Returns:
        float32 [padded_size, padded_size]; rows from `size` on are meaningless.
    """
    max_radius = math.ceil(2 * max_sigma)
    taps = jnp.arange(-max_radius, max_radius + 1)
    # The lower bound avoids 0 / 0 in the middle tap, the only one left if sigma is 0.
    weights = jnp.exp(-0.5 * jnp.square(taps / jnp.maximum(sigma, 1e-6)))
    weights = jnp.where(jnp.abs(taps) <= jnp.ceil(2 * sigma), weights, 0.0)
    indices = jnp.clip(jnp.arange(padded_size)[:, None] + taps[None, :], 0, size - 1)
    return band_matrix(indices, weights / weights.sum(), padded_size)


def blur_kernel(
    sigmas: tuple[jax.Array, jax.Array], angle: jax.Array, *, max_sigma: float
) -> jax.Array:
    """Returns a Gaussian kernel whose blur may differ along and across a direction.

    With equal sigmas it equals `blur_matrix` applied to rows and columns.

    Args:
        sigmas: standard deviations along the direction and across it, in pixels, in
            [0, max_sigma]; may be traced.
        angle: direction in radians; 0 is along a row, a quarter turn along a column.
        max_sigma: bound that fixes the kernel's size when compiling.

    Returns:
        float32 [2r + 1, 2r + 1], r = ceil(2 max_sigma), with sum 1.
    """
    max_radius = math.ceil(2 * max_sigma)
    taps = jnp.arange(-max_radius, max_radius + 1)
    rows, columns = jnp.meshgrid(taps, taps, indexing="ij")
    along = columns * jnp.cos(angle) + rows * jnp.sin(angle)
    across = rows * jnp.cos(angle) - columns * jnp.sin(angle)
    # The lower bound avoids 0 / 0 in the middle tap, the only one left if sigma is 0.
    lengths = [jnp.maximum(sigma, 1e-6) for sigma in sigmas]
    squares = jnp.square(along / lengths[0]) + jnp.square(across / lengths[1])
    radius = jnp.ceil(2 * jnp.maximum(*sigmas))
    inside = (jnp.abs(rows) <= radius) & (jnp.abs(columns) <= radius)
    weights = jnp.where(inside, jnp.exp(-0.5 * squares), 0.0)
    return weights / weights.sum()


def blur_by_kernel(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Filters each channel of [H, W, C] with an odd square kernel, edges replicated."""
    radius = len(kernel) // 2
    padded = jnp.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    blurred = jax.lax.conv_general_dilated(
        padded.transpose(2, 0, 1)[:, None],
        kernel[None, None],
        window_strides=(1, 1),
        padding="VALID",
        precision=PRECISION,
    )
    return blurred[:, 0].transpose(1, 2, 0)


def add_noise(
    key: jax.Array, image: jax.Array, level: jax.Array, *, shot: jax.Array
) -> jax.Array:
    """Adds white Gaussian sensor noise, whose variance may grow with brightness.

    Args:
        key: PRNG key.
        image: float32 in [0, 1], of any shape.
        level: standard deviation at white, in the image's units.
        shot: share of the variance that is proportional to the brightness, in [0, 1].

    Returns:
        The noisy image, of the same shape and not clipped.
    """
    variance = level**2 * ((1 - shot) + shot * image)
    return image + jnp.sqrt(variance) * jax.random.normal(key, image.shape)


def degrade(
    hr: jax.Array,
    sigma: jax.Array,
    *,
    scale: int,
    max_sigma: float,
    size: Sequence[jax.Array | int] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Makes a photo's small sharp image and its small blurry one.

    Args:
        hr: photo, uint8 [H, W, 3], H and W multiples of `scale`.
        sigma: standard deviation of the blur in pixels of the small image.
        scale: integer factor.
        max_sigma: upper bound of `sigma`.
        size: (height, width) of the valid part of `hr`, multiples of `scale`; by default
            all of it; may be traced. Outputs beyond `size / scale` are meaningless.

    Returns:
        lr_sharp: float32 [H / scale, W / scale, 3], clipped to [0, 1], unrounded.
        lr_blur: the same shape, rounded to 8 bits.
    """
    size = size or hr.shape[:2]
    lr_sharp = _shrink(hr, scale=scale, size=size)
    small_size = [side // scale for side in size]
    blurred = _blur(lr_sharp, sigma, max_sigma=max_sigma, size=small_size)
    return lr_sharp, round_to_8_bits(blurred)


def _shrink(hr: jax.Array, *, scale: int, size: Sequence[jax.Array | int]) -> jax.Array:
    height, width, _ = hr.shape
    rows, columns = size
    # Clips between the two passes, where MATLAB's imresize of an 8-bit image cannot
    # overshoot.
    tall = resample_rows(
        downscale_matrix(rows, height, scale), hr.astype(jnp.float32) / 255.0
    )
    lr_sharp = resample_columns(
        downscale_matrix(columns, width, scale), jnp.clip(tall, 0.0, 1.0)
    )
    return jnp.clip(lr_sharp, 0.0, 1.0)


def _blur(
    image: jax.Array,
    sigma: jax.Array,
    *,
    max_sigma: float,
    size: Sequence[jax.Array | int],
) -> jax.Array:
    rows, columns = (
        blur_matrix(sigma, count, padded_count, max_sigma=max_sigma)
        for count, padded_count in zip(size, image.shape[:2], strict=True)
    )
    return resample_columns(columns, resample_rows(rows, image))


def training_triple(
    key: jax.Array,
    hr: jax.Array,
    *,
    scale: int,
    sigma_range: tuple[float, float],
    sharp_share: float = 0.0,
    anisotropic_share: float = 0.0,
    noise_share: float = 0.0,
    max_noise: float = 0.0,
    jpeg_share: float = 0.0,
    jpeg_quality: tuple[int, int] = (100, 100),
    own: str = "",
) -> dict[str, jax.Array]:
    """Makes a training example from a crop: augments, shrinks and degrades at random.

    Every share is a probability for one crop. A share of 0 costs no computation. No share
    changes the random numbers of the other degradations.

    Args:
        key: PRNG key, the only source of randomness.
        hr: crop, uint8 [H, H, 3], H a multiple of `scale`.
        scale: integer factor.
        sigma_range: bounds of the blur's uniform sigma, in pixels of the small image.
        sharp_share: share without blur.
        anisotropic_share: share with directional blur. Its direction is random, and its
            sigma across the direction is 0.3 to 1 times that along it.
        noise_share, max_noise: share with noise; largest level in grey levels.
        jpeg_share, jpeg_quality: share with JPEG compression; lowest and highest quality.
            Half of these have 4:2:0 chroma. The grid of blocks has a random position.
        own: import path of a degradation that takes the place of the blur, see
            `degrade_by`. Noise and JPEG compression may follow.

    Returns:
        float32 in [0, 1]: "hr" [H, H, 3], "lr_sharp" and "lr_blur" [H / scale, H / scale,
        3]. "lr_blur" is rounded to 8 bits.
    """
    augment_key, sigma_key = jax.random.split(key)
    keys = [jax.random.fold_in(key, i) for i in range(5)]
    shape_key, noise_key, jpeg_key, sharp_key, own_key = keys
    hr = augment(augment_key, hr)
    lr_sharp = _shrink(hr, scale=scale, size=hr.shape[:2])
    if own:
        # The noise of values below 0 would not be a number.
        blurred = jnp.clip(degrade_by(own, own_key, lr_sharp), 0.0, 1.0)
    else:
        keys = (sigma_key, shape_key)
        blurred = _blur_at_random(keys, lr_sharp, sigma_range, anisotropic_share)
    if sharp_share:
        is_sharp = jax.random.bernoulli(sharp_key, float(sharp_share))
        blurred = jnp.where(is_sharp, lr_sharp, blurred)
    if noise_share:
        blurred = _add_noise_at_random(noise_key, blurred, noise_share, max_noise)
    lr_blur = round_to_8_bits(blurred)
    if jpeg_share:
        lr_blur = _compress_at_random(jpeg_key, lr_blur, jpeg_share, jpeg_quality)
    return {
        "hr": hr.astype(jnp.float32) / 255.0,
        "lr_sharp": lr_sharp,
        "lr_blur": lr_blur,
    }


def paired_triple(
    key: jax.Array, hr: jax.Array, lr: jax.Array, *, scale: int
) -> dict[str, jax.Array]:
    """Makes a training example from the crops of a pair; augments both alike.

    Args:
        key: PRNG key of the augmentation.
        hr: crop of the sharp photo, uint8 [H, H, 3], H a multiple of `scale`.
        lr: the same crop of the small photo, uint8 [H / scale, H / scale, 3].
        scale: integer factor.

    Returns:
        The same names and shapes as `training_triple`; "lr_blur" is the augmented `lr`,
            in [0, 1].
    """
    augment_key, _ = jax.random.split(key)
    hr, lr = augment(augment_key, hr), augment(augment_key, lr)
    return {
        "hr": hr.astype(jnp.float32) / 255.0,
        "lr_sharp": _shrink(hr, scale=scale, size=hr.shape[:2]),
        "lr_blur": lr.astype(jnp.float32) / 255.0,
    }


def _blur_at_random(
    keys: tuple[jax.Array, jax.Array],
    image: jax.Array,
    sigma_range: tuple[float, float],
    anisotropic_share: float,
) -> jax.Array:
    sigma_key, shape_key = keys
    low, high = sigma_range
    sigma = jax.random.uniform(sigma_key, minval=low, maxval=high)
    blurred = _blur(image, sigma, max_sigma=high, size=image.shape[:2])
    if not anisotropic_share:
        return blurred
    chosen, angle, ratio = jax.random.uniform(shape_key, (3,))
    sigmas = (sigma, sigma * (0.3 + 0.7 * ratio))
    kernel = blur_kernel(sigmas, jnp.pi * angle, max_sigma=high)
    directional = blur_by_kernel(image, kernel)
    return jnp.where(chosen < anisotropic_share, directional, blurred)


def _add_noise_at_random(
    key: jax.Array, image: jax.Array, share: float, max_noise: float
) -> jax.Array:
    field_key, draw_key = jax.random.split(key)
    chosen, level, shot = jax.random.uniform(draw_key, (3,))
    noisy = add_noise(field_key, image, max_noise / 255.0 * level, shot=shot)
    return jnp.where(chosen < share, noisy, image)


def _compress_at_random(
    key: jax.Array, image: jax.Array, share: float, quality: tuple[int, int]
) -> jax.Array:
    chosen_key, quality_key, chroma_key, phase_key = jax.random.split(key, 4)
    low, high = quality
    compressed = jpeg(
        image,
        jax.random.randint(quality_key, (), low, high + 1),
        reduce_chroma=jax.random.bernoulli(chroma_key),
        phase=tuple(jax.random.randint(phase_key, (2,), 0, UNIT)),
    )
    return jnp.where(jax.random.bernoulli(chosen_key, float(share)), compressed, image)
