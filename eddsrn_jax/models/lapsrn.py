"""LapSRN, a pyramid network that doubles the size of luminance at every level.

Source: Lai, Huang, Ahuja, Yang, "Deep Laplacian Pyramid Networks for Fast and Accurate
Super-Resolution", CVPR 2017.
"""

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from eddsrn_jax.models.front_end import front_end_radius, network_input
from eddsrn_jax.models.layers import RESIDUAL_NORMAL, Conv, TransposedConv
from eddsrn_jax.ops.color import luminance, with_chroma


def bilinear(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = "float32"):
    """Returns bilinear weights to initialise a learned enlargement of one channel."""
    del key
    weights = jax.numpy.array([0.25, 0.75, 0.75, 0.25], dtype)
    return (weights[:, None] * weights[None, :]).reshape(shape)


class LapSRN(nn.Module):
    """Levels of ten convolutions and learned enlargements of features and image.

    Differs: it has no biases, like the published weights.

    Attributes:
        features: width of the hidden layers.
        num_layers: number of convolutions in each level.
        num_levels: number of levels, 2; each doubles the size.
        front_end: name of a filter bank, see models/front_end.py; empty for none.
        dtype: computation dtype; parameters and outputs are float32.
    """

    stride = 1

    features: int = 64
    num_layers: int = 10
    num_levels: int = 2
    front_end: str = ""
    dtype: DTypeLike = "float32"

    def __post_init__(self) -> None:
        # The rest of the project enlarges by 4 alone.
        if self.num_levels != 2:
            raise TypeError(f"num_levels={self.num_levels}: expected 2")
        super().__post_init__()

    @nn.compact
    def __call__(self, lr: jax.Array) -> dict[str, jax.Array]:
        """Super-resolves the luminance of a batch; chroma is enlarged bicubically.

        Args:
            lr: float [N, h, w, 3] in [0, 1].

        Returns:
            "sr_x2_y" and "sr_y": luminance after each level, float32 [N, 2h, 2w, 1] and
            [N, 4h, 4w, 1]. "sr": the last with chroma, float32 RGB [N, 4h, 4w, 3].
        """

        def activate(x: jax.Array) -> jax.Array:
            return nn.leaky_relu(x, 0.2)

        settings = {"use_bias": False, "dtype": self.dtype}
        image = luminance(lr)
        x = network_input(image, self.front_end, self.dtype)
        x = activate(Conv(self.features, **settings, name="stem")(x))
        outputs = {}
        # Names count layers as the published weights do: levels from 1, and activations
        # count too.
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
            outputs["sr_y" if last else f"sr_x{2**level}_y"] = image
        sr = with_chroma(lr, image, scale=2**self.num_levels)
        return {"sr": sr, **outputs}

    @property
    def receptive_radius(self) -> int:
        """Receptive-field radius in pixels of the small image."""
        # From the output back: the residual's convolution, each level, the stem.
        pixels = 1
        for _ in range(self.num_levels):
            pixels = pixels // 2 + 1 + self.num_layers
        return pixels + 1 + front_end_radius(self.front_end)
