"""VDSR, a deep plain network that works on the enlarged luminance.

Source: Kim, Lee, Lee, "Accurate Image Super-Resolution Using Very Deep Convolutional
Networks", CVPR 2016.
"""

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from eddsrn_jax.models.eddsrn import SCALE
from eddsrn_jax.models.front_end import front_end_radius, network_input
from eddsrn_jax.models.layers import RESIDUAL_NORMAL, Conv
from eddsrn_jax.ops.color import luminance, with_chroma
from eddsrn_jax.ops.resize import bicubic_upscale


class VDSR(nn.Module):
    """Twenty 3x3 convolutions whose result is added to the bicubic enlargement.

    Differs: it has no biases, like the published weights.

    Attributes:
        features: width of the hidden layers.
        num_layers: number of convolutions, including the first and last.
        scale: factor of the enlargement, 4.
        front_end: name of a filter bank, see models/front_end.py; empty for none.
        dtype: computation dtype; parameters and outputs are float32.
    """

    stride = 1

    features: int = 64
    num_layers: int = 20
    scale: int = 4
    front_end: str = ""
    dtype: DTypeLike = "float32"

    def __post_init__(self) -> None:
        # The rest of the project enlarges by 4 alone.
        if self.scale != SCALE:
            raise TypeError(f"scale={self.scale}: expected {SCALE}")
        super().__post_init__()

    @nn.compact
    def __call__(self, lr: jax.Array) -> dict[str, jax.Array]:
        """Super-resolves the luminance of a batch; chroma is enlarged bicubically.

        Args:
            lr: float [N, h, w, 3] in [0, 1].

        Returns:
            "sr_y": luminance, float32 [N, scale h, scale w, 1]. "sr": the same with
            chroma, float32 RGB [N, scale h, scale w, 3].
        """
        settings = {"use_bias": False, "dtype": self.dtype}
        y = luminance(lr)
        x = bicubic_upscale(network_input(y, self.front_end, self.dtype), self.scale)
        x = nn.relu(Conv(self.features, **settings, name="stem")(x))
        for i in range(self.num_layers - 2):
            x = nn.relu(Conv(self.features, **settings, name=f"conv{i}")(x))
        last = Conv(1, **settings, kernel_init=RESIDUAL_NORMAL, name="residual")
        y = bicubic_upscale(y, self.scale) + last(x).astype("float32")
        return {"sr": with_chroma(lr, y, scale=self.scale), "sr_y": y}

    @property
    def receptive_radius(self) -> int:
        """Receptive-field radius in pixels of the small image."""
        # Bicubic interpolation sees two pixels.
        return -(-self.num_layers // self.scale) + 2 + front_end_radius(self.front_end)
