import jax
import numpy as np
import pytest
from tiny import SMALL

from eddsrn_jax.metrics import psnr_y
from eddsrn_jax.models import EDDSRN, init_params
from eddsrn_jax.protocol import bicubic, degrade_photo
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
    # As many photographs of DIV2K's sizes.
    sizes = [(339, w) for w in range(400, 450)] + [(h, 510) for h in range(330, 380)]
    assert {canvas_size(*size) for size in sizes} == {(384, 512)}
    assert canvas_size(513, 700) == (768, 768)


def test_extend_mirrors_at_the_bottom_and_the_right():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1).repeat(3, axis=2)
    found = extend(image, (3, 5))[:, :, 0]
    np.testing.assert_array_equal(
        found, [[0, 1, 2, 2, 1], [3, 4, 5, 5, 4], [3, 4, 5, 5, 4]]
    )


@pytest.mark.parametrize("size", [(64, 64), (50, 61), (66, 130), (1, 1)])
def test_restores_what_the_network_returns_whatever_the_canvas(restorer, photo, size):
    image = photo[: size[0], : size[1]]
    found = restorer(image)
    height, width = size
    assert found["sr"].shape == (4 * height, 4 * width, 3)
    assert found["deblurred"].shape == image.shape
    assert found["sr"].dtype == np.uint8
    model, params = restorer._model, restorer._params
    outputs = model.apply({"params": params}, image[None].astype(np.float32) / 255)
    for name, expected in outputs.items():
        levels = np.asarray(expected[0]).clip(0, 1) * 255
        # Rounded, not truncated; to within the order of a sum.
        assert np.abs(found[name] - levels).max() < 0.5 + 1e-3


def test_a_result_does_not_depend_on_what_came_before(restorer, photo):
    image = photo[:50, :60]
    first = restorer(image)["sr"]
    restorer(photo[:100, :40])
    np.testing.assert_array_equal(restorer(image)["sr"], first)


def test_the_weights_that_come_with_the_package_restore(photo):
    lr_sharp, lr_blur = degrade_photo(photo, 1.5, max_sigma=2.0)
    found = Restorer.from_pretrained()(lr_blur)
    plain = bicubic(lr_blur)["sr"]
    assert psnr_y(found["sr"], photo, border=4) > psnr_y(plain, photo, border=4) + 1.5
    gain = psnr_y(found["deblurred"], lr_sharp, border=4) - psnr_y(
        lr_blur, lr_sharp, border=4
    )
    assert gain > 2
