import jax
import numpy as np
import pytest
from test_models import SMALL

from eddsrn_jax.models import EDDSRN, init_params
from eddsrn_jax.restoration import Restorer, _restore_canvas, canvas_size, extend


@pytest.fixture(scope="module")
def restorer():
    model = EDDSRN(**SMALL)
    return Restorer(model, init_params(model, jax.random.key(0)))


def test_canvases_hold_their_images_and_fit_the_trunk():
    for height in range(1, 1200, 37):
        for width in range(1, 1200, 41):
            rows, columns = canvas_size(height, width)
            assert rows >= height and columns >= width
            assert rows % 8 == 0 and columns % 8 == 0


def test_a_hundred_sizes_need_a_handful_of_programs(restorer):
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 128, (100, 2))
    before = _restore_canvas._cache_size()
    for height, width in sizes:
        restorer.prepare(int(height), int(width))
    assert len({tuple(size) for size in sizes}) > 90
    assert _restore_canvas._cache_size() - before <= 2
    larger = rng.integers(20, 512, (100, 2))
    assert len({canvas_size(*size) for size in larger}) <= 10


def test_extend_mirrors_at_the_bottom_and_the_right():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, axis=2)
    found = extend(image, (3, 5))[:, :, 0]
    np.testing.assert_array_equal(
        found, [[0, 1, 2, 2, 1], [3, 4, 5, 5, 4], [3, 4, 5, 5, 4]]
    )


@pytest.mark.parametrize("size", [(64, 64), (50, 61), (1, 1)])
def test_restores_what_the_network_returns(restorer, photo, size):
    image = photo[: size[0], : size[1]]
    found = restorer(image)
    height, width = size
    assert found["sr"].shape == (4 * height, 4 * width, 3)
    assert found["deblurred"].shape == image.shape
    assert found["sr"].dtype == np.uint8
    model, params = restorer._model, restorer._params
    canvas = extend(image, (64, 64))[None].astype(np.float32) / 255
    for name, expected in model.apply({"params": params}, canvas).items():
        expected = np.asarray(expected[0]).clip(0, 1) * 255
        part = expected[: found[name].shape[0], : found[name].shape[1]]
        # Rounded, not truncated; to within the order of a sum.
        assert np.abs(found[name] - part).max() < 0.51


def test_a_result_does_not_depend_on_what_came_before(restorer, photo):
    image = photo[:50, :60]
    first = restorer(image)["sr"]
    restorer(photo[:100, :40])
    np.testing.assert_array_equal(restorer(image)["sr"], first)
