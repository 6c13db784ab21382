"""Convolutions whose gradients are fast on CPUs, with the results of XLA's own.

Times here are with oneDNN, as the commands set XLA's flags on x86.

Feature maps are [N, H, W, C].
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_NHWC = ("NHWC", "HWIO", "NHWC")
# Up to so many outputs the weight gradient is a matrix product.
_FEW = 4


def convolution_for_training() -> Any:
    """What `nn.Conv` is to convolve with; None for its own."""
    return _on_cpu if jax.default_backend() == "cpu" else None


def _on_cpu(
    x: jax.Array, kernel: jax.Array, *arguments: Any, **options: Any
) -> jax.Array:
    """`lax.conv_general_dilated`, of stride 1 and equal sizes, in reverse mode only."""
    # In bfloat16 oneDNN is the faster one for every gradient.
    if x.dtype != jnp.float32:
        return lax.conv_general_dilated(x, kernel, *arguments, **options)
    return _same(x, kernel)


@jax.custom_vjp
def _same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_NHWC)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _same(x, kernel), (x, kernel)


def _backward(saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    size, _, _, outputs = kernel.shape
    flipped = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
    in_weights = _weight_gradient_of_few if outputs <= _FEW else weight_gradient
    return _same(gradient, flipped), in_weights(x, gradient, size)


_same.defvjp(_forward, _backward)


def weight_gradient(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """The gradient in the kernel, as a convolution of flipped images.

    It is an ordinary convolution of the images (channels as batch) with a kernel as large
    as an image (batch as channels). oneDNN takes 2 to 3 times as long for such kernels as
    Eigen does, and XLA leaves a convolution to Eigen where its kernel is a reversal. On
    two cores of an Intel Xeon with AVX-512, 3x3, ms: 64 to 64 channels at 8 x 64 x 64,
    32.4 without flipping, 19.6 with it; 512 to 512 at 8 x 8 x 8, 13.1 and 7.6.

    Args:
        x: [N, H, W, C], what was convolved.
        gradient: [N, H, W, C'], in the result.
        size: of the kernel, odd.

    Returns:
        [size, size, C, C'].
    """
    images = lax.rev(x.transpose(3, 1, 2, 0), (1, 2))
    kernel = lax.rev(gradient.transpose(1, 2, 0, 3), (0, 1))
    around = [(size // 2, size // 2)] * 2
    flipped = lax.conv_general_dilated(
        images, kernel, (1, 1), around, dimension_numbers=_NHWC
    )
    return lax.rev(flipped, (1, 2)).transpose(1, 2, 0, 3)


def _weight_gradient_of_few(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """The same as one matrix product, of columns shifted by rows shifted.

    Both operands are copied `size` times, which pays for a few outputs: 8 to 3 channels
    at 8 x 192 x 192, 4.6 ms where `weight_gradient` takes 8.7.
    """
    _, _, width, inputs = x.shape
    half = size // 2
    # Channels first: rows of the product are then contiguous.
    x = jnp.pad(x.transpose(3, 0, 1, 2), ((0, 0), (0, 0), (half, half), (half, half)))
    columns = jnp.stack([x[..., j : j + width] for j in range(size)])
    rows = jnp.concatenate(
        [
            jnp.pad(gradient, ((0, 0), (i, size - 1 - i), (0, 0), (0, 0)))
            for i in range(size)
        ],
        axis=-1,
    )
    product = columns.reshape(size * inputs, -1) @ rows.reshape(-1, rows.shape[-1])
    return product.reshape(size, inputs, size, -1).transpose(2, 0, 1, 3)
