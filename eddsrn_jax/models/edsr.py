"""EDSR, a network of wide residual blocks without batch norm.

Images are float RGB in [0, 1], [N, h, w, 3]; outputs are not clipped.

Source: Lim, Son, Kim, Nah, Lee, "Enhanced Deep Residual Networks for Single Image
Super-Resolution", CVPR Workshops 2017.
"""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.typing import DTypeLike

from eddsrn_jax.models.front_end import front_end_radius, network_input
from eddsrn_jax.models.layers import RESIDUAL_NORMAL, Conv, UpConv, scaled_normal

# Mean colour of DIV2K's training photos.
_MEAN = np.array([[[[0.4488, 0.4371, 0.4040]]]], np.float32)


class EDSR(nn.Module):
    """Residual blocks at full size, two sub-pixel convolutions of x2, one to RGB.

    The defaults are the paper's. The paper's baseline has 16 blocks of width 64 and a
    residual scale of 1.

    Attributes:
        features: width of the hidden layers.
        num_blocks: number of residual blocks.
        residual_scale: factor of each block's result before it is added.
        front_end: name of a filter bank, see models/front_end.py; empty for none.
        dtype: computation dtype; parameters and outputs are float32.
    """

    stride = 1

    features: int = 256
    num_blocks: int = 32
    residual_scale: float = 0.1
    front_end: str = ""
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, lr: jax.Array) -> dict[str, jax.Array]:
        """Super-resolves a batch.

        Args:
            lr: float [N, h, w, 3] in [0, 1].

        Returns:
            "sr": float32 [N, 4h, 4w, 3].
        """

        def conv(features: int, name: str, **settings: Any) -> Conv:
            return Conv(features, dtype=self.dtype, name=name, **settings)

        # A block's output starts at a tenth of He's scale for every residual scale.
        small = scaled_normal(0.02 / self.residual_scale**2)
        x = lr - _MEAN
        if self.front_end:
            x = network_input(lr, self.front_end, self.dtype)
        x = shortcut = conv(self.features, "stem")(x)
        for i in range(self.num_blocks):
            y = nn.relu(conv(self.features, f"block{i}_conv0")(x))
            y = conv(self.features, f"block{i}_conv1", kernel_init=small)(y)
            x = x + self.residual_scale * y
        x = shortcut + conv(self.features, "body")(x)
        for i in range(2):
            x = UpConv(self.features, self.dtype, name=f"up{i}")(x)
        x = conv(3, "rgb", kernel_init=RESIDUAL_NORMAL)(x)
        return {"sr": x.astype("float32") + _MEAN}

    @property
    def receptive_radius(self) -> int:
        """Receptive-field radius in pixels of the small image."""
        # The convolution to RGB and the up-convolutions add up to 2 pixels.
        return 2 + 1 + 2 * self.num_blocks + 1 + front_end_radius(self.front_end)
