import numpy as np
import pytest
from conftest import shared_data

from benchmarks.blur_estimator import measure
from eddsrn_jax.evaluation.inputs import degrade_photo
from eddsrn_jax.images import list_images
from eddsrn_jax.images.pixels import convert
from eddsrn_jax.restoration.blur_estimate import estimate_sigma, outside_trained_range


@pytest.fixture(scope="module")
def blurred(photo):
    """Returns the small photo for each sigma: 0 (no blur), 1, 1.5, 2 and 3.5."""
    sigmas = (1.0, 1.5, 2.0, 3.5)
    small = {s: degrade_photo(photo, s, max_sigma=4.0) for s in sigmas}
    return {0.0: small[1.0][0], **{s: images[1] for s, images in small.items()}}


def test_estimated_sigma_is_near_the_true_sigma(blurred):
    for sigma in (1.0, 1.5, 2.0):
        assert estimate_sigma(blurred[sigma]) == pytest.approx(sigma, abs=0.3)
    assert estimate_sigma(blurred[0.0]) < 0.75
    assert estimate_sigma(blurred[3.5]) > 2.75


def test_flags_only_blur_clearly_outside_the_trained_range(blurred):
    kinds = [outside_trained_range(estimate_sigma(x), (1, 2)) for x in blurred.values()]
    assert kinds == ["sharper", None, None, None, "blurrier"]
    assert outside_trained_range(0.81, (1, 2)) is None
    assert outside_trained_range(None, (1, 2)) is None


def test_estimate_ignores_bit_depth_orientation_and_contrast(blurred):
    image = blurred[1.5]
    expected = estimate_sigma(image)
    assert estimate_sigma(convert(image, 3, np.uint16)) == pytest.approx(expected)
    assert estimate_sigma(image / np.float32(255)) == pytest.approx(expected, rel=1e-4)
    assert estimate_sigma(image.swapaxes(0, 1)[::-1]) == pytest.approx(expected)
    assert estimate_sigma(255 - image) == pytest.approx(expected, rel=1e-4)
    gray = image[:, :, 1]
    assert estimate_sigma(gray // 2) == pytest.approx(estimate_sigma(gray), abs=0.1)


def test_tiling_a_photo_barely_changes_its_estimate(photo):
    large = np.tile(photo, (8, 6, 1))
    assert estimate_sigma(large) == pytest.approx(estimate_sigma(photo), abs=0.15)


def test_returns_none_for_images_that_are_small_or_without_edges(photo):
    assert estimate_sigma(photo[:23]) is None
    assert estimate_sigma(np.full((64, 64, 3), 77, np.uint8)) is None
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(64, axis=0)
    assert estimate_sigma(ramp) is None


def test_estimates_are_accurate_on_photos_not_used_for_the_fit():
    photos = list_images(shared_data("photos/valid"))[::2]
    found = measure(photos, lambda image: image)
    assert found["mean error, sigma 1..2"] <= 0.1
    assert found["warned, sigma 1..2"] <= 2.5
    assert found["sharper, LR"] >= 95
    assert found["sharper, full size"] >= 95
    assert found["blurrier, sigma 3..4"] >= 90
    assert found["no estimate"] == 0
