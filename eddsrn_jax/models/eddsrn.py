"""ED-DSRN, a network with one trunk and two heads: super-resolution and deblurring.

Images are float RGB in [0, 1], [N, h, w, 3]; outputs are not clipped.

Source: Zhang, Wang, Dong, Guo, "A Deep Encoder-Decoder Networks for Joint Deblurring
and Super-Resolution", ICASSP 2018, sections 2.1 to 2.3.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from eddsrn_jax.models.front_end import front_end_radius, network_input
from eddsrn_jax.models.layers import (
    RESIDUAL_NORMAL,
    Conv,
    ResidualBlock,
    UpConv,
    max_pool_2x2,
    pad_to_multiple,
)
from eddsrn_jax.ops.resize import bicubic_upscale

SCALE = 4
# The trunk pools three times, so its input must be a multiple of this.
STRIDE = 8


class Trunk(nn.Module):
    """Encoder and decoder with three skips, [N, h, w, C] -> [N, h, w, features[0]].

    The encoder is a 7x7 convolution, then three times: pool, widen, residual block. The
    decoder is three times: up-convolution, addition of the skip of that size, ReLU,
    residual block (none at full size). Every skip passes through a 3x3 convolution.
    Height and width must be multiples of 8.

    Differs: the paper states neither the widths nor the convolutions of a block. With
    the defaults the network costs 1.2 times as much as SRResNet, which is close to the
    ratio of the paper's times.
    """

    features: tuple[int, int, int, int] = (64, 128, 256, 512)
    num_pairs: int = 2
    dtype: DTypeLike = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kind = nn.remat(ResidualBlock) if self.rematerialize else ResidualBlock

        def block(features: int, name: str) -> ResidualBlock:
            return kind(features, self.num_pairs, self.dtype, name=name)

        full, half, quarter, eighth = self.features
        x = nn.relu(Conv(full, kernel_size=7, dtype=self.dtype, name="stem")(x))
        skips = []
        for i, features in enumerate((half, quarter, eighth), start=1):
            skips.append(Conv(x.shape[-1], dtype=self.dtype, name=f"skip{i}")(x))
            x = nn.relu(
                Conv(features, dtype=self.dtype, name=f"widen{i}")(max_pool_2x2(x))
            )
            x = block(features, f"encoder_block{i}")(x)
        for i, features in ((3, quarter), (2, half), (1, full)):
            x = UpConv(features, self.dtype, name=f"up{i}")(x)
            x = nn.relu(x + skips[i - 1])
            if i > 1:
                x = block(features, f"decoder_block{i}")(x)
        return x


class SuperResolutionHead(nn.Module):
    """Head from trunk features to the x4 residual image, [N, h, w, C] -> [N, 4h, 4w, 3].

    It has three flat convolutions, two sub-pixel convolutions of x2, a flat convolution
    and a convolution to RGB.

    Attributes:
        features: widths at x1, x2 and x4.
    """

    features: tuple[int, int, int] = (64, 64, 64)
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        flat, double, quadruple = self.features
        for i in range(3):
            x = nn.relu(Conv(flat, dtype=self.dtype, name=f"flat{i}")(x))
        x = nn.relu(UpConv(double, self.dtype, name="up0")(x))
        x = nn.relu(UpConv(quadruple, self.dtype, name="up1")(x))
        x = nn.relu(Conv(quadruple, dtype=self.dtype, name="flat3")(x))
        return Conv(3, kernel_init=RESIDUAL_NORMAL, dtype=self.dtype, name="rgb")(x)


class DeblurringHead(nn.Module):
    """Head from trunk features to the deblurring residual, [N, h, w, C] -> [N, h, w, 3].

    It has three flat convolutions, the last one to RGB.
    """

    features: int = 64
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(2):
            x = nn.relu(Conv(self.features, dtype=self.dtype, name=f"flat{i}")(x))
        return Conv(3, kernel_init=RESIDUAL_NORMAL, dtype=self.dtype, name="rgb")(x)


class EDDSRN(nn.Module):
    """The whole ED-DSRN; without the deblurring head it is the paper's ED-SRN.

    Attributes:
        features: widths of the trunk at full, 1/2, 1/4 and 1/8 size.
        num_pairs: number of pairs of convolutions in each residual block.
        sr_features: widths of the super-resolution head at x1, x2 and x4.
        deblur_features: width of the deblurring head; 0 leaves the head out.
        front_end: name of a filter bank, see models/front_end.py; empty for none, as in
            the paper.
        dtype: computation dtype; parameters and outputs are float32.
        rematerialize: whether the backward pass of training recomputes the activations
            of residual blocks and heads: less memory, more time.
    """

    # Height and width are extended to a multiple of this.
    stride = STRIDE

    features: tuple[int, int, int, int] = (64, 128, 256, 512)
    num_pairs: int = 2
    sr_features: tuple[int, int, int] = (64, 64, 64)
    deblur_features: int = 64
    front_end: str = ""
    dtype: DTypeLike = "float32"
    rematerialize: bool = False

    @nn.compact
    def __call__(self, lr_blur: jax.Array) -> dict[str, jax.Array]:
        """Restores a batch of any height and width, from 1 x 1.

        Reflection extends sizes that are not multiples of 8; outputs are cut back.

        Args:
            lr_blur: float [N, h, w, 3] in [0, 1].

        Returns:
            "sr": float32 [N, 4h, 4w, 3]. With a deblurring head also "deblurred":
            float32 [N, h, w, 3].
        """
        _, h, w, _ = lr_blur.shape
        image = network_input(lr_blur, self.front_end, self.dtype)
        image = pad_to_multiple(image, STRIDE)
        kept = nn.remat if self.rematerialize else lambda head: head
        trunk = (self.features, self.num_pairs, self.dtype, self.rematerialize)
        x = Trunk(*trunk, name="trunk")(image)
        sr_head = kept(SuperResolutionHead)(self.sr_features, self.dtype, name="sr_head")
        residual = sr_head(x).astype(jnp.float32)[:, : SCALE * h, : SCALE * w]
        outputs = {"sr": residual + bicubic_upscale(lr_blur, SCALE)}
        if self.deblur_features:
            settings = (self.deblur_features, self.dtype)
            head = kept(DeblurringHead)(*settings, name="deblur_head")
            residual = head(x).astype(jnp.float32)[:, :h, :w]
            outputs["deblurred"] = residual + lr_blur
        return outputs

    @property
    def receptive_radius(self) -> int:
        """Receptive-field radius in pixels of the small image, from a multiple of STRIDE.

        Pixels up to this far before the multiple can change outputs after it. By symmetry
        the same holds in the other direction.

        The computation goes back from the output. In the super-resolution head the
        radius is 2 pixels at x4. At x2 it is half of that plus one for a convolution: 2.
        At x1 it is again 2, plus 3 for the flat convolutions: 5. At each smaller size of
        the decoder the radius halves, rounded up; at each larger size of the encoder it
        doubles. The result is 121 pixels with two pairs in a block, and 77 with one.
        """
        block = 2 * self.num_pairs
        # Up-convolution and block at 1/2 and at 1/4, up-convolution at 1/8.
        half = -(-5 // 2) + 1 + block
        quarter = -(-half // 2) + 1 + block
        eighth = -(-quarter // 2) + 1
        for _ in range(3):
            # Block, widening convolution and pooling.
            eighth = 2 * (eighth + block + 1)
        return eighth + 3 + front_end_radius(self.front_end)
