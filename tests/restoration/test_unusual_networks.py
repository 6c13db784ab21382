"""Restorer with networks that overflow, see single pixels, or have no convolution."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from eddsrn_jax.models import apply, init_params
from eddsrn_jax.models.layers import BicubicUpscale, Conv, pad_to_multiple
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


class TwoLevels(nn.Module):
    """A network that enlarges its own image: to twice the size, and again."""

    dtype: str = "float32"
    receptive_radius = 4
    stride = 8

    @nn.compact
    def __call__(self, x):
        x = Conv(3, name="conv")(pad_to_multiple(x, 8))
        return {"sr": BicubicUpscale(2)(BicubicUpscale(2)(x))}


@pytest.mark.parametrize("size", [(40, 56), (37, 50), (100, 75)])
def test_images_inside_a_network_are_enlarged_up_to_the_photos_end(photo, size):
    model, image = TwoLevels(), photo[: size[0], : size[1]]
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 3)) / 9
    params = {"conv": {"kernel": kernel, "bias": np.full(3, 0.5, np.float32)}}
    found = Restorer(model, params, largest_window=48)(image).sr
    # The photo's own size, rounded up, in one piece.
    extended = pad_to_multiple(image[None].astype(np.float32) / 255, 8)
    expected = 255 * np.clip(apply(model, params, extended)["sr"][0], 0, 1)
    end = 4 * (np.array(size) - 4 * (np.array(size) % 8 > 0))
    difference = np.abs(found - expected[: found.shape[0], : found.shape[1]])
    assert difference[: end[0], : end[1]].max() < 0.51


def test_a_network_without_convolutions_restores_photos(photo):
    params = {"mix": {"kernel": np.eye(3), "bias": np.zeros(3)}}
    found = Restorer(Mixing(), params)(photo[:20, :30])
    np.testing.assert_array_equal(found.deblurred, photo[:20, :30])
