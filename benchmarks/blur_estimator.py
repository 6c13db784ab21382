"""Fits the constants of the blur estimate (eddsrn_jax.restoration.blur_estimate).

It also measures the current ones.

    python -m benchmarks.blur_estimator [--train=DIR] [--valid=DIR --valid=DIR]

Images are blurred as in the paper: bicubic / 4, a Gaussian, rounding to 8 bits. The fit
uses one crop of each training photo, with sides of 64 to 500 pixels after shrinking, and
blurs of sigma 0 to 3.5 pixels. Its target is 0.5 for any sigma below 0.5, because such a
blur cannot be distinguished from the photo's own.
"""

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.evaluation.inputs import cut_to_scale, degrade_photo
from eddsrn_jax.images import list_images, read_image
from eddsrn_jax.models import SCALE
from eddsrn_jax.restoration.blur_estimate import (
    estimate_sigma,
    log_ratios,
    outside_trained_range,
    quadratic_terms,
)

_TRAIN = flags.DEFINE_string("train", None, "Folder of photos to fit on.")
_VALID = flags.DEFINE_multi_string("valid", [], "Folder of photos to measure on")

TRAINED_RANGE = (1.0, 2.0)
INSIDE = tuple(np.linspace(*TRAINED_RANGE, 11))
BEYOND = (3.0, 3.5, 4.0)
SHARPEST = 0.5


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Returns the image after JPEG compression."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return read_image(file.getvalue(), "JPEG")


def noisy(image: np.ndarray, levels: float, rng: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise, its standard deviation in grey levels; rounds to 8 bits."""
    noise = rng.normal(0, levels, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def spoiled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compresses one image in eight and adds noise to another one in eight.

    The fit must be robust to both.
    """
    draw = rng.uniform()
    if draw < 0.125:
        return jpeg(image, int(rng.integers(80, 98)))
    return noisy(image, rng.uniform(0.3, 2.5), rng) if draw < 0.25 else image


def random_crop(hr: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cuts a random crop whose sides are log-uniform multiples of 4, 256 to 2,000 pixels.

    A side is no longer than the photo's.
    """
    low, high = np.log([64, 500])
    sides = [
        min(SCALE * round(math.exp(rng.uniform(low, high))), size - size % SCALE)
        for size in hr.shape[:2]
    ]
    top, left = (
        rng.integers(n - side + 1) for n, side in zip(hr.shape, sides, strict=False)
    )
    return hr[top : top + sides[0], left : left + sides[1]]


def examples(files: list[Path]) -> Iterator[tuple[np.ndarray, float]]:
    """Yields features and target sigma of training images.

    Images without usable edges are left out.
    """
    for i, file in enumerate(files):
        rng = np.random.default_rng(i)
        hr = random_crop(read_image(file), rng)
        ranges = [(0.3, 1), *[TRAINED_RANGE] * 6, (2, 3.5), (2, 3.5)]
        images = []
        for sigma in (rng.uniform(*bounds) for bounds in ranges):
            lr_sharp, lr_blur = degrade_photo(hr, sigma, max_sigma=max(BEYOND))
            images.append((lr_blur, sigma))
        for image, sigma in [(lr_sharp, 0.0), *images]:
            x = log_ratios(spoiled(image, rng))
            if x is not None:
                yield x, max(sigma, SHARPEST)


def fit(files: list[Path]) -> np.ndarray:
    """Returns the coefficients with the least squared error."""
    x, sigma = (np.array(column) for column in zip(*examples(files), strict=True))
    coefficients, *_ = np.linalg.lstsq(quadratic_terms(x), sigma)
    return coefficients


def measure(
    files: list[Path], spoil: Callable[[np.ndarray], np.ndarray]
) -> dict[str, float]:
    """Measures the estimator's errors and warnings on photos.

    Args:
        files: photos to measure on.
        spoil: change to each image after the blur, such as noise or compression.

    Returns:
        The mean error in pixels, shares of warnings in percent, and the number of images
        without an estimate, by title.
    """
    estimates = {"full": [], "sharp": [], **{s: [] for s in (*INSIDE, *BEYOND)}}
    for file in files:
        hr = read_image(file)
        estimates["full"].append(estimate_sigma(spoil(hr)))
        for sigma in (*INSIDE, *BEYOND):
            lr_sharp, lr_blur = degrade_photo(
                cut_to_scale(hr), sigma, max_sigma=max(BEYOND)
            )
            estimates[sigma].append(estimate_sigma(spoil(lr_blur)))
        estimates["sharp"].append(estimate_sigma(spoil(lr_sharp)))

    def share(keys: tuple, *warnings: str) -> float:
        said = [
            outside_trained_range(e, TRAINED_RANGE) for k in keys for e in estimates[k]
        ]
        return 100 * float(np.mean([s in warnings for s in said]))

    errors = [abs(e - k) for k in INSIDE for e in estimates[k] if e is not None]
    return {
        "mean error, sigma 1..2": float(np.mean(errors)),
        "warned, sigma 1..2": share(INSIDE, "sharper", "blurrier"),
        "warned, sigma 1": share(INSIDE[:1], "sharper", "blurrier"),
        "warned, sigma 2": share(INSIDE[-1:], "sharper", "blurrier"),
        "sharper, LR": share(("sharp",), "sharper"),
        "sharper, full size": share(("full",), "sharper"),
        "blurrier, sigma 3..4": share(BEYOND, "blurrier"),
        "no estimate": float(sum(e is None for v in estimates.values() for e in v)),
    }


def main() -> None:
    """Prints the fitted constants, then a row for each folder and kind of spoiling."""
    if _TRAIN.value:
        coefficients = fit(list_images(_TRAIN.value))
        print(f"_COEFFICIENTS = ({', '.join(f'{c:.3f}' for c in coefficients)})\n")
    kinds = {
        "as is": lambda image: image,
        "JPEG 95": lambda image: jpeg(image, 95),
        "JPEG 85": lambda image: jpeg(image, 85),
        "noise, 2 levels": lambda image: noisy(image, 2.0, np.random.default_rng(0)),
    }
    for i, folder in enumerate(_VALID.value):
        files = list_images(folder)
        for name, spoil in kinds.items():
            row = measure(files, spoil)
            if i == 0 and name == "as is":
                print("| photos | after the blur |", *(f"{key} |" for key in row))
                print("| --- | --- |" + " ---: |" * len(row))
            error, *shares, missing = row.values()
            print(
                f"| {Path(folder).name} ({len(files)}) | {name} | {error:.3f} |",
                *(f"{share:.1f} % |" for share in shares),
                f"{missing:.0f} |",
            )


if __name__ == "__main__":
    run_command(main, flags.FLAGS)
