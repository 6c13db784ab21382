"""Applies a network to a window of a photo: from its pixels to restored pixels."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from eddsrn_jax.models import SCALE, apply
from eddsrn_jax.models.front_end import FrontEnd
from eddsrn_jax.models.layers import BicubicUpscale, Conv, TransposedConv
from eddsrn_jax.ops.resize import bicubic_upscale, mirrored

_CONVOLUTIONS = (Conv, TransposedConv)
# Number of pixels beyond a photo's end that a network can see.
SEEN_BEYOND = 8


@functools.partial(jax.jit, static_argnames=("model", "names", "masked"))
def restore_window(
    params: Any,
    window: jax.Array,
    end: jax.Array,
    strength: jax.Array,
    *,
    model: nn.Module,
    names: tuple[str, ...] | None,
    masked: bool = True,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Applies a network as if the photo ended at a position within the window.

    The result does not depend on the window's pixels beyond that position. A front end
    replicates the photo's last pixels. The network extends a photo to the next multiple
    of the model's stride; convolutions see zeros beyond that.

    Args:
        params: network parameters.
        window: pixels [h, w, 3], uint8, uint16, or float32 in [0, 1]; mirrored beyond the
            photo.
        end: row and column at which the photo ends, int [2], at most h and w.
        strength: 1 for the network's outputs, 0 for bicubic interpolation and the
            unchanged photo; values between mix them.
        model: network that maps float [N, h, w, 3] to images by name.
        names: outputs to compute; all if None.
        masked: whether convolutions see zeros beyond the extended photo. False saves a
            tenth of the time. It is right only if the photo's end, rounded up to the
            stride, is the window's end.

    Returns:
        Outputs by name, of the window's dtype; and whether all values were finite.
    """
    peak = peak_of(window.dtype)
    image = window[None].astype(jnp.float32) / peak
    stop = -(-end // model.stride) * model.stride if masked else None
    with nn.intercept_methods(_ending_at(end, window.shape, zeros_from=stop)):
        outputs = apply(model, params, image)
    plain = {"sr": bicubic_upscale(image, SCALE), "deblurred": image}
    finite, results = jnp.bool(True), {}
    for name in names or [name for name in plain if name in outputs]:
        output = outputs[name]
        finite &= jnp.isfinite(output).all()
        # Unlike plain + strength * (output - plain), this is exact for strengths 0 and 1.
        mixed = strength * output + (1 - strength) * plain[name]
        levels = peak * jnp.clip(mixed[0], 0, 1)
        if jnp.issubdtype(window.dtype, jnp.integer):
            # Halves are rounded up, as in the computation of scores.
            levels = jnp.floor(levels + 0.5)
        results[name] = levels.astype(window.dtype)
    return results, finite


def _ending_at(
    end: jax.Array, shape: tuple[int, ...], *, zeros_from: jax.Array | None
) -> Callable[..., Any]:
    """Returns an interceptor that lets a network's layers see the photo end somewhere.

    Args:
        end: row and column at which the photo ends, int [2].
        shape: shape of the window. Sizes inside the network are multiples or fractions
            of the window's, and so are positions.
        zeros_from: row and column from which convolutions see zeros, int [2]; None if
            nothing of the window is to be hidden.
    """

    def inside(position: jax.Array, x: jax.Array) -> list[jax.Array]:
        """Returns a position of the window as the row and column of an inner image."""
        return [position[i] * x.shape[1 + i] // shape[i] for i in (0, 1)]

    def intercept(next_call, args, kwargs, context):
        if context.method_name != "__call__":
            return next_call(*args, **kwargs)
        if isinstance(context.module, FrontEnd):
            replicated = _continued(args[0], end, by=lambda i, n: jnp.minimum(i, n - 1))
            return _continued(next_call(replicated), end, by=mirrored)
        if isinstance(context.module, BicubicUpscale):
            (x,) = args
            return next_call(_continued(x, inside(end, x), by=mirrored))
        if zeros_from is not None and isinstance(context.module, _CONVOLUTIONS):
            (x,) = args
            rows, columns = (
                jnp.arange(length) < first
                for first, length in zip(inside(zeros_from, x), x.shape[1:3], strict=True)
            )
            keep = rows[:, None] & columns[None, :]
            args = (jnp.where(keep[None, :, :, None], x, 0),)
        return next_call(*args, **kwargs)

    return intercept


def _continued(
    x: jax.Array,
    end: Sequence[jax.Array] | jax.Array,
    *,
    by: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Replaces an image's first pixels beyond the photo's end by pixels of the photo.

    Only SEEN_BEYOND pixels are replaced, as many as a network can see. They reach to the
    next multiple of its stride, and cover a front end's filters and the two pixels of
    bicubic interpolation.

    Args:
        x: image [N, h, w, ...].
        end: row and column at which the photo ends in the image.
        by: function that maps indices and the photo's length to the indices of the pixels
            to use instead; the identity within the photo.
    """
    for axis in (1, 2):
        length = x.shape[axis]
        band = min(2 * SEEN_BEYOND, length)
        start = jnp.clip(end[axis - 1] - SEEN_BEYOND, 0, length - band)
        indices = by(start + jnp.arange(band), end[axis - 1])
        taken = jnp.take(x, indices, axis=axis)
        x = lax.dynamic_update_slice_in_dim(x, taken, start, axis)
    return x


def peak_of(dtype: np.dtype) -> float:
    """Returns the value of white in a dtype: its maximum if integer, else 1."""
    return float(jnp.iinfo(dtype).max) if jnp.issubdtype(dtype, jnp.integer) else 1.0
