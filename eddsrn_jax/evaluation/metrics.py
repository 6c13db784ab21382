"""PSNR and SSIM of 8-bit images, in float64 on the host, and LPIPS where installed.

Images are uint8 RGB [H, W, 3]. "border" is the number of pixels that are left out on
each side of the scored image. Channels are "rgb", or "y": unrounded BT.601 luminance in
16..235.
"""

import numpy as np
from skimage.metrics import structural_similarity

from eddsrn_jax.evaluation.perceptual import has_lpips, lpips
from eddsrn_jax.ops.color import LUMINANCE

# Highest PSNR, in dB. It stands for the infinite PSNR of equal images, so that means and
# tables stay finite.
MAX_PSNR = 100.0
CHANNELS = ("rgb", "y")
BORDERS = (0, 4)
_SSIM_RADIUS = 5
# In smaller images no SSIM window fits inside the widest border.
MIN_SIDE = 2 * (max(BORDERS) + _SSIM_RADIUS) + 1


def luminance(image: np.ndarray) -> np.ndarray:
    """Returns BT.601 luminance in 16..235 of uint8 [H, W, 3] as float64 [H, W, 1]."""
    return 16.0 + image.astype(np.float64) @ LUMINANCE[:, None]


def crop_border(image: np.ndarray, border: int) -> np.ndarray:
    """Drops `border` pixels on each side of [H, W, ...]."""
    height, width = image.shape[:2]
    return image[border : height - border, border : width - border]


def psnr(pred: np.ndarray, target: np.ndarray) -> float:
    """Returns the PSNR in dB for a peak of 255; `MAX_PSNR` for equal images."""
    error = np.mean(np.square(pred.astype(np.float64) - target))
    if not error:
        return MAX_PSNR
    # A single grey level of difference in a large photo would exceed the maximum too.
    return min(float(10 * np.log10(255.0**2 / error)), MAX_PSNR)


def ssim_map(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the SSIM around each pixel, [H, W, C] -> [H - 10, W - 10, C].

    The window is a Gaussian of sigma 1.5 (11 x 11) with population covariance. Windows
    that would cross the image's edge are left out.

    Source: Wang et al., "Image Quality Assessment", 2004, through scikit-image.
    """
    # Type checkers do not know that `full` makes it return a pair.
    _, similarity = structural_similarity(  # pyright: ignore[reportAssignmentType, reportGeneralTypeIssues]
        pred.astype(np.float64),
        target.astype(np.float64),
        data_range=255.0,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return crop_border(similarity, _SSIM_RADIUS)


def score(pred: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Returns all scores of an image, with keys like "psnr_y_crop4", and "lpips".

    LPIPS, of the whole image, is left out if its package is not installed.

    Args:
        pred, target: uint8 [H, W, 3], both sides at least MIN_SIDE.
    """
    scores = {}
    for channel in CHANNELS:
        a, b = (luminance(x) if channel == "y" else x for x in (pred, target))
        # No SSIM window crosses an edge, so cropping the map equals cropping the image.
        similarity = ssim_map(a, b)
        for border in BORDERS:
            cropped = (crop_border(x, border) for x in (a, b))
            scores[f"psnr_{channel}_crop{border}"] = psnr(*cropped)
            scores[f"ssim_{channel}_crop{border}"] = float(
                crop_border(similarity, border).mean()
            )
    if has_lpips():
        scores["lpips"] = lpips(pred, target)
    return scores


def psnr_y(pred: np.ndarray, target: np.ndarray, *, border: int) -> float:
    """Returns the PSNR of the luminance in dB, without `border` pixels on each side."""
    a, b = (crop_border(luminance(x), border) for x in (pred, target))
    return psnr(a, b)
