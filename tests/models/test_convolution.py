import jax
import numpy as np
import pytest
from jax import lax

from eddsrn_jax.models.convolution import convolve

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="elsewhere convolutions are XLA's own"
)


def xla(x, kernel, bias):
    layout = ("NHWC", "HWIO", "NHWC")
    convolved = lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout
    )
    return convolved + bias[None, None, None]


def with_gradients(function, arguments, gradient):
    """Returns a function's result, and the gradients with respect to its arguments."""

    def compute(arguments, gradient):
        result, back = jax.vjp(function, *arguments)
        return result, *back(gradient)

    return jax.jit(compute)(arguments, gradient)


def test_refuses_kernels_of_even_size():
    x, kernel, bias = np.ones((1, 8, 8, 3)), np.ones((4, 4, 3, 3)), np.zeros(3)
    with pytest.raises(ValueError, match="a kernel of size 4: expected an odd size"):
        convolve(x, kernel, bias)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize(
    ("shape", "kernel"),
    [
        ((2, 12, 10, 5), (3, 3, 5, 6)),
        ((1, 9, 16, 3), (7, 7, 3, 8)),
        ((3, 8, 14, 8), (3, 3, 8, 3)),
        ((1, 7, 5, 4), (5, 5, 4, 1)),
        ((2, 1, 2, 4), (3, 3, 4, 2)),
        ((2, 36, 30, 5), (3, 3, 5, 6)),
        ((2, 36, 30, 5), (3, 3, 5, 3)),
        ((2, 12, 10, 5), (9, 9, 5, 3)),
        ((2, 11, 10, 5), (9, 9, 5, 3)),
    ],
)
def test_convolve_and_its_gradients_agree_with_xla(shape, kernel, dtype, tolerance):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (shape, kernel, kernel[3:], (*shape[:3], kernel[3]))
    *arguments, gradient = (
        jax.random.normal(key, size, dtype)
        for key, size in zip(keys, shapes, strict=True)
    )
    results = with_gradients(convolve, arguments, gradient)
    # The reference is computed in float32: in bfloat16 too, results and gradients must be
    # as close to the exact ones as rounding allows.
    *exact, exact_gradient = (x.astype("float32") for x in (*arguments, gradient))
    expected = with_gradients(xla, exact, exact_gradient)
    for found, wanted in zip(results, expected, strict=True):
        assert found.dtype == dtype
        difference = np.abs(np.asarray(found, "float32") - wanted)
        assert difference.max() <= tolerance * np.abs(wanted).max()
