"""SRResNet, the network whose times the paper compares with its own.

Images are float RGB in [0, 1], [N, h, w, 3]; outputs are not clipped.

Source: Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative
Adversarial Network", CVPR 2017, Figure 4.
"""

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from eddsrn_jax.models.front_end import front_end_radius, network_input
from eddsrn_jax.models.layers import RESIDUAL_NORMAL, Conv, UpConv, batch_norm


class SRResNet(nn.Module):
    """Residual blocks with batch norm and PReLU, then two sub-pixel convolutions of x2.

    Attributes:
        features: width of the hidden layers.
        num_blocks: number of residual blocks.
        front_end: name of a filter bank, see models/front_end.py; empty for none.
        dtype: computation dtype; parameters and outputs are float32.
    """

    stride = 1

    features: int = 64
    num_blocks: int = 16
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

        def norm(name: str) -> nn.BatchNorm:
            return batch_norm(train, dtype=self.dtype, name=name)

        def block(x: jax.Array, i: int) -> jax.Array:
            y = Conv(self.features, dtype=self.dtype, name=f"block{i}_conv0")(x)
            y = nn.PReLU(name=f"block{i}_prelu")(norm(f"block{i}_norm0")(y))
            y = Conv(self.features, dtype=self.dtype, name=f"block{i}_conv1")(y)
            return x + norm(f"block{i}_norm1")(y)

        x = network_input(lr, self.front_end, self.dtype)
        x = Conv(self.features, kernel_size=9, dtype=self.dtype, name="stem")(x)
        x = shortcut = nn.PReLU(name="stem_prelu")(x)
        for i in range(self.num_blocks):
            x = block(x, i)
        x = Conv(self.features, dtype=self.dtype, name="body")(x)
        x = shortcut + norm("body_norm")(x)
        for i in range(2):
            x = UpConv(self.features, self.dtype, name=f"up{i}")(x)
            x = nn.PReLU(name=f"up{i}_prelu")(x)
        x = Conv(
            3, kernel_size=9, kernel_init=RESIDUAL_NORMAL, dtype=self.dtype, name="rgb"
        )(x)
        return {"sr": x.astype("float32")}

    @property
    def receptive_radius(self) -> int:
        """Receptive-field radius in pixels of the small image."""
        # The 9x9 convolution to RGB and the up-convolutions add up to 3 pixels.
        return 3 + 1 + 2 * self.num_blocks + 4 + front_end_radius(self.front_end)
