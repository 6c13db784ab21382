"""A cascade of two methods: deblurring, then super-resolution."""

import dataclasses
from collections.abc import Callable

import numpy as np

from eddsrn_jax.restoration.outputs import Restored


@dataclasses.dataclass(frozen=True)
class Cascade:
    """A deblurring method followed by a super-resolution method.

    The second method gets the first one's result in 8 bits, as from a file.

    Attributes:
        deblur: method that maps uint8 [h, w, 3] to "deblurred".
        super_resolve: method that maps uint8 [h, w, 3] to "sr".
    """

    deblur: Callable[[np.ndarray], Restored]
    super_resolve: Callable[[np.ndarray], Restored]

    def prepare(self, height: int, width: int) -> None:
        """Compiles programs for photos of this size, if the methods have any."""
        for method in (self.deblur, self.super_resolve):
            if prepare := getattr(method, "prepare", None):
                prepare(height, width)

    def __call__(self, lr_blur: np.ndarray) -> Restored:
        """Restores uint8 [h, w, 3]."""
        deblurred = self.deblur(lr_blur).deblurred
        return Restored(sr=self.super_resolve(deblurred).sr, deblurred=deblurred)
