"""Colour for networks of luminance alone: BT.601 in 16..235, here of [0, 1]."""

import jax
import jax.numpy as jnp
import numpy as np

from eddsrn_jax.resize import bicubic_upscale

# Of red, green and blue in 0..255, above 16.
LUMINANCE = np.array([65.481, 128.553, 24.966]) / 255.0


def luminance(rgb: jax.Array) -> jax.Array:
    """Of float [N, H, W, 3], as [N, H, W, 1]."""
    return 16 / 255 + rgb @ jnp.asarray(LUMINANCE[:, None], rgb.dtype)


def with_chroma(lr: jax.Array, y: jax.Array, *, scale: int) -> jax.Array:
    """A super-resolved luminance with the bicubically enlarged chroma of its input.

    Args:
        lr: float RGB [N, h, w, 3] in [0, 1].
        y: float [N, scale h, scale w, 1].
        scale: whole factor.

    Returns:
        float32 RGB [N, scale h, scale w, 3].
    """
    enlarged = bicubic_upscale(lr, scale)
    # With its chroma kept, a colour gains as much in each of red, green and blue.
    return enlarged + (y - luminance(enlarged)) / LUMINANCE.sum()
