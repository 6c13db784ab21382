import numpy as np
import pytest
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from eddsrn_jax.evaluation.metrics import MIN_SIDE, luminance, psnr, psnr_y, score


@pytest.fixture(scope="module")
def pair(photo):
    noise = np.random.default_rng(0).normal(0, 12, photo.shape)
    return (photo + noise).clip(0, 255).astype(np.uint8), photo


def test_luminance_matches_bt601(photo):
    np.testing.assert_allclose(
        luminance(photo)[:, :, 0], rgb2ycbcr(photo)[:, :, 0], atol=1e-3
    )
    ends = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    np.testing.assert_allclose(luminance(ends).ravel(), [16, 235])


@pytest.mark.parametrize("channel", ["rgb", "y"])
@pytest.mark.parametrize("border", [0, 4])
def test_scores_agree_with_scikit_image_on_the_cropped_image(pair, channel, border):
    height, width, _ = pair[0].shape
    a, b = (x[border : height - border, border : width - border] for x in pair)
    if channel == "y":
        a, b = (luminance(x) for x in (a, b))
    found = score(*pair)
    assert found[f"psnr_{channel}_crop{border}"] == pytest.approx(
        peak_signal_noise_ratio(b, a, data_range=255), abs=1e-4
    )
    assert found[f"ssim_{channel}_crop{border}"] == pytest.approx(
        structural_similarity(
            a.astype(float),
            b.astype(float),
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        ),
        abs=1e-5,
    )


def test_psnr_is_100_db_if_equal_and_48_db_if_one_level_apart():
    image = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(image, image) == 100
    assert psnr(image, image + 1) == pytest.approx(48.1308, abs=1e-4)


def test_psnr_y_agrees_with_score(pair):
    assert psnr_y(*pair, border=4) == pytest.approx(score(*pair)["psnr_y_crop4"])


def test_scores_of_the_smallest_allowed_image_are_finite(photo):
    small = photo[:MIN_SIDE, :MIN_SIDE]
    assert np.isfinite(list(score(small, small[::-1]).values())).all()
