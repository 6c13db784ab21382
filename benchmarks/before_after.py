"""Draws the README's picture: python -m benchmarks.before_after [--weights=FILE].

It shows two photos that no network here is trained on: shrunk and blurred, then restored
with the weights.
"""

from pathlib import Path

import numpy as np
from absl import flags

from eddsrn_jax.command_line import run_command
from eddsrn_jax.data.sources import open_split
from eddsrn_jax.evaluation.baselines.bicubic import bicubic
from eddsrn_jax.evaluation.inputs import degrade_photo
from eddsrn_jax.evaluation.results import before_after
from eddsrn_jax.images import read_image, write_image
from eddsrn_jax.restoration.restorer import Restorer

_WEIGHTS = flags.DEFINE_string("weights", None, "The shipped ones by default.")
_OUTPUT = flags.DEFINE_string("output", "docs/before_after.png", "File to write.")
_SIGMA = 1.5
# Top left corner of each photo's detail, (row, column) in pixels.
_DETAILS = {"chelsea.png": (40, 84), "astronaut.png": (8, 100)}
_SIDE = 240


def main() -> None:
    """Restores the bundled validation photos and writes a picture of their details."""
    restorer = Restorer.from_pretrained(weights=_WEIGHTS.value)
    rows = []
    for file in open_split("bundled").validation.files():
        top, left = _DETAILS[Path(file.name).name]
        photo = read_image(file.content, file.place)
        photo = photo[: photo.shape[0] // 4 * 4, : photo.shape[1] // 4 * 4]
        _, lr_blur = degrade_photo(photo, _SIGMA, max_sigma=2.0)
        restored = restorer(lr_blur)
        small = (
            slice(top // 4, (top + _SIDE) // 4),
            slice(left // 4, (left + _SIDE) // 4),
        )
        large = (slice(top, top + _SIDE), slice(left, left + _SIDE))
        panels = {
            f"blurry input, sigma {_SIGMA:g}": lr_blur[small],
            "bicubic x4": bicubic(lr_blur).sr[large],
            "deblurred": restored.deblurred[small],
            "super-resolved x4": restored.sr[large],
            "photograph": photo[large],
        }
        rows.append(before_after(panels, side=_SIDE))
    write_image(Path(_OUTPUT.value), np.concatenate(rows[::-1]))


if __name__ == "__main__":
    run_command(main)
