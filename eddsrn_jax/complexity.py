"""What a network costs: parameters and multiply-accumulates."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.extend.core as jex


def count_parameters(params: Any) -> int:
    """Values in a tree of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def macs_per_pixel(model: nn.Module, *, side: int = 64) -> float:
    """Multiply-accumulates of the convolutions for each pixel of the small image.

    Taps that fall outside the image are counted, as papers do. Nothing is computed.

    Args:
        model: maps [N, h, w, 3] to images.
        side: of the image that the count is made for.
    """
    image = jax.ShapeDtypeStruct((1, side, side, 3), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return _macs(jax.make_jaxpr(model.apply)(variables, image).jaxpr) / side**2


def _macs(jaxpr: jex.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            *taps_and_inputs, _ = kernel
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(
                taps_and_inputs
            )
        for value in equation.params.values():
            if isinstance(value, jex.ClosedJaxpr):
                total += _macs(value.jaxpr)
            elif isinstance(value, jex.Jaxpr):
                total += _macs(value)
    return total
