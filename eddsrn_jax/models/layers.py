"""Layers that the networks share. Feature maps are [N, H, W, C] of any float dtype."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from eddsrn_jax.mesh import DATA_AXIS
from eddsrn_jax.models.convolution import convolve
from eddsrn_jax.ops.pixel_shuffle import depth_to_space
from eddsrn_jax.ops.resize import bicubic_upscale, mirrored


def scaled_normal(scale: float) -> nn.initializers.Initializer:
    """Returns an initializer of normally distributed values of variance `scale` / fan-in.

    Up to rounding it equals Flax's `variance_scaling(scale, "fan_in", "normal")`, which
    compiles a large program for every shape.
    """

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32):
        size = math.prod(shape)
        # Each value depends only on the key and its index, so a longer draw begins with
        # the same values. With few lengths there are few programs to compile.
        length = max(2**14, 2 ** (size - 1).bit_length())
        values = jax.random.normal(key, (length,), dtype)
        variance = scale / math.prod(shape[:-1])
        return _scaled_part(values, np.asarray(variance, dtype), shape=tuple(shape))

    return initialize


@functools.partial(jax.jit, static_argnames="shape")
def _scaled_part(
    values: jax.Array, variance: jax.Array, *, shape: tuple[int, ...]
) -> jax.Array:
    return values[: math.prod(shape)].reshape(shape) * jnp.sqrt(variance)


# He et al., ICCV 2015: keeps the variance of activations through layers with ReLU.
HE_NORMAL = scaled_normal(2.0)
# Glorot and Bengio, AISTATS 2010: the same for layers without ReLU.
LINEAR_NORMAL = scaled_normal(1.0)
# For a convolution whose output is added to something: a tenth of He's scale, like EDSR's
# residual scaling. A long chain of additions then neither grows nor drowns its input.
RESIDUAL_NORMAL = scaled_normal(0.02)


class BicubicUpscale(nn.Module):
    """Bicubic enlargement of an image that a network computed, with mirrored edges.

    It is a module so that the code that applies a network to a window of a photo can
    mirror at the photo's edge instead of the window's.
    """

    scale: int

    def __call__(self, x: jax.Array) -> jax.Array:
        return bicubic_upscale(x, self.scale)


class Conv(nn.Module):
    """A stride-1 convolution that keeps the size of its input ("flat").

    Its parameters have the same names and shapes as those of `nn.Conv`. `kernel_size` is
    odd.
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
    """Returns a batch norm layer that uses batch statistics only in training.

    Batch statistics are taken over all devices along DATA_AXIS, so results do not depend
    on the number of devices. Outside training their moving averages take their place.
    """
    settings = {"axis_name": DATA_AXIS if train else None, "dtype": dtype, "name": name}
    return nn.BatchNorm(use_running_average=not train, **settings)


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Returns the maximum of each 2 x 2 block; height and width must be even.

    It is a reshape and a max. On a CPU its gradient is many times faster than the
    gradient of the library's window operation.
    """
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Extends [N, H, W, C] by mirroring at its end to multiples in height and width."""
    for axis in (1, 2):
        size = x.shape[axis]
        padded_size = -(-size // multiple) * multiple
        if padded_size != size:
            x = jnp.take(x, mirrored(np.arange(padded_size), size), axis=axis)
    return x


class ResidualBlock(nn.Module):
    """Pairs of 3x3 convolutions, each with an identity shortcut; no batch norm."""

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


class TransposedConv(nn.Module):
    """A transposed 4x4 convolution of stride 2 without bias; doubles height and width.

    It is computed as a 3x3 convolution, whose kernel is partly zeros, and a pixel
    shuffle. This takes 2.25 times the arithmetic, but on CPUs a fraction of the time.
    """

    features: int
    kernel_init: nn.initializers.Initializer = HE_NORMAL
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (4, 4, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        # taps[p]: kernel rows for inputs i - 1, i and i + 1 of output pixel 2 i + p.
        # Kernel row 4 is zeros.
        taps = np.array([[3, 1, 4], [4, 2, 0]])
        padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
        rows = padded[taps[:, None, :, None], taps[None, :, None, :]]
        # [p, q, 3, 3, C, C'] -> [3, 3, C, (p, q, C')], the order of depth_to_space.
        flat = rows.transpose(2, 3, 4, 0, 1, 5).reshape(3, 3, x.shape[-1], -1)
        bias = jnp.zeros(flat.shape[-1])
        x = convolve(*(a.astype(self.dtype) for a in (x, flat, bias)))
        return depth_to_space(x, 2)


class UpConv(nn.Module):
    """A 3x3 convolution and a pixel shuffle; doubles height and width.

    The alternative, a transposed convolution, is tens of times slower to train on a CPU
    and prone to checkerboard artifacts.
    """

    features: int
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Conv(4 * self.features, dtype=self.dtype, name="conv")(x)
        return depth_to_space(x, 2)
