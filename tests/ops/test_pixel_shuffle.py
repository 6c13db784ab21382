import jax.numpy as jnp
import numpy as np

from eddsrn_jax.ops.pixel_shuffle import depth_to_space, space_to_depth


def test_depth_to_space_orders_channels_row_column_channel():
    x = jnp.arange(2 * 2 * 12.0).reshape(1, 2, 2, 12)
    y = depth_to_space(x, 2)
    assert y.shape == (1, 4, 4, 3)
    # Output pixel (2i + a, 2j + b) has input pixel (i, j)'s channels from 3 (2a + b) on.
    np.testing.assert_array_equal(y[0, 3, 0], x[0, 1, 0, 6:9])
    np.testing.assert_array_equal(y[0, 0, 3], x[0, 0, 1, 3:6])


def test_space_to_depth_is_the_inverse_of_depth_to_space():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    assert space_to_depth(x, 2).shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(depth_to_space(space_to_depth(x, 2), 2), x)
    np.testing.assert_array_equal(space_to_depth(x, 2)[0, 0, 0, :3], x[0, 0, 0])
