"""SCGAN, a generator that enlarges first and restores at full size; its discriminator.

Images are float RGB in [0, 1]; the generator's output is not clipped.

Source: Xu, Sun, Pan, Zhang, Pfister, Yang, "Learning to Super-Resolve Blurry Face and
Text Images", ICCV 2017.

Differs: written without the paper's table of layers. Four choices follow the paper as it
is remembered: enlarging first, batch norm, ReLU, and strided convolutions in the
discriminator. Kernels, widths and depths are our choice.
"""

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from eddsrn_jax.models.front_end import front_end_radius, network_input
from eddsrn_jax.models.layers import (
    HE_NORMAL,
    RESIDUAL_NORMAL,
    Conv,
    TransposedConv,
    batch_norm,
)


class SCGAN(nn.Module):
    """Generator: two transposed convolutions, then 5x5 convolutions with batch norm.

    Differs: the output is linear in [0, 1], as for the other networks.

    Attributes:
        features: width of the hidden layers.
        num_layers: number of convolutions at full size before the one to RGB.
        front_end: name of a filter bank, see models/front_end.py; empty for none.
        dtype: computation dtype; parameters and outputs are float32.
    """

    stride = 1

    features: int = 64
    num_layers: int = 10
    front_end: str = ""
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, lr: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Super-resolves a batch.

        Args:
            lr: float [N, h, w, 3] in [0, 1].
            train: whether batch norm uses the batch's statistics, see `batch_norm`.

        Returns:
            "sr": float32 [N, 4h, 4w, 3].
        """

        def activate(x: jax.Array, name: str) -> jax.Array:
            norm = batch_norm(train, dtype=self.dtype, name=f"{name}_norm")
            return nn.relu(norm(x))

        x = network_input(lr, self.front_end, self.dtype)
        for i in range(2):
            x = TransposedConv(self.features, dtype=self.dtype, name=f"up{i}")(x)
            x = activate(x, f"up{i}")
        settings = {"kernel_size": 5, "dtype": self.dtype}
        for i in range(self.num_layers):
            # Batch norm already has a bias.
            x = Conv(self.features, use_bias=False, **settings, name=f"conv{i}")(x)
            x = activate(x, f"conv{i}")
        x = Conv(3, kernel_init=RESIDUAL_NORMAL, **settings, name="rgb")(x)
        return {"sr": x.astype("float32")}

    @property
    def receptive_radius(self) -> int:
        """Receptive-field radius in pixels of the small image."""
        # In pixels of the large image: two a convolution, six for both enlargements.
        radius = (2 * (self.num_layers + 1) + 6) // 4
        return radius + front_end_radius(self.front_end)


class Discriminator(nn.Module):
    """Strided 4x4 convolutions, each twice as wide as the last, and a mean.

    The mean over all positions allows images of any size and judges them by their parts.

    Differs: there is no batch norm, so an image's logit does not depend on the rest of
    the batch. The mean replaces a fully connected layer, which would need images of one
    size.

    Attributes:
        features: width of the first convolution.
        num_layers: number of convolutions; each halves the image.
        dtype: computation dtype; parameters and outputs are float32.
    """

    features: int = 64
    num_layers: int = 4
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Judges a batch.

        Args:
            images: float [N, H, W, 3] in [0, 1], of any size.

        Returns:
            A logit for each image, float32 [N], positive for real photos; and each
            layer's activations, for feature matching. Layer i (from 0) has float32
            [N, ceil(H / 2 ** (i + 1)), ceil(W / 2 ** (i + 1)), features * 2 ** i].
        """
        x = 2 * images - 1
        activations = []
        for i in range(self.num_layers):
            settings = {"strides": 2, "kernel_init": HE_NORMAL, "dtype": self.dtype}
            x = nn.Conv(self.features * 2**i, (4, 4), **settings, name=f"conv{i}")(x)
            x = nn.leaky_relu(x, 0.2)
            activations.append(x.astype("float32"))
        logits = nn.Dense(1, name="logit")(activations[-1].mean((1, 2)))
        return logits[:, 0], activations
