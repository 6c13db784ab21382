"""Bicubic interpolation, and the unchanged input."""

import numpy as np

from eddsrn_jax.models import SCALE
from eddsrn_jax.restoration.outputs import Restored
from eddsrn_jax.restoration.resizing import enlarged


def bicubic(lr_blur: np.ndarray) -> Restored:
    """Super-resolves by bicubic interpolation alone: a baseline method."""
    return Restored(sr=enlarged(lr_blur, SCALE))


def untouched(lr_blur: np.ndarray) -> Restored:
    """Returns its input as the deblurred image: a baseline method."""
    return Restored(deblurred=lr_blur)
