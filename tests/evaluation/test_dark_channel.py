import numpy as np
import pytest
from scipy.ndimage import convolve, gaussian_filter

from eddsrn_jax.evaluation.baselines.dark_channel import (
    DarkChannel,
    dark_channel,
    deblur,
    deconvolve,
    estimate_kernel,
)
from eddsrn_jax.evaluation.inputs import degrade_photo
from eddsrn_jax.evaluation.metrics import psnr_y

MOTION = np.eye(7) / 7


@pytest.fixture(scope="module")
def drawing() -> np.ndarray:
    """Draws rectangles on light gray; about half of them are black."""
    rng = np.random.default_rng(0)
    image = np.full((96, 96, 3), 200, np.uint8)
    for _ in range(60):
        (top, left), (height, width) = rng.integers(0, 88, 2), rng.integers(3, 20, 2)
        color = rng.integers(0, 256, 3) if rng.random() < 0.5 else 0
        image[top : top + height, left : left + width] = color
    return image


def rounded(image):
    return np.floor(image + 0.5).astype(np.uint8)


def blurred(image, sigma):
    """Blurs with SciPy, in the way that the protocol blurs."""
    radius = int(np.ceil(2 * sigma))
    pixels = image.astype(float)
    return rounded(
        gaussian_filter(pixels, (sigma, sigma, 0), radius=radius, mode="nearest")
    )


def moved(image):
    kernel = MOTION[:, :, None]
    return rounded(convolve(image.astype(float), kernel, mode="nearest"))


def padded(kernel, size=11):
    return np.pad(kernel, (size - len(kernel)) // 2)


def gaussian(sigma):
    """Returns the kernel of a Gaussian blur, [11, 11]."""
    point = np.zeros((11, 11))
    point[5, 5] = 1
    return gaussian_filter(point, sigma, radius=int(np.ceil(2 * sigma)), mode="constant")


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def width(kernel):
    """Returns a kernel's standard deviation, averaged over both axes."""
    taps = np.arange(len(kernel)) - len(kernel) // 2
    sums = [kernel.sum(axis=axis) for axis in (0, 1)]
    return np.mean([np.sqrt(taps**2 @ x - (taps @ x) ** 2) for x in sums])


def test_dark_channel_is_the_minimum_around_each_pixel():
    image = np.array([[5, 4, 9, 9], [3, 8, 9, 7], [9, 9, 9, 6]])
    values, positions = dark_channel(image, 3)
    # The expected values were found by hand.
    expected = [[3, 3, 4, 7], [3, 3, 4, 6], [3, 3, 6, 6]]
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(image.ravel()[positions], expected)


# Measured: relative errors of 0.04, 0.15 and 0.17; gains of 14.4, 4.0 and 2.8 dB. Wide
# kernels have larger errors because they come out 10 % too narrow here.
@pytest.mark.parametrize(
    "sigma, error, gain", [(1.0, 0.08, 12.0), (1.5, 0.2, 3.5), (2.0, 0.22, 2.3)]
)
def test_estimates_and_removes_a_gaussian_blur(drawing, sigma, error, gain):
    before = blurred(drawing, sigma)
    truth = gaussian(sigma)
    kernel = estimate_kernel(before)
    assert kernel.sum() == pytest.approx(1) and kernel.min() >= 0
    assert np.linalg.norm(kernel - truth) < error * np.linalg.norm(truth)
    after = deconvolve(before, kernel)
    assert psnr_y(after, drawing, border=4) > psnr_y(before, drawing, border=4) + gain


# Measured: gains of 3.9, 4.5 and 3.4 dB.
@pytest.mark.parametrize(
    "sigma, gain",
    [
        pytest.param(1.0, 3.0, marks=pytest.mark.slow),
        (1.5, 3.5),
        pytest.param(2.0, 2.5, marks=pytest.mark.slow),
    ],
)
def test_deblurs_a_photo(photo, sigma, gain):
    lr_sharp, lr_blur = degrade_photo(photo, sigma, max_sigma=2.0)
    restored = DarkChannel()(lr_blur)
    assert restored.sr is None and restored.deblurred.dtype == np.uint8
    before, after = (
        psnr_y(image, lr_sharp, border=4) for image in (lr_blur, restored.deblurred)
    )
    assert after > before + gain
    np.testing.assert_array_equal(restored.deblurred, deblur(lr_blur))


def test_distinguishes_motion_from_gaussian_blur(drawing):
    # The default gradient_weight is for photos, in which edges count for less.
    found = estimate_kernel(moved(drawing), gradient_weight=2e-2)
    # Measured: correlations of 0.86 and 0.44.
    assert correlation(found, padded(MOTION)) > 0.75
    assert correlation(found, gaussian(1.5)) < 0.6


# Measured: widths of 0.68 with the prior and 1.18 without. Neither kernel is a single
# pixel: levels are smoothed when they are made, and the last one inherits a wide kernel.
def test_the_prior_narrows_the_kernel_of_a_sharp_image(drawing):
    narrow, wide = (width(estimate_kernel(drawing, dark_weight=w)) for w in (8e-3, 0.0))
    assert narrow < 0.8 and wide > 1.0


def test_deconvolve_removes_known_motion_despite_a_shifted_kernel(drawing):
    before = moved(drawing)
    after = deconvolve(before, padded(MOTION), smoothness=1e-3)
    # Measured: a gain of 6.5 dB.
    assert psnr_y(after, drawing, border=4) > psnr_y(before, drawing, border=4) + 5
    shifted = np.roll(padded(MOTION), (1, -1), axis=(0, 1))
    off = deconvolve(before, shifted, smoothness=1e-3)
    assert np.abs(off.astype(int) - after).max() <= 1
    np.testing.assert_array_equal(deconvolve(drawing, padded(np.ones((1, 1)))), drawing)


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 1), (9, 57, 3), (33, 21, 3)])
def test_deblurs_images_of_any_size(drawing, shape):
    height, width, channels = shape
    image = blurred(drawing, 1.0)[20 : 20 + height, 20 : 20 + width, :channels]
    kernel = estimate_kernel(image)
    assert kernel.shape == (11, 11) and kernel.sum() == pytest.approx(1)
    assert deblur(image).shape == shape


@pytest.mark.parametrize("value", [0, 77, 255])
def test_leaves_a_constant_image_unchanged(value):
    image = np.full((24, 31, 3), value, np.uint8)
    np.testing.assert_array_equal(estimate_kernel(image), padded(np.ones((1, 1))))
    np.testing.assert_array_equal(deblur(image), image)


def test_deblurs_three_equal_channels_like_a_gray_image(drawing):
    gray = blurred(drawing, 1.0)[:40, :48, :1]
    restored = deblur(np.repeat(gray, 3, axis=2))
    np.testing.assert_array_equal(restored, np.repeat(deblur(gray), 3, axis=2))


def test_rejects_an_even_kernel_size():
    with pytest.raises(ValueError, match="kernel_size=10: expected an odd number"):
        estimate_kernel(np.zeros((8, 8, 3), np.uint8), kernel_size=10)
