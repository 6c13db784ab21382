"""Applying a network to a window of a photograph: from its pixels to restored pixels."""

import contextlib
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from eddsrn_jax.models import SCALE, apply
from eddsrn_jax.models.layers import Conv, TransposedConv
from eddsrn_jax.resize import bicubic_upscale

_CONVOLUTIONS = (Conv, TransposedConv)


@functools.partial(jax.jit, static_argnames=("model", "names"))
def restore_window(
    params: Any,
    window: jax.Array,
    size: jax.Array | None,
    strength: jax.Array,
    *,
    model: nn.Module,
    names: tuple[str, ...] | None,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Applies a network as if the window ended at a size within it.

    Beyond its edge a convolution sees zeros. So that a photograph's edge is one, and its
    result the same in any window, whatever lies beyond is zeroed before each convolution.

    Args:
        params: of the model.
        window: [h, w, 3], uint8, uint16, or float32 in [0, 1].
        size: height and width at which it ends, int [2], multiples of the model's
            stride; None where
            it does not end before it does, which is 0.9 times the work.
        strength: 1 for the network's outputs, 0 for what they are added to.
        model: maps float [N, h, w, 3] to images by name.
        names: the outputs to compute; all where None.

    Returns:
        Outputs by name, of the window's type; and whether all their values were finite.
    """

    def end_at_size(next_call, args, kwargs, context):
        if isinstance(context.module, _CONVOLUTIONS) and (
            context.method_name == "__call__"
        ):
            (x,) = args
            # Within the network sizes are multiples or fractions of the window's.
            rows, columns = (
                jnp.arange(length) < size[i] * length // window.shape[i]
                for i, length in enumerate(x.shape[1:3])
            )
            keep = rows[:, None] & columns[None, :]
            args = (jnp.where(keep[None, :, :, None], x, 0),)
        return next_call(*args, **kwargs)

    peak = peak_of(window.dtype)
    image = window[None].astype(jnp.float32) / peak
    ends = contextlib.nullcontext() if size is None else nn.intercept_methods(end_at_size)
    with ends:
        outputs = apply(model, params, image)
    plain = {"sr": bicubic_upscale(image, SCALE), "deblurred": image}
    finite, results = jnp.bool(True), {}
    for name in names or [name for name in plain if name in outputs]:
        output = outputs[name]
        finite &= jnp.isfinite(output).all()
        # Exact at both ends.
        mixed = strength * output + (1 - strength) * plain[name]
        levels = peak * jnp.clip(mixed[0], 0, 1)
        if jnp.issubdtype(window.dtype, jnp.integer):
            # Halves up, as scores round.
            levels = jnp.floor(levels + 0.5)
        results[name] = levels.astype(window.dtype)
    return results, finite


def peak_of(dtype: np.dtype) -> float:
    """The value of white."""
    return float(jnp.iinfo(dtype).max) if jnp.issubdtype(dtype, jnp.integer) else 1.0
