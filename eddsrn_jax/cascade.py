"""Two methods one after the other: deblurring, then super-resolution."""

import dataclasses
from collections.abc import Callable

import numpy as np

from eddsrn_jax.restoration import Restored


@dataclasses.dataclass(frozen=True)
class Cascade:
    """Any method with "deblurred", and on that, of 8 bits as in a file, any with "sr".

    Attributes:
        deblur: maps uint8 [h, w, 3] to "deblurred".
        super_resolve: maps uint8 [h, w, 3] to "sr".
    """

    deblur: Callable[[np.ndarray], Restored]
    super_resolve: Callable[[np.ndarray], Restored]

    def prepare(self, height: int, width: int) -> None:
        """Compiles for photographs of this size, where its methods do."""
        for method in (self.deblur, self.super_resolve):
            if prepare := getattr(method, "prepare", None):
                prepare(height, width)

    def __call__(self, lr_blur: np.ndarray) -> Restored:
        """Restores uint8 [h, w, 3]."""
        deblurred = self.deblur(lr_blur).deblurred
        return Restored(sr=self.super_resolve(deblurred).sr, deblurred=deblurred)
