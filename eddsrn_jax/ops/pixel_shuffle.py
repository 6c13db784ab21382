"""Rearranging blocks of pixels into channels, and channels into pixels."""

import jax


def depth_to_space(x: jax.Array, scale: int) -> jax.Array:
    """Rearranges [N, h, w, scale * scale * C] into [N, scale * h, scale * w, C].

    Differs: channels are ordered (row, column, C); PyTorch's PixelShuffle orders
    them (C, row, column).
    """
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, scale, scale, c // scale**2)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h * scale, w * scale, c // scale**2)


def space_to_depth(x: jax.Array, scale: int) -> jax.Array:
    """Inverts `depth_to_space`; height and width must be multiples of `scale`."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // scale, scale, w // scale, scale, c)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h // scale, w // scale, c * scale**2)
