"""Draws the README's pictures into docs/: python -m benchmarks.pictures.

`before_after.png` shows two photos that were shrunk and blurred, then restored.
`photos.png` shows four photos as they come from a camera or the web, restored by the
weights for any photo and by those for Gaussian blurs; the last one fails. The photos are
in the public domain or CC0, and no included weights were trained on them.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.ndimage
import skimage.data
from absl import flags
from PIL import Image

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.evaluation.baselines.bicubic import bicubic
from eddsrn_jax.evaluation.inputs import Spoiling, cut_to_scale, degrade_photo, spoil
from eddsrn_jax.evaluation.results import before_after
from eddsrn_jax.images import write_image
from eddsrn_jax.restoration.restorer import Restorer

_FOLDER = flags.DEFINE_string("folder", "docs", "Folder for the pictures.")
_SIGMA = 1.5
# Top left corner of each photo's detail, (row, column) in pixels of the whole photo.
_BLURRED = {"astronaut": (8, 100), "chelsea": (40, 84)}
_SIDE = 240


def main() -> None:
    """Draws both pictures."""
    folder = Path(_FOLDER.value)
    write_image(folder / "before_after.png", np.concatenate(list(blurred_rows())))
    write_image(folder / "photos.png", np.concatenate(list(photo_rows())))


def blurred_rows() -> Iterator[np.ndarray]:
    """Yields a row for each blurred photo, with the truth at its end."""
    restorer = Restorer.from_pretrained()
    for name, (top, left) in _BLURRED.items():
        photo = cut_to_scale(getattr(skimage.data, name)())
        _, lr_blur = degrade_photo(photo, _SIGMA, max_sigma=2.0)
        restored = restorer(lr_blur)
        panels = {
            f"blurry input, sigma {_SIGMA:g}": lr_blur,
            "bicubic x4": bicubic(lr_blur).sr,
            "deblurred": restored.deblurred,
            "super-resolved x4": restored.sr,
            "photo": photo,
        }
        yield _row(panels, top / 4, left / 4)


def photo_rows() -> Iterator[np.ndarray]:
    """Yields a row for each photo of `everyday_photos`."""
    networks = {
        name: Restorer.from_pretrained(weights=name) for name in ("gaussian", "photo")
    }
    for caption, image, (top, left) in everyday_photos():
        panels = {caption: image, "bicubic x4": bicubic(image).sr}
        for name, restorer in networks.items():
            panels[f"weights {name}"] = restorer(image).sr
        yield _row(panels, top, left)


def everyday_photos() -> Iterator[tuple[str, np.ndarray, tuple[int, int]]]:
    """Yields a caption, a small photo, and the top left corner of its detail."""

    def halved(name: str) -> np.ndarray:
        photo = Image.fromarray(getattr(skimage.data, name)())
        size = (photo.width // 2, photo.height // 2)
        return np.asarray(photo.resize(size, Image.Resampling.BICUBIC))

    yield "sharp", halved("chelsea"), (24, 66)
    noisy = _filtered(halved("coffee"), lambda x: scipy.ndimage.gaussian_filter(x, 0.7))
    noisy = spoil(noisy, Spoiling(noise=8.0, jpeg=85), seed=0, name="coffee")
    yield "soft, noisy, JPEG 85", noisy, (80, 120)
    compressed = spoil(halved("astronaut"), Spoiling(jpeg=40), seed=0, name="")
    yield "JPEG 40", compressed, (10, 80)
    shaken = _filtered(
        halved("rocket"), lambda x: scipy.ndimage.uniform_filter1d(x, 9, axis=1)
    )
    yield "fails: camera shake", shaken, (150, 125)


def _filtered(image: np.ndarray, apply: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Applies a filter to each channel of a uint8 image, and rounds."""
    channels = [apply(image[:, :, c].astype(np.float32)) for c in range(3)]
    return np.clip(np.stack(channels, axis=2) + 0.5, 0, 255).astype(np.uint8)


def _row(panels: dict[str, np.ndarray], top: float, left: float) -> np.ndarray:
    """Cuts the same detail, given in pixels of the small image, out of every panel."""
    small = next(iter(panels.values()))
    details = {}
    for caption, image in panels.items():
        scale = image.shape[0] // small.shape[0]
        rows, columns = int(scale * top), int(scale * left)
        side = scale * _SIDE // 4
        details[caption] = image[rows : rows + side, columns : columns + side]
    return before_after(details, side=_SIDE)


if __name__ == "__main__":
    run_command(main, flags.FLAGS)
