"""Convolutions with fast gradients on CPUs; the results equal those of XLA's own.

Feature maps are [N, H, W, C]. Times were measured in float32 on two cores of an AMD EPYC
with AVX-512, with the flags that the commands set on x86 (see compiler.py); in bfloat16
they take 0.5 to 0.8 times as long.
"""

import jax
import jax.numpy as jnp
from jax import lax

from eddsrn_jax.ops.pixel_shuffle import depth_to_space, space_to_depth

_NHWC = ("NHWC", "HWIO", "NHWC")
# Up to this many output channels are few.
_FEW = 4
# From this many pixels on, an image is large.
_LARGE = 1024
# Size of the kernels that `convolve_blocks` is for.
_WIDE = 9


def convolve(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Convolves with stride 1 and zero padding; keeps height and width.

    On CPUs only reverse-mode differentiation works.

    Args:
        x: [N, H, W, C].
        kernel: [size, size, C, C'], size odd.
        bias: [C'].

    Returns:
        [N, H, W, C'].

    Raises:
        ValueError: the size of the kernel is even, so that it has no middle.
    """
    size, *_, outputs = kernel.shape
    if size % 2 == 0:
        raise ValueError(f"a kernel of size {size}: expected an odd size")
    if jax.default_backend() != "cpu":
        return _with_bias(x, kernel, bias)
    _, height, width, _ = x.shape
    even = height % 2 == 0 and width % 2 == 0
    if size == _WIDE and outputs <= _FEW and even:
        return convolve_blocks(x, kernel, bias)
    return _on_cpu(x, kernel, bias)


@jax.jit
def convolve_blocks(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Computes `convolve` for a 9x9 kernel, with 2 x 2 pixels as the channels of one.

    The kernel becomes one of 5x5, which computes 2 x 2 pixels from 10 x 10. There are a
    quarter more products, but four times as many channels suit a processor better: 24 to
    3 channels at 8 x 192 x 192 take 15 ms instead of 36, with all gradients 52 instead of
    91.

    Args and result are those of `convolve`; height and width must be even.
    """
    size, _, inputs, _ = kernel.shape
    blocks = size // 2 + 1
    # The kernels of the 2 x 2 pixels are the same, shifted by a pixel.
    shifted = [
        jnp.pad(kernel, ((i, 1 - i), (j, 1 - j), (0, 0), (0, 0)))
        for i in range(2)
        for j in range(2)
    ]
    kernels = jnp.stack(shifted, axis=-2).reshape(blocks, 2, blocks, 2, inputs, -1)
    kernels = kernels.transpose(0, 2, 1, 3, 4, 5).reshape(blocks, blocks, 4 * inputs, -1)
    y = _on_cpu(space_to_depth(x, 2), kernels, jnp.tile(bias, 4))
    return depth_to_space(y, 2)


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
    size = len(kernel)
    # Without this barrier XLA sums, in bfloat16, values that it has spread over windows.
    # That takes 190 ms of a 1,100 ms step of the paper-size network.
    gradient = lax.optimization_barrier(gradient)
    flipped = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
    in_kernel = kernel_gradient(x, gradient, size)
    return _convolve(gradient, flipped), in_kernel, gradient.sum((0, 1, 2))


_on_cpu.defvjp(_forward, _backward)


def kernel_gradient(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """Computes the gradient of a convolution with respect to its kernel.

    XLA's own gradient is a convolution with a kernel as large as an image. This one is a
    sum of matrix products, one for each large image: the factors of one image fit into a
    processor's cache, those of a batch do not. Times, with those of XLA's gradient in
    brackets: 64 to 64 channels at 8 x 192 x 192 take 112 ms (208), 64 to 256 at
    8 x 96 x 96 88 (197), 64 to 3 at 8 x 192 x 192 15 (51), 64 to 64 at 8 x 48 x 48 7.3
    (6.5), and 512 to 512 at 8 x 6 x 6 5.7 (6.7).

    Args:
        x: [N, H, W, C], the input of the convolution.
        gradient: [N, H, W, C'], the gradient with respect to its output.
        size: size of the kernel, odd.

    Returns:
        [size, size, C, C'].
    """
    _, height, width, inputs = x.shape
    outputs = gradient.shape[-1]
    around = ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0))
    if outputs <= _FEW:
        product = _product_of_few
        gradient = jnp.pad(gradient, around)
    else:
        product = _product
        x = jnp.pad(x, around)

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple:
        return total + product(*image, size), None

    if height * width < _LARGE:
        return product(x, gradient, size)
    zeros = jnp.zeros((size, size, inputs, outputs))
    total, _ = lax.scan(add, zeros, (x, gradient))
    return total.astype(x.dtype)


def _product(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """Multiplies the padded input, shifted along columns, and the gradient, along rows.

    Args:
        x: [..., H + size - 1, W + size - 1, C].
        gradient: [..., H, W, C'].
        size: size of the kernel.

    Returns:
        [size, size, C, C'].
    """
    width = gradient.shape[-2]
    columns = [x[..., j : j + width, :] for j in range(size)]
    others = [(0, 0)] * (gradient.ndim - 3)
    rows = [
        jnp.pad(gradient, (*others, (i, size - 1 - i), (0, 0), (0, 0)))
        for i in range(size)
    ]
    total = _sum_of_products(jnp.concatenate(columns, -1), jnp.concatenate(rows, -1))
    return total.reshape(size, x.shape[-1], size, -1).transpose(2, 0, 1, 3)


def _product_of_few(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """Multiplies all shifts of the padded gradient and the input.

    Args:
        x: [..., H, W, C].
        gradient: [..., H + size - 1, W + size - 1, C'].
        size: size of the kernel.

    Returns:
        [size, size, C, C'].
    """
    *_, height, width, inputs = x.shape
    shifted = [
        gradient[..., i : i + height, j : j + width, :]
        for i in reversed(range(size))
        for j in reversed(range(size))
    ]
    total = _sum_of_products(jnp.concatenate(shifted, -1), x)
    return total.reshape(size, size, -1, inputs).swapaxes(2, 3)


def _sum_of_products(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sums outer products over all positions: [..., A], [..., B] -> [A, B].

    XLA transposes the first factor. If that has many channels, the transposition costs
    more than everything else.
    """
    positions = tuple(range(a.ndim - 1))
    return jnp.tensordot(a, b, axes=(positions, positions))
