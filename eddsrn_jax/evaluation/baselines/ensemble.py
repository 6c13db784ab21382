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


class SelfEnsemble:
    """A method's self-ensemble: usually better, but eight times as slow."""

    def __init__(self, method: Callable[[np.ndarray], Restored]):
        """Sets the method.

        Args:
            method: maps a photo, float32 [h, w, C] in [0, 1], to float32 results in
                [0, 1]. It may have a method `prepare`, as Restorer has.
        """
        self._method = method
        self._prepared: set[tuple[int, int]] = set()

    def prepare(self, height: int, width: int) -> None:
        """Compiles the method's programs for a size, upright and on its side.

        The method's own preparation fits its windows to both, but its programs are for
        8-bit photos; a first call compiles those for floating-point ones.
        """
        if (height, width) in self._prepared:
            return
        if prepare := getattr(self._method, "prepare", None):
            prepare(height, width)
            prepare(width, height)
        self(np.zeros((height, width, 3), np.uint8))
        self._prepared |= {(height, width), (width, height)}

    def __call__(self, image: np.ndarray) -> Restored:
        """Returns the mean of eight results, uint8, for a photo, uint8 [h, w, C]."""
        sums: dict[str, Any] = defaultdict(lambda: np.float32(0))
        pixels = image.astype(np.float32) / 255
        for turns in range(4):
            for mirror in (1, -1):
                restored = self._method(np.rot90(pixels, turns)[:, ::mirror])
                for name, result in restored.items():
                    sums[name] = sums[name] + np.rot90(result[:, ::mirror], -turns)
        means = {name: rounded(255 / 8 * x, np.uint8) for name, x in sums.items()}
        return Restored(**means)
