"""Two networks one after the other: deblurring, then super-resolution.

Images are float RGB in [0, 1], [N, h, w, 3]; outputs are not clipped.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Cascade(nn.Module):
    """Any network with "deblurred", and on that, clipped, any with "sr".

    Attributes:
        deblur: maps a batch to "deblurred", of its size.
        super_resolve: maps a batch to "sr".
    """

    deblur: nn.Module
    super_resolve: nn.Module

    def __call__(self, lr_blur: jax.Array) -> dict[str, jax.Array]:
        """Restores a batch, float [N, h, w, 3] in [0, 1], to "sr" and "deblurred"."""
        deblurred = self.deblur(lr_blur)["deblurred"]
        # As an image file between the two would do.
        sr = self.super_resolve(jnp.clip(deblurred, 0, 1))["sr"]
        return {"sr": sr, "deblurred": deblurred}
