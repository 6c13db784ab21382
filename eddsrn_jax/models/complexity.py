"""The cost of a network: parameters, multiply-accumulates, memory."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.extend.core as jex

from eddsrn_jax.models.registry import abstract_params, apply


def count_parameters(params: Any) -> int:
    """Counts the values in a tree of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def macs_per_pixel(model: nn.Module, *, side: int = 64) -> float:
    """Counts multiply-accumulates of the convolutions for each pixel of the small image.

    Taps outside the image count too, as in papers. The network is traced, not run.

    Args:
        model: network that maps [N, h, w, 3] to images.
        side: side of the traced image, in pixels.
    """
    macs = 0
    for _, kernel, output in convolutions(model, side):
        *taps_and_inputs, _ = kernel.shape
        macs += math.prod(output.shape) * math.prod(taps_and_inputs)
    return macs / side**2


def activation_bytes_per_pixel(model: nn.Module, *, side: int = 64) -> float:
    """Estimates the memory of applying a network, in bytes per pixel of the small image.

    The estimate is the input and output of the convolution for which their sum is
    largest. XLA was seen to take that much on CPUs, because it fuses other operations
    into the convolutions.

    Args:
        model: network that maps [N, h, w, 3] to images.
        side: side of the traced image, in pixels.
    """
    sizes = [_nbytes(x) + _nbytes(output) for x, _, output in convolutions(model, side)]
    # A network of a user may have no convolution.
    return max(sizes, default=_nbytes(_image(side))) / side**2


def _nbytes(x: jax.ShapeDtypeStruct) -> int:
    return x.size * x.dtype.itemsize


def convolutions(model: nn.Module, side: int) -> Iterator[list[jax.ShapeDtypeStruct]]:
    """Yields input, kernel and output of each convolution, for one image of that side."""
    traced = jax.make_jaxpr(functools.partial(apply, model))
    return _convolutions(traced(abstract_params(model), _image(side)).jaxpr)


def _image(side: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, side, side, 3), "float32")


def _convolutions(jaxpr: jex.Jaxpr) -> Iterator[list[jax.ShapeDtypeStruct]]:
    for equation in jaxpr.eqns:
        # On CPUs some convolutions are computed in blocks (convolution.py), with products
        # by zeros. The count is that of the convolution as the network has it.
        in_blocks = equation.params.get("name") == "convolve_blocks"
        if in_blocks or equation.primitive.name == "conv_general_dilated":
            arrays = (*equation.invars[:2], *equation.outvars)
            # The operands of a convolution are arrays, which have a shape and a dtype.
            avals: list[Any] = [x.aval for x in arrays]
            yield [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in avals]
            continue
        for value in equation.params.values():
            if isinstance(value, jex.ClosedJaxpr):
                yield from _convolutions(value.jaxpr)
            elif isinstance(value, jex.Jaxpr):
                yield from _convolutions(value)
