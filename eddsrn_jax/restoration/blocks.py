"""The results for a part of a photo: gray, alpha and dtype as in the photo."""

import dataclasses

import numpy as np

from eddsrn_jax.models import SCALE
from eddsrn_jax.restoration.outputs import Restored
from eddsrn_jax.restoration.resizing import enlarged
from eddsrn_jax.restoration.tiles import Tile, cut


@dataclasses.dataclass(frozen=True)
class Block(Restored):
    """The results for one rectangular part of a photo.

    Attributes:
        top, left: position of the part in the photo, in pixels.
        height, width: size of the part in the photo, in pixels.
    """

    top: int = 0
    left: int = 0
    height: int = 0
    width: int = 0


def is_gray(color: np.ndarray) -> bool:
    """Returns whether the three channels of a photo [h, w, 3] are equal."""
    return color.shape[2] == 3 and bool((color[:, :, :1] == color[:, :, 1:]).all())


def gray(image: np.ndarray) -> np.ndarray:
    """Returns the mean of three channels, [h, w, 3] -> [h, w, 1]."""
    if image.dtype.kind == "f":
        return image.mean(axis=2, keepdims=True)
    total = image.sum(axis=2, keepdims=True, dtype=np.uint32)
    return ((total + 1) // 3).astype(image.dtype)


def make_block(
    images: dict[str, np.ndarray], tile: Tile, alpha: np.ndarray | None, dtype: np.dtype
) -> Block:
    """Makes a block of a tile's results.

    Args:
        images: results without alpha, by output.
        tile: part of the photo.
        alpha: alpha of the whole photo, [h, w, 1], or None. It is enlarged bicubically.
        dtype: type of the results.
    """
    (top, bottom), (left, right) = tile.rows, tile.columns
    if alpha is not None:
        # Bicubic interpolation reads two pixels beyond the part on each side.
        around = cut(alpha, top - 2, left - 2, (bottom - top + 4, right - left + 4))
        border = 2 * SCALE
        large = enlarged(around, SCALE)[border:-border, border:-border]
        parts = {"sr": large, "deblurred": around[2:-2, 2:-2]}
        images = {
            name: np.concatenate([image, parts[name]], axis=2)
            for name, image in images.items()
        }
    images = {name: image.astype(dtype, copy=False) for name, image in images.items()}
    size = {"height": bottom - top, "width": right - left}
    return Block(**images, top=top, left=left, **size)
