"""Bicubic resizing by integer factors that equals MATLAB's `imresize`.

Shrinking multiplies by matrices; enlarging is a filter bank.
Arrays are float [..., H, W, C] of any range; nothing is clipped or rounded.

Source: the kernel of Keys 1981 (a = -0.5), stretched by the factor when shrinking
(antialiasing). As in MATLAB's imresize, sample centres are at half-integers, and edges
are mirrored with the edge sample repeated.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

# Products with resampling matrices use full float32. By default, TPUs and recent GPUs
# keep 8 to 10 bits of the inputs, no more than the images themselves have.
PRECISION = jax.lax.Precision.HIGHEST
_Array = TypeVar("_Array", jax.Array, np.ndarray)


def cubic_kernel(x: np.ndarray) -> np.ndarray:
    """Evaluates Keys' cubic convolution kernel (a = -0.5), zero outside [-2, 2]."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def mirrored(indices: _Array, size: _Array | int) -> _Array:
    """Maps indices of any sign and size into [0, size) by reflection at both ends.

    The edge sample is repeated (`1 0 | 0 1 2 | 2 1`), as in MATLAB's imresize. NumPy
    arrays work too.
    """
    indices = indices % (2 * size)
    # For type checkers the absolute value of a NumPy array may be any array.
    return abs(indices - (2 * size - 1) * (indices >= size))  # pyright: ignore[reportReturnType]


def band_matrix(indices: jax.Array, weights: jax.Array, columns: int) -> jax.Array:
    """Makes the [rows, columns] matrix that has `weights` at `indices` in each row.

    Args:
        indices: int [rows, taps]. Weights at equal indices of a row are added; indices
            outside [0, columns) are dropped.
        weights: float [rows, taps], or [taps] for equal weights in every row.
        columns: number of columns of the result.
    """
    weights = jnp.broadcast_to(weights, indices.shape)
    hits = indices[:, :, None] == jnp.arange(columns)[None, None, :]
    return jnp.sum(jnp.where(hits, weights[:, :, None], 0.0), axis=1)


def downscale_matrix(size: jax.Array | int, padded_size: int, scale: int) -> jax.Array:
    """Makes the matrix that shrinks the first `size` samples of a vector by `scale`.

    Args:
        size: number of valid samples, a multiple of `scale`; may be traced, so that one
            compiled program serves all sizes.
        padded_size: number of samples in the vector, a multiple of `scale` and at least
            `size`; those from `size` on are ignored.
        scale: integer factor.

    Returns:
        float32 [padded_size / scale, padded_size]; rows from `size / scale` on are
        meaningless.
    """
    taps = np.arange(4 * scale) - (3 * scale) // 2
    weights = cubic_kernel((taps - (scale - 1) / 2) / scale)
    first = scale * jnp.arange(padded_size // scale)
    indices = mirrored(first[:, None] + taps[None, :], size)
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)
    return band_matrix(indices, weights, padded_size)


def resample_rows(matrix: jax.Array, image: jax.Array) -> jax.Array:
    """Multiplies a matrix with each channel's columns: [H, W, C] -> [H', W, C]."""
    return jnp.einsum("ij,jkc->ikc", matrix, image, precision=PRECISION)


def resample_columns(matrix: jax.Array, image: jax.Array) -> jax.Array:
    """Multiplies a matrix with each channel's rows: [H, W, C] -> [H, W', C]."""
    return jnp.einsum("lk,ikc->ilc", matrix, image, precision=PRECISION)


def bicubic_downscale(x: jax.Array, scale: int) -> jax.Array:
    """Shrinks images [N, scale * h, scale * w, C] to [N, h, w, C]."""
    rows, columns = (downscale_matrix(size, size, scale) for size in x.shape[1:3])
    shrink = lambda image: resample_columns(columns, resample_rows(rows, image))  # noqa: E731
    return jax.vmap(shrink)(x)


def bicubic_upscale(x: _Array, scale: int) -> _Array:
    """Enlarges images [N, h, w, C], JAX or NumPy, to [N, scale * h, scale * w, C].

    This is a filter bank of `scale` phases with at most five taps each. Its cost, unlike
    that of a matrix, is proportional to the image's area.
    """
    # The width is enlarged first, while there are few rows. Enlarging the height then
    # works on whole rows, which is fast.
    return _upscale_axis(_upscale_axis(x, scale, axis=2), scale, axis=1)


def _upscale_axis(x: _Array, scale: int, *, axis: int) -> _Array:
    xp = x.__array_namespace__()
    size = x.shape[axis]
    around = [(0, 0)] * x.ndim
    around[axis] = (2, 2)
    padded = xp.pad(x, around, mode="symmetric")
    before = (slice(None),) * axis
    shifted = [padded[(*before, slice(k, k + size))] for k in range(5)]
    # Output sample `scale * i + phase` lies at position i + offset of the input.
    offsets = (np.arange(scale) + 0.5) / scale - 0.5
    phases = []
    for offset in offsets:
        weights = cubic_kernel(np.arange(-2, 3) - offset).tolist()
        phases.append(sum(w * part for w, part in zip(weights, shifted, strict=True)))
    enlarged = [*x.shape[:axis], scale * size, *x.shape[axis + 1 :]]
    return xp.stack(phases, axis=axis + 1).reshape(enlarged)
