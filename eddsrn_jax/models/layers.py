"""Layers that the networks share. Feature maps are [N, H, W, C], any float dtype."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from eddsrn_jax.models.convolution import convolve
from eddsrn_jax.parallel import DATA_AXIS
from eddsrn_jax.resize import bicubic_upscale, mirrored

# He et al., ICCV 2015: keeps the variance of activations through a chain of ReLUs.
HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# Glorot and Bengio, AISTATS 2010: the same without a ReLU.
LINEAR_NORMAL = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
# A convolution whose output is added to something starts at a tenth of that scale (as
# EDSR's residual scaling does), so that deep chains of additions neither grow nor
# drown what they are added to.
RESIDUAL_NORMAL = nn.initializers.variance_scaling(0.02, "fan_in", "normal")


class BicubicUpscale(nn.Module):
    """Bicubic enlargement of something that a network computed, edges mirrored.

    A module, so that applying a network to a window of a photo can mirror at the photo's
    edge and not at the window's.
    """

    scale: int

    def __call__(self, x: jax.Array) -> jax.Array:
        return bicubic_upscale(x, self.scale)


class Conv(nn.Module):
    """A stride-1 convolution that keeps the size of its input ("flat"), and a bias.

    Its parameters have the names and shapes of `nn.Conv`'s.
    """

    features: int
    kernel_size: int = 3
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = HE_NORMAL
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = jnp.zeros(self.features)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return convolve(*(a.astype(self.dtype) for a in (x, kernel, bias)))


def batch_norm(train: bool, *, dtype: DTypeLike, name: str) -> nn.BatchNorm:
    """Batch norm by running statistics or, to train, by the batch's.

    These are of all devices along the axis DATA_AXIS, so that their number changes
    nothing; and the running ones follow them.
    """
    settings = {"axis_name": DATA_AXIS if train else None, "dtype": dtype, "name": name}
    return nn.BatchNorm(use_running_average=not train, **settings)


def depth_to_space(x: jax.Array, scale: int) -> jax.Array:
    """Rearranges [N, h, w, scale * scale * C] into [N, scale * h, scale * w, C].

    Differs: channels are ordered (row, column, C); PyTorch's PixelShuffle orders
    them (C, row, column).
    """
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, scale, scale, c // scale**2)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h * scale, w * scale, c // scale**2)


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Maximum of each 2 x 2 block; height and width must be even.

    A reshape and a max: its gradient is many times faster on a CPU than that of the
    library's window operation.
    """
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Extends [N, H, W, C] at its end to a multiple in height and width, mirrored."""
    for axis in (1, 2):
        size = x.shape[axis]
        padded_size = -(-size // multiple) * multiple
        if padded_size != size:
            x = jnp.take(x, mirrored(np.arange(padded_size), size), axis=axis)
    return x


class ResidualBlock(nn.Module):
    """Pairs of 3x3 convolutions, each pair with an identity shortcut; no batch norm."""

    features: int
    num_pairs: int = 2
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.num_pairs):
            y = nn.relu(Conv(self.features, dtype=self.dtype, name=f"conv{i}a")(x))
            x = x + Conv(
                self.features,
                kernel_init=RESIDUAL_NORMAL,
                dtype=self.dtype,
                name=f"conv{i}b",
            )(y)
        return x


def space_to_depth(x: jax.Array, scale: int) -> jax.Array:
    """The inverse of `depth_to_space`; height and width must be multiples of `scale`."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // scale, scale, w // scale, scale, c)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h // scale, w // scale, c * scale**2)


class TransposedConv(nn.Module):
    """A 4x4 convolution transposed with stride 2: twice the height and width, no bias.

    As a 3x3 convolution, whose kernel has zeros between, and a pixel shuffle: 2.25 times
    the arithmetic, and on CPUs a fraction of the time.
    """

    features: int
    kernel_init: nn.initializers.Initializer = HE_NORMAL
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (4, 4, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        # Of output pixel 2 i + p, inputs i - 1, i, i + 1 see these rows; 4 is zeros.
        taps = np.array([[3, 1, 4], [4, 2, 0]])
        padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
        rows = padded[taps[:, None, :, None], taps[None, :, None, :]]
        # [p, q, 3, 3, C, C'] -> [3, 3, C, (p, q, C')], as depth_to_space has them.
        flat = rows.transpose(2, 3, 4, 0, 1, 5).reshape(3, 3, x.shape[-1], -1)
        bias = jnp.zeros(flat.shape[-1])
        x = convolve(*(a.astype(self.dtype) for a in (x, flat, bias)))
        return depth_to_space(x, 2)


class UpConv(nn.Module):
    """A 3x3 convolution and a pixel shuffle: twice the height and width.

    Chosen over a transposed convolution, which is tens of times slower to train on a
    CPU and prone to checkerboards.
    """

    features: int
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv(4 * self.features, dtype=self.dtype, name="conv")(x)
        return depth_to_space(x, 2)
