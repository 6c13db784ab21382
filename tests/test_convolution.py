import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from eddsrn_jax.models.convolution import convolution_for_training

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="elsewhere convolutions are XLA's own"
)


def xla(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [
        ((2, 12, 10, 5), (3, 3, 5, 6)),
        ((1, 9, 16, 3), (7, 7, 3, 8)),
        # A matrix product from here on.
        ((3, 8, 14, 8), (3, 3, 8, 3)),
        ((1, 7, 5, 4), (5, 5, 4, 1)),
        ((2, 1, 2, 4), (3, 3, 4, 2)),
    ],
)
def test_results_and_gradients_are_those_of_xla(shape, kernel):
    keys = jax.random.split(jax.random.key(0), 3)
    x, weights = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], kernel)
    gradient = jax.random.normal(keys[2], (*shape[:3], kernel[3]))
    ours = convolution_for_training()
    result, back = jax.vjp(lambda *a: ours(*a, (1, 1), "SAME"), x, weights)
    expected, expected_back = jax.vjp(xla, x, weights)
    np.testing.assert_array_equal(result, expected)
    for found, wanted in zip(back(gradient), expected_back(gradient), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_other_types_are_left_to_xla():
    ours = convolution_for_training()
    x, kernel = jnp.ones((1, 4, 4, 2), "bfloat16"), jnp.ones((3, 3, 2, 2), "bfloat16")
    layout = ("NHWC", "HWIO", "NHWC")
    traced = jax.make_jaxpr(lambda *a: ours(*a, (1, 1), "SAME", dimension_numbers=layout))
    assert "custom_vjp" not in str(traced(x, kernel))
    assert "custom_vjp" in str(traced(x.astype("float32"), kernel.astype("float32")))
