"""LapSRN, which enlarges luminance by two in every level of a pyramid.

Source: Lai, Huang, Ahuja, Yang, "Deep Laplacian Pyramid Networks for Fast and Accurate
Super-Resolution", CVPR 2017.
"""

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from eddsrn_jax.models.layers import RESIDUAL_NORMAL, Conv, TransposedConv


def bilinear(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = "float32"):
    """What a learned enlargement of one channel begins as."""
    del key
    weights = jax.numpy.array([0.25, 0.75, 0.75, 0.25], dtype)
    return (weights[:, None] * weights[None, :]).reshape(shape)


class LapSRN(nn.Module):
    """In each level ten convolutions and a learned enlargement of features and image.

    Differs: without biases, as the published weights are.

    Attributes:
        features: width throughout.
        num_layers: convolutions of a level.
        num_levels: each is a factor of two.
        dtype: of the computation; parameters and outputs are float32.
    """

    features: int = 64
    num_layers: int = 10
    num_levels: int = 2
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, y: jax.Array) -> dict[str, jax.Array]:
        """Super-resolves luminance.

        Args:
            y: float [N, h, w, 1] in [0, 1].

        Returns:
            "sr": float32 [N, 4h, 4w, 1]; and of the levels before, "sr_x2": float32
            [N, 2h, 2w, 1].
        """

        def activate(x: jax.Array) -> jax.Array:
            return nn.leaky_relu(x, 0.2)

        settings = {"use_bias": False, "dtype": self.dtype}
        x = activate(Conv(self.features, **settings, name="stem")(y))
        outputs, image = {}, y
        # Names count layers as the published weights do: activations too, from level 1.
        for level in range(1, self.num_levels + 1):
            for i in range(self.num_layers):
                name = f"level{level}_layer{2 * i}"
                x = activate(Conv(self.features, **settings, name=name)(x))
            name = f"level{level}_layer{2 * self.num_layers}"
            x = activate(TransposedConv(self.features, dtype=self.dtype, name=name)(x))
            name = f"level{level}_residual"
            residual = Conv(1, **settings, kernel_init=RESIDUAL_NORMAL, name=name)(x)
            image = TransposedConv(1, bilinear, name=f"level{level}_image")(image)
            image = image + residual.astype("float32")
            last = level == self.num_levels
            outputs["sr" if last else f"sr_x{2**level}"] = image
        return outputs
