"""DeblurCNN, a plain deep network that deblurs and keeps the size of its input.

Images are float RGB in [0, 1], [N, h, w, 3]; outputs are not clipped.

Source: Hradis, Kotera, Zemcik, Sroubek, "Convolutional Neural Networks for Direct Text
Deblurring", BMVC 2015, network L15 of its Table 1.
"""

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from eddsrn_jax.models.front_end import front_end_radius, network_input
from eddsrn_jax.models.layers import Conv

# Kernel size and number of filters of each layer. Without padding these kernels shrink an
# image by 50 pixels, as the authors' deployed network does (200 to 150).
L15 = (
    *((19, 128), (1, 320), (1, 320), (1, 320), (1, 128)),
    *((3, 128), (1, 512), (5, 128), (5, 128), (3, 128)),
    *((5, 128), (5, 128), (1, 256), (7, 64), (7, 3)),
)


class DeblurCNN(nn.Module):
    """Fifteen convolutions with ReLU between them.

    Differs: zero padding, so that the output keeps the size of the input.

    Attributes:
        layers: kernel size and number of filters of each layer.
        front_end: name of a filter bank, see models/front_end.py; empty for none.
        dtype: computation dtype; parameters and outputs are float32.
    """

    stride = 1

    layers: tuple[tuple[int, int], ...] = L15
    front_end: str = ""
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, blurred: jax.Array) -> dict[str, jax.Array]:
        """Deblurs a batch.

        Args:
            blurred: float [N, h, w, 3] in [0, 1].

        Returns:
            "deblurred": float32 of the same shape.
        """
        x = network_input(blurred, self.front_end, self.dtype)
        for i, (size, features) in enumerate(self.layers):
            x = nn.relu(x) if i else x
            conv = Conv(features, kernel_size=size, dtype=self.dtype, name=f"conv{i}")
            x = conv(x)
        return {"deblurred": x.astype("float32")}

    @property
    def receptive_radius(self) -> int:
        """Receptive-field radius in pixels."""
        radius = sum(size // 2 for size, _ in self.layers)
        return radius + front_end_radius(self.front_end)
