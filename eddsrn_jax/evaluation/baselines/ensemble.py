"""Self-ensemble: the mean result for eight rotations and reflections of a photo.

Source: Timofte, Rothe, Van Gool, "Seven ways to improve example-based single image super
resolution", CVPR 2016. For networks: Lim et al., "Enhanced Deep Residual Networks for
Single Image Super-Resolution", CVPR Workshops 2017, who call it self-ensemble.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from eddsrn_jax.images.pixels import rounded
from eddsrn_jax.restoration.outputs import Restored


def self_ensemble(
    method: Callable[[np.ndarray], Restored],
) -> Callable[[np.ndarray], Restored]:
    """Returns a method's self-ensemble: usually better, but eight times as slow.

    Args:
        method: maps a photo, float32 [h, w, C] in [0, 1], to float32 results in [0, 1].

    Returns:
        Method that maps uint8 [h, w, C] to uint8 results.
    """

    def restore(image: np.ndarray) -> Restored:
        sums: dict[str, Any] = defaultdict(lambda: np.float32(0))
        pixels = image.astype(np.float32) / 255
        for turns in range(4):
            for mirror in (1, -1):
                restored = method(np.rot90(pixels, turns)[:, ::mirror])
                for name, result in restored.items():
                    sums[name] = sums[name] + np.rot90(result[:, ::mirror], -turns)
        means = {name: rounded(255 / 8 * x, np.uint8) for name, x in sums.items()}
        return Restored(**means)

    return restore
