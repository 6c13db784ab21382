"""Convolutions whose gradients are fast on CPUs, with the results of XLA's own.

Feature maps are [N, H, W, C]. Times here are of two cores of an Intel Xeon with AVX-512
and AMX, with oneDNN, as the commands set XLA's flags on x86.
"""

import jax
import jax.numpy as jnp
from jax import lax

_NHWC = ("NHWC", "HWIO", "NHWC")
# Up to so many outputs it is they that are stacked.
_FEW = 4


def convolve(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Stride 1, zeros around, the size of the input; on CPUs for reverse mode only.

    Args:
        x: [N, H, W, C].
        kernel: [size, size, C, C'], its size odd.
        bias: [C'].
    """
    if jax.default_backend() == "cpu":
        return _on_cpu(x, kernel, bias)
    return _with_bias(x, kernel, bias)


def _with_bias(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return _convolve(x, kernel) + bias[None, None, None]


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_NHWC)


_on_cpu = jax.custom_vjp(_with_bias)


def _forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _with_bias(x, kernel, bias), (x, kernel)


def _backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, kernel = saved
    size, *_, outputs = kernel.shape
    # Without it XLA sums in bfloat16 what it has spread over windows: 190 ms of a step
    # of the paper-size network that takes 1,100.
    gradient = lax.optimization_barrier(gradient)
    flipped = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
    if outputs <= _FEW:
        in_kernel = stacked_gradient(x, gradient, size)
    elif x.dtype == jnp.float32:
        in_kernel = flipped_gradient(x, gradient, size)
    else:
        in_kernel = product_gradient(x, gradient, size)
    return _convolve(gradient, flipped), in_kernel, gradient.sum((0, 1, 2))


_on_cpu.defvjp(_forward, _backward)


# The gradient in the kernel, in three ways. Each takes what was convolved, [N, H, W, C];
# the gradient in the result, [N, H, W, C']; and the kernel's size; each returns
# [size, size, C, C'].


def flipped_gradient(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """As a convolution of flipped images: for float32.

    It is an ordinary convolution of the images (channels as batch) with a kernel as large
    as an image (batch as channels). oneDNN takes 2 to 3 times as long for such kernels as
    Eigen does, and XLA leaves a convolution to Eigen where its kernel is a reversal. 3x3,
    ms: 64 to 64 channels at 8 x 48 x 48, 14.6 without flipping, 10.3 with it; 512 to 512
    at 8 x 6 x 6, 6.7 and 4.6.
    """
    images = lax.rev(x.transpose(3, 1, 2, 0), (1, 2))
    kernel = lax.rev(gradient.transpose(1, 2, 0, 3), (0, 1))
    around = [(size // 2, size // 2)] * 2
    flipped = lax.conv_general_dilated(
        images, kernel, (1, 1), around, dimension_numbers=_NHWC
    )
    return lax.rev(flipped, (1, 2)).transpose(1, 2, 0, 3)


def product_gradient(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """As one matrix product, of columns shifted by rows shifted: for bfloat16.

    64 to 256 channels at 8 x 96 x 96, 39 ms where XLA's own takes 144; 64 to 64 at
    8 x 192 x 192, 83 and 107; 512 to 512 at 8 x 6 x 6, 1.4 and 2.6.
    """
    *_, width, inputs = x.shape
    half = size // 2
    x = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    columns = jnp.concatenate([x[:, :, j : j + width] for j in range(size)], axis=-1)
    rows = jnp.concatenate(
        [
            jnp.pad(gradient, ((0, 0), (i, size - 1 - i), (0, 0), (0, 0)))
            for i in range(size)
        ],
        axis=-1,
    )
    product = _sum_of_products(columns, rows)
    return product.reshape(size, inputs, size, -1).transpose(2, 0, 1, 3)


def stacked_gradient(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """As one matrix product, of x by the gradient shifted: for a few outputs.

    64 to 3 channels at 8 x 192 x 192, 15 ms where XLA's own takes 97; in bfloat16 8 and
    26.
    """
    _, height, width, inputs = x.shape
    half = size // 2
    gradient = jnp.pad(gradient, ((0, 0), (half, half), (half, half), (0, 0)))
    shifted = [
        gradient[:, i : i + height, j : j + width]
        for i in reversed(range(size))
        for j in reversed(range(size))
    ]
    product = _sum_of_products(jnp.concatenate(shifted, axis=-1), x)
    return product.reshape(size, size, -1, inputs).swapaxes(2, 3)


def _sum_of_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """Over all positions: [N, H, W, A], [N, H, W, B] -> [A, B].

    XLA transposes the first, which costs more than all else where it has many channels.
    """
    return jnp.tensordot(a, b, axes=((0, 1, 2), (0, 1, 2)))
