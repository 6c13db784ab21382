import jax
import numpy as np
import pytest
from PIL import Image

from eddsrn_jax.ops.resize import (
    bicubic_upscale,
    downscale_matrix,
    mirrored,
    resample_columns,
    resample_rows,
)


def downscale(image: np.ndarray, scale: int = 4) -> np.ndarray:
    height, width = image.shape[:2]
    rows = downscale_matrix(height, height, scale)
    columns = downscale_matrix(width, width, scale)
    tall = resample_rows(rows, image.astype(np.float32))
    return np.asarray(resample_columns(columns, tall))


def pillow_bicubic(channel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes floats with Pillow: the kernel is the same (a = -0.5), the edges differ."""
    image = Image.fromarray(channel.astype(np.float32))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))


def test_mirrored_repeats_edge_pixels_and_reflects_more_than_once():
    found = mirrored(np.arange(-3, 8), 3)
    np.testing.assert_array_equal(found, [2, 1, 0, 0, 1, 2, 2, 1, 0, 0, 1])
    np.testing.assert_array_equal(mirrored(np.arange(-2, 3), 1), [0] * 5)


def test_downscale_agrees_with_pillow_away_from_the_edges(photo):
    found = downscale(photo)
    for channel in range(3):
        expected = pillow_bicubic(photo[:, :, channel], (75, 112))
        np.testing.assert_allclose(
            found[2:-2, 2:-2, channel], expected[2:-2, 2:-2], atol=2e-3
        )


@pytest.mark.parametrize("array", [np.asarray, jax.numpy.asarray], ids=["numpy", "jax"])
def test_upscale_agrees_with_pillow_away_from_the_edges(photo, array):
    small = photo[:60, :70].astype(np.float32)
    found = np.asarray(bicubic_upscale(array(small[None]), 4))[0]
    for channel in range(3):
        expected = pillow_bicubic(small[:, :, channel], (240, 280))
        np.testing.assert_allclose(
            found[8:-8, 8:-8, channel], expected[8:-8, 8:-8], atol=2e-3
        )


def test_upscale_is_unchanged_by_mirrored_padding():
    """This property allows networks to see extended images."""
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 3))
    extended = x[:, mirrored(np.arange(9), 5)]
    np.testing.assert_allclose(
        bicubic_upscale(extended, 4)[:, :20], bicubic_upscale(x, 4), atol=1e-12
    )


def test_downscale_ignores_padding_beyond_the_given_size(photo):
    image = photo[:40, :64].astype(np.float32)
    padded = np.full((64, 96, 3), 1e6, np.float32)
    padded[:40, :64] = image

    @jax.jit
    def run(size):
        rows, columns = downscale_matrix(size[0], 64, 4), downscale_matrix(size[1], 96, 4)
        return resample_columns(columns, resample_rows(rows, padded))

    found = np.asarray(run(np.array([40, 64])))[:10, :16]
    np.testing.assert_allclose(found, downscale(image), atol=1e-3)
