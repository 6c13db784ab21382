"""Colours under alpha 0 have no influence on visible pixels."""

import jax
import numpy as np
import pytest
from tiny import TwoOutputs

from eddsrn_jax.images.pixels import convert
from eddsrn_jax.models import init_params
from eddsrn_jax.restoration.restorer import Restorer
from eddsrn_jax.restoration.transparency import fill_hidden

MODEL = TwoOutputs()


@pytest.fixture(scope="module")
def restorer():
    return Restorer(MODEL, init_params(MODEL, jax.random.key(0)))


def disc(photo, height, width):
    """Returns a photo whose alpha is 0 outside a disc with a soft edge."""
    rows, columns = np.mgrid[:height, :width]
    radius = np.hypot(rows - height / 2, columns - width / 2)
    alpha = np.clip(255 * (height / 3 - radius), 0, 255).astype(np.uint8)
    return np.concatenate([photo[:height, :width], alpha[:, :, None]], axis=2)


def with_hidden(pixels, colour):
    changed = pixels.copy()
    changed[pixels[:, :, -1] == 0, :-1] = colour
    return changed


@pytest.mark.parametrize(("channels", "dtype"), [(4, "uint8"), (2, "uint16")])
def test_hidden_colours_have_no_influence(restorer, photo, dtype, channels):
    pixels = disc(photo, 48, 56)[:, :, 4 - channels :]
    if dtype == "uint16":
        pixels = convert(pixels, channels, np.uint16)
    white = pixels.max()
    first, second = (restorer(with_hidden(pixels, x)) for x in (0, white))
    for name, image in first.items():
        np.testing.assert_array_equal(image, getattr(second, name))
    np.testing.assert_array_equal(first.deblurred[:, :, -1], pixels[:, :, -1])


def test_tiles_agree_with_one_window_and_ignore_hidden_colours(restorer, photo):
    tiled = Restorer(MODEL, restorer._params, largest_window=168)
    pixels = disc(photo, 240, 300)
    found = tiled(with_hidden(pixels, 0)).sr
    np.testing.assert_array_equal(found, tiled(with_hidden(pixels, 255)).sr)
    whole = restorer(with_hidden(pixels, 128)).sr
    assert np.abs(found.astype(int) - whole).max() <= 1


def test_a_flat_disc_looks_like_the_same_flat_photo(restorer):
    """The colour at the disc's edge is that of the disc, whatever is hidden around it."""
    pixels = disc(np.full((64, 64, 3), (200, 120, 40), np.uint8), 64, 64)
    found = restorer(with_hidden(pixels, 0)).sr
    flat = restorer(np.ascontiguousarray(pixels[:, :, :3])).sr
    seen = found[:, :, 3] > 0
    assert np.abs(found[:, :, :3].astype(int) - flat)[seen].max() <= 1


def test_nearest_visible_pixel_gives_the_colour():
    pixels = np.zeros((1, 5, 2), np.uint8)
    pixels[0, 0], pixels[0, 4] = (10, 1), (20, 255)
    assert fill_hidden(pixels)[0, :, 0].tolist() in (
        [10, 10, x, 20, 20] for x in (10, 20)
    )
    assert fill_hidden(pixels)[0, :, 1].tolist() == [1, 0, 0, 0, 255]


def test_photos_with_nothing_or_everything_hidden_are_unchanged():
    for alpha in (0, 1, 255):
        pixels = np.full((3, 3, 4), alpha, np.uint8)
        assert fill_hidden(pixels) is pixels
    opaque = np.zeros((3, 3, 3), np.uint8)
    assert fill_hidden(opaque) is opaque
