"""Replaces the colours of fully transparent pixels, which nobody sees.

Photos are [h, w, C] of any dtype; two channels are gray and alpha, four RGB and alpha.
"""

import numpy as np
from scipy import ndimage


def fill_hidden(pixels: np.ndarray) -> np.ndarray:
    """Gives each pixel of alpha 0 the colour of the nearest visible pixel.

    Editors store any colour under alpha 0, often black. A network would mix it with the
    visible pixels nearby.

    Args:
        pixels: photo [h, w, C].

    Returns:
        The photo with new colours under alpha 0 and the same alpha; `pixels` itself if it
        has no alpha, or if no pixel or every pixel is hidden.
    """
    if pixels.shape[2] not in (2, 4):
        return pixels
    hidden = pixels[:, :, -1] == 0
    if hidden.all() or not hidden.any():
        return pixels
    nearest = ndimage.distance_transform_edt(
        hidden, return_distances=False, return_indices=True
    )
    rows, columns = np.asarray(nearest)
    filled = pixels.copy()
    filled[hidden] = pixels[rows[hidden], columns[hidden]]
    filled[:, :, -1] = pixels[:, :, -1]
    return filled
