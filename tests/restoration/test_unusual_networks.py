"""Restorer with networks that overflow, see single pixels, or have no convolution."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from eddsrn_jax.models import init_params
from eddsrn_jax.restoration.restorer import Restorer


class Overflowing(nn.Module):
    """A network that overflows in float16; with `always`, in float32 too."""

    dtype: str = "float16"
    always: bool = False
    receptive_radius = 0
    stride = 1

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (1, 1), name="conv")(x) * 0 + x
        large = (x.astype(self.dtype) + 0.5) * 60000 * (2 if not self.always else np.inf)
        return {"deblurred": (large / 60000).astype("float32") / 2 - 0.5}


def test_restores_again_in_float32_after_float16_overflow(photo, caplog):
    model = Overflowing()
    params = init_params(model, jax.random.key(0))
    found = Restorer(model, params)(photo[:40, :40])
    assert found.sr is None
    np.testing.assert_array_equal(found.deblurred, photo[:40, :40])
    assert "not finite in float16; retrying in float32" in caplog.text
    hopeless = Restorer(Overflowing(always=True), params)
    with pytest.raises(FloatingPointError, match="not finite"):
        hopeless(photo[:40, :40])


def test_a_network_that_sees_single_pixels_restores_photos_of_any_size(photo):
    model = Overflowing(dtype="float32")
    restorer = Restorer(model, init_params(model, jax.random.key(0)), largest_window=24)
    image = photo[:79, :40]
    # A window is fitted to the size.
    restorer.expect([image.shape[:2]])
    np.testing.assert_array_equal(restorer(image).deblurred, image)


class Mixing(nn.Module):
    """A network without convolutions."""

    dtype: str = "float32"
    receptive_radius = 0
    stride = 1

    @nn.compact
    def __call__(self, x):
        return {"deblurred": nn.Dense(3, name="mix")(x)}


def test_a_network_without_convolutions_restores_photos(photo):
    params = {"mix": {"kernel": np.eye(3), "bias": np.zeros(3)}}
    found = Restorer(Mixing(), params)(photo[:20, :30])
    np.testing.assert_array_equal(found.deblurred, photo[:20, :30])
