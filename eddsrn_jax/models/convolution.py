"""Convolutions with fast gradients on CPUs; the results equal those of XLA's own.

Feature maps are [N, H, W, C]. Times were measured on two cores of an Intel Xeon with
AVX-512 and AMX, with oneDNN, which the commands enable through XLA's flags on x86.
"""

import jax
import jax.numpy as jnp
from jax import lax

_NHWC = ("NHWC", "HWIO", "NHWC")
# `stacked_gradient` is used up to this many output channels.
_FEW = 4


def convolve(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Convolves with stride 1 and zero padding; keeps height and width.

    On CPUs only reverse-mode differentiation works.

    Args:
        x: [N, H, W, C].
        kernel: [size, size, C, C'], size odd.
        bias: [C'].

    Returns:
        [N, H, W, C'].
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
    # Without this barrier XLA sums, in bfloat16, values that it has spread over windows.
    # That takes 190 ms of a 1,100 ms step of the paper-size network.
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


# Three ways to compute the gradient with respect to the kernel. Each takes the input of
# the convolution, [N, H, W, C], the gradient with respect to its output, [N, H, W, C'],
# and the kernel's size. Each returns [size, size, C, C'].


def flipped_gradient(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """Computes a kernel's gradient as a convolution of flipped images, for float32.

    The gradient is an ordinary convolution of the images (channels as batch) with a
    kernel as large as an image (batch as channels). oneDNN takes 2 to 3 times as long as
    Eigen for such kernels. XLA leaves a convolution to Eigen if its kernel is a reversal.

    Times for 3x3 kernels: 64 to 64 channels at 8 x 48 x 48 take 14.6 ms without flipping
    and 10.3 with it; 512 to 512 at 8 x 6 x 6 take 6.7 and 4.6.
    """
    images = lax.rev(x.transpose(3, 1, 2, 0), (1, 2))
    kernel = lax.rev(gradient.transpose(1, 2, 0, 3), (0, 1))
    around = [(size // 2, size // 2)] * 2
    flipped = lax.conv_general_dilated(
        images, kernel, (1, 1), around, dimension_numbers=_NHWC
    )
    return lax.rev(flipped, (1, 2)).transpose(1, 2, 0, 3)


def product_gradient(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """Computes a kernel's gradient as one matrix product, for bfloat16.

    The factors are the input, shifted along columns, and the gradient, shifted along
    rows. Times: 64 to 256 channels at 8 x 96 x 96 take 39 ms, with XLA's own gradient
    144; 64 to 64 at 8 x 192 x 192, 83 and 107; 512 to 512 at 8 x 6 x 6, 1.4 and 2.6.
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
    """Computes a kernel's gradient as one matrix product, for a few output channels.

    The factors are the input and all shifts of the gradient. Times: 64 to 3 channels at
    8 x 192 x 192 take 15 ms, with XLA's own gradient 97; in bfloat16 8 and 26.
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
    """Sums outer products over all positions: [N, H, W, A], [N, H, W, B] -> [A, B].

    XLA transposes the first factor. If that has many channels, the transposition costs
    more than everything else.
    """
    return jnp.tensordot(a, b, axes=((0, 1, 2), (0, 1, 2)))
