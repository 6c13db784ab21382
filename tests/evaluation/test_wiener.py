import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from eddsrn_jax.evaluation.baselines.bicubic import bicubic
from eddsrn_jax.evaluation.baselines.wiener import Wiener, deblur
from eddsrn_jax.evaluation.inputs import cut_to_scale, degrade_photo
from eddsrn_jax.evaluation.metrics import psnr, psnr_y
from eddsrn_jax.evaluation.scoring import Scoring, evaluate


def blurred(image, sigma):
    """Blurs an image with SciPy, with mirrored edges."""
    radius = int(np.ceil(2 * sigma))
    result = gaussian_filter(
        image.astype(float), (sigma, sigma, 0), radius=radius, mode="reflect"
    )
    return np.floor(result + 0.5).astype(np.uint8)


@pytest.mark.parametrize("sigma, gain", [(1.0, 2.0), (1.5, 2.0), (2.0, 1.5)])
def test_deblur_with_known_sigma_raises_psnr(photo, sigma, gain):
    image = photo[:160, :200]
    before = blurred(image, sigma)
    after = deblur(before, sigma)
    assert after.dtype == np.uint8 and after.shape == image.shape
    assert psnr(after, image) > psnr(before, image) + gain


def test_deblur_without_noise_inverts_the_blur(photo):
    image = photo[100:160, 150:230]
    before = blurred(image, 0.5)
    assert np.abs(before.astype(int) - image).max() > 20
    found = deblur(before, 0.5, noise_to_signal=0.0)
    # The remaining error comes from rounding the blurred image.
    assert np.abs(found.astype(int) - image).max() <= 2
    np.testing.assert_array_equal(deblur(image, 0.0, noise_to_signal=0.0), image)


def test_evaluate_scores_wiener_above_bicubic(photo):
    hr = cut_to_scale(photo)
    methods = {"w": Wiener(), "b": bicubic}
    rows = evaluate(methods, [("a", hr)], dataset="s", scoring=Scoring(sigmas=(2.0,)))
    # The filter was given the true sigma, which deblurs better than another one.
    lr_sharp, lr_blur = degrade_photo(hr, 2.0, max_sigma=2.0)
    scores = {
        sigma: psnr_y(Wiener()(lr_blur, sigma).deblurred, lr_sharp, border=4)
        for sigma in (1.5, 2.0)
    }
    assert rows[1].scores["psnr_y_crop4"] == pytest.approx(scores[2.0])
    assert scores[2.0] > scores[1.5] + 0.5
    assert [(row.method, row.output) for row in rows] == [
        *(("w", "sr"), ("w", "deblurred"), ("b", "sr"))
    ]
    assert rows[0].scores["psnr_y_crop4"] > rows[2].scores["psnr_y_crop4"] + 0.5
