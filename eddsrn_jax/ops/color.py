"""Luminance of RGB images, and colour for networks that restore luminance only.

Luminance is that of BT.601, whose range 16..235 is divided by 255 here.
"""

import jax
import jax.numpy as jnp
import numpy as np

from eddsrn_jax.ops.resize import bicubic_upscale

# Weights of red, green and blue. For values in 0..255, luminance is 16 plus the
# weighted sum.
LUMINANCE = np.array([65.481, 128.553, 24.966]) / 255.0


def luminance(rgb: jax.Array) -> jax.Array:
    """Returns the luminance of float RGB [N, H, W, 3] in [0, 1] as [N, H, W, 1]."""
    # A matrix product rounds the image: by default to bfloat16 on TPUs, to TF32 on GPUs.
    weighted = rgb * jnp.asarray(LUMINANCE[None, None, None], rgb.dtype)
    return 16 / 255 + weighted.sum(axis=-1, keepdims=True)


def with_chroma(lr: jax.Array, y: jax.Array, *, scale: int) -> jax.Array:
    """Combines a super-resolved luminance with the input's bicubically enlarged chroma.

    Args:
        lr: input, float RGB [N, h, w, 3] in [0, 1].
        y: super-resolved luminance, float [N, scale h, scale w, 1].
        scale: integer factor.

    Returns:
        float32 RGB [N, scale h, scale w, 3].
    """
    enlarged = bicubic_upscale(lr, scale)
    # With constant chroma, a change of luminance adds the same to red, green and blue.
    return enlarged + (y - luminance(enlarged)) / LUMINANCE.sum()
