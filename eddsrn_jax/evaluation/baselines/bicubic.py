"""Bicubic interpolation, and the unchanged input."""

import numpy as np

from eddsrn_jax.models import SCALE
from eddsrn_jax.ops.resize import bicubic_upscale
from eddsrn_jax.restoration.outputs import Restored


def bicubic(lr_blur: np.ndarray) -> Restored:
    """Super-resolves by bicubic interpolation alone: a baseline method."""
    sr = bicubic_upscale(lr_blur[None].astype(np.float32), SCALE)[0]
    return Restored(sr=np.floor(np.clip(sr, 0, 255) + 0.5).astype(np.uint8))


def untouched(lr_blur: np.ndarray) -> Restored:
    """Returns its input as the deblurred image: a baseline method."""
    return Restored(deblurred=lr_blur)
