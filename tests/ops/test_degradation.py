import jax
import numpy as np
import pytest
import scipy.ndimage
from conftest import shared_data

from eddsrn_jax.evaluation.baselines.bicubic import bicubic
from eddsrn_jax.evaluation.inputs import cut_to_scale, degrade_photo
from eddsrn_jax.evaluation.metrics import score
from eddsrn_jax.images import list_images, read_image
from eddsrn_jax.ops.degradation import (
    add_noise,
    augment,
    blur_by_kernel,
    blur_kernel,
    blur_matrix,
    degrade,
    round_to_8_bits,
    training_triple,
)
from eddsrn_jax.ops.resize import downscale_matrix, resample_columns, resample_rows

# Compiled as one program, not operation by operation.
compiled_degrade = jax.jit(degrade, static_argnames=("scale", "max_sigma"))


@pytest.mark.parametrize("sigma", [1.0, 1.3, 2.0])
def test_blur_agrees_with_scipy(sigma):
    x = np.random.default_rng(0).normal(size=(17, 5))
    radius = int(np.ceil(2 * sigma))
    expected = scipy.ndimage.gaussian_filter1d(
        x, sigma, axis=0, mode="nearest", radius=radius
    )
    matrix = np.asarray(blur_matrix(sigma, 17, 17, max_sigma=2.0))
    np.testing.assert_allclose(matrix @ x, expected, atol=1e-6)


def test_augment_makes_each_of_the_eight_symmetries_equally_often():
    square = np.arange(9, dtype=np.uint8).reshape(3, 3, 1)
    keys = jax.random.split(jax.random.key(0), 800)
    found = np.asarray(jax.vmap(augment, in_axes=(0, None))(keys, square))
    views, counts = np.unique(found.reshape(800, 9), axis=0, return_counts=True)
    expected = {
        tuple(np.rot90(flipped, turns).ravel())
        for flipped in (square, square[::-1])
        for turns in range(4)
    }
    assert {tuple(view) for view in views} == expected
    # The expected count is 100, with a standard deviation of 9.4.
    assert counts.min() > 60 and counts.max() < 140


def test_round_to_8_bits_clips_and_rounds_halves_up():
    x = np.array([-0.1, 0.49 / 255, 0.51 / 255, 254.6 / 255, 1.2], np.float32)
    np.testing.assert_allclose(round_to_8_bits(x) * 255, [0, 0, 1, 255, 255], atol=1e-4)


@pytest.mark.parametrize("name", ["baboon", "comic"])
def test_bicubic_agrees_with_matlab(name):
    """Expected values are from MATLAB's imresize.

    Only the interior is compared, because the version of MATLAB that made them replicated
    edges.
    """
    folder = shared_data("matlab_bicubic_x4")
    hr = read_image(folder / f"{name}_hr.png")
    expected = read_image(folder / f"{name}_lr.png")

    def difference(small: np.ndarray) -> np.ndarray:
        levels = np.floor(small * 255.0 + 0.5).clip(0, 255)
        return np.abs(levels - expected)[4:-4, 4:-4]

    plain = difference(np.asarray(compiled_degrade(hr, 1.0, scale=4, max_sigma=2.0)[0]))
    assert plain.max() <= 1
    assert (plain > 0).mean() <= 0.12

    # MATLAB rounds to 8 bits between the two passes; only this test imitates that.
    rows, columns = (downscale_matrix(side, side, 4) for side in hr.shape[:2])
    tall = round_to_8_bits(resample_rows(rows, hr.astype(np.float32) / 255.0))
    rounded = difference(np.asarray(resample_columns(columns, tall)))
    assert rounded.max() <= 1
    assert (rounded > 0).mean() < 0.001


def test_degrade_blurs_the_unrounded_image_and_rounds_the_result(photo):
    hr = photo[:64, :96]
    sharp, blurred = compiled_degrade(hr, 1.5, scale=4, max_sigma=2.0)
    assert sharp.shape == blurred.shape == (16, 24, 3)
    expected = scipy.ndimage.gaussian_filter(
        np.asarray(sharp, np.float64), 1.5, mode="nearest", radius=3, axes=(0, 1)
    )
    # The blur sees the unrounded image; only its result is rounded.
    assert np.abs(np.asarray(sharp) * 255 % 1 - 0.5).min() < 0.1
    np.testing.assert_allclose(blurred, expected, atol=0.5 / 255 + 1e-6)
    levels = np.asarray(blurred) * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)


@pytest.mark.parametrize("sides", [(300, 448), (76, 124), (8, 12)])
def test_degrade_photo_on_a_canvas_equals_degrade(photo, sides):
    hr = photo[: sides[0], : sides[1]]
    found = degrade_photo(hr, 1.3, max_sigma=2.0)
    expected = compiled_degrade(hr, 1.3, scale=4, max_sigma=2.0)
    for image, reference in zip(found, expected, strict=True):
        levels = np.asarray(reference) * 255
        # The tolerance is half a level for rounding, and 0.01 for the order of summation.
        assert np.abs(image - levels).max() < 0.51


def test_training_triple_is_a_function_of_key_and_crop(photo):
    hr = photo[:64, :64]
    make = jax.jit(lambda k: training_triple(k, hr, scale=4, sigma_range=(1.0, 2.0)))
    first, again, other = (make(jax.random.key(seed)) for seed in (3, 3, 4))
    for name in ("hr", "lr_sharp", "lr_blur"):
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])
    # The target is the augmented crop itself, and lr_sharp is made from it.
    hr_levels = np.rint(np.asarray(first["hr"]) * 255).astype(np.uint8)
    assert sorted(hr_levels.ravel()) == sorted(hr.ravel())
    sharp, _ = compiled_degrade(hr_levels, 1.0, scale=4, max_sigma=2.0)
    np.testing.assert_allclose(first["lr_sharp"], sharp, atol=1e-6)


def test_training_sigmas_cover_their_range():
    """The peak of a blurred square shows the sigma: a wider blur lowers it more."""
    hr = np.zeros((64, 64, 3), np.uint8)
    hr[28:36, 28:36] = 255
    keys = jax.random.split(jax.random.key(0), 200)
    triple = lambda k: training_triple(k, hr, scale=4, sigma_range=(1.0, 2.0))  # noqa: E731
    peaks = np.asarray(jax.jit(jax.vmap(triple))(keys)["lr_blur"]).max(axis=(1, 2, 3))
    ends = [
        float(compiled_degrade(hr, sigma, scale=4, max_sigma=2.0)[1].max())
        for sigma in (2.0, 1.0)
    ]
    assert ends[0] <= peaks.min() < ends[0] + 0.02
    assert ends[1] - 0.02 < peaks.max() <= ends[1]


@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.3, 3.0])
def test_a_kernel_of_equal_sigmas_agrees_with_scipy(photo, sigma):
    image = photo[:30, :41].astype(np.float32) / 255
    kernel = blur_kernel((sigma, sigma), 0.7, max_sigma=3.0)
    expected = scipy.ndimage.gaussian_filter(
        image.astype(np.float64),
        max(sigma, 1e-6),
        mode="nearest",
        radius=int(np.ceil(2 * sigma)),
        axes=(0, 1),
    )
    np.testing.assert_allclose(blur_by_kernel(image, kernel), expected, atol=1e-5)


def test_an_anisotropic_kernel_has_its_sigmas_and_its_angle():
    kernel = np.asarray(blur_kernel((2.0, 0.8), np.pi / 6, max_sigma=5.0))
    taps = np.arange(-10, 11)
    x, y = np.meshgrid(taps, taps)
    moments = [[(a * b * kernel).sum() for a in (x, y)] for b in (x, y)]
    variances, directions = np.linalg.eigh(moments)
    # The kernel is cut off at 4 rows and columns, which reduces the larger sigma.
    np.testing.assert_allclose(np.sqrt(variances), [0.8, 1.92], atol=0.02)
    angle = np.arctan2(directions[1, 1], directions[0, 1]) % np.pi
    assert angle == pytest.approx(np.pi / 6, abs=0.02)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("shot", [0.0, 0.6, 1.0])
def test_noise_has_its_variance_at_every_brightness(shot):
    brightness = np.linspace(0, 1, 5, dtype=np.float32)
    image = np.repeat(brightness, 40_000).reshape(5, -1)
    noisy = add_noise(jax.random.key(1), image, 0.04, shot=shot)
    found = np.var(np.asarray(noisy) - image, axis=1)
    expected = 0.04**2 * ((1 - shot) + shot * brightness)
    # The standard error of a variance is 0.7 % of it.
    np.testing.assert_allclose(found, expected, rtol=0.03, atol=1e-9)


def degraded(hr, key, **shares):
    """Returns training images of 64 random degradations by name, in grey levels."""
    keys = jax.random.split(key, 64)
    make = lambda k: training_triple(k, hr, scale=4, sigma_range=(0.0, 3.0), **shares)  # noqa: E731
    triple = jax.jit(jax.vmap(make))(keys)
    assert np.isfinite(triple["lr_blur"]).all()
    levels = 255 * np.asarray(triple["lr_blur"])
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    return {name: 255 * np.asarray(image) for name, image in triple.items()}


def test_each_degradation_changes_its_share_of_inputs_and_no_target(photo):
    hr, key = photo[:128, :128], jax.random.key(5)
    clean = degraded(hr, key)
    for shares in (
        {"noise_share": 0.5, "max_noise": 12.0},
        {"jpeg_share": 0.5, "jpeg_quality": (30, 90)},
        {"anisotropic_share": 0.5},
    ):
        other = degraded(hr, key, **shares)
        for name in ("hr", "lr_sharp"):
            np.testing.assert_array_equal(other[name], clean[name])
        difference = np.abs(other["lr_blur"] - clean["lr_blur"]).mean(axis=(1, 2, 3))
        # The expected count is half of 64, give or take four standard deviations.
        assert 16 <= (difference > 0).sum() <= 48
        assert difference.max() < 12


def test_sharp_share_of_inputs_is_not_blurred(photo):
    found = degraded(photo[:128, :128], jax.random.key(5), sharp_share=0.5)
    difference = np.abs(found["lr_blur"] - found["lr_sharp"]).max(axis=(1, 2, 3))
    # Unblurred inputs differ from the sharp image by the rounding to 8 bits alone. The
    # expected count is half of 64, give or take four standard deviations.
    assert 16 <= (difference <= 0.501).sum() <= 48


def test_noise_levels_range_from_zero_to_max_noise(photo):
    flat = np.full((128, 128, 3), 255, np.uint8) // 2
    images = degraded(flat, jax.random.key(2), noise_share=1.0, max_noise=12.0)
    deviations = images["lr_blur"].std(axis=(1, 2, 3))
    # The mean level is 6. At half brightness, a random share of shot noise lowers the
    # deviation to about 0.87 of the level.
    assert 10 < deviations.max() < 12.5 and deviations.min() < 1.5
    assert deviations.mean() == pytest.approx(6 * 0.87, abs=1.0)


@pytest.mark.slow
def test_bicubic_on_blurred_set14_has_the_reference_scores():
    """Expected values were measured by an independent implementation.

    It found 21.78 dB / 0.530 at border 4, and 21.71 dB / 0.532 at border 0.
    """
    scores = []
    for path in list_images(shared_data("Set14")):
        hr = cut_to_scale(read_image(path))
        for sigma in (1.0, 1.25, 1.5, 1.75, 2.0):
            _, lr_blur = degrade_photo(hr, sigma, max_sigma=2.0)
            scores.append(score(bicubic(lr_blur).sr, hr))
    mean = {name: np.mean([s[name] for s in scores]) for name in scores[0]}
    assert mean["psnr_y_crop4"] == pytest.approx(21.78, abs=0.01)
    assert mean["psnr_y_crop0"] == pytest.approx(21.71, abs=0.01)
    assert mean["ssim_y_crop4"] == pytest.approx(0.530, abs=0.001)
    assert mean["ssim_y_crop0"] == pytest.approx(0.532, abs=0.001)
