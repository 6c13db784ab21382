"""A cascade of two methods: deblurring, then super-resolution."""

import dataclasses
from collections.abc import Callable

import numpy as np

from eddsrn_jax.errors import InputError
from eddsrn_jax.restoration.outputs import Restored


@dataclasses.dataclass(frozen=True)
class Cascade:
    """A deblurring method followed by a super-resolution method.

    The second method gets the first one's result in 8 bits, as from a file.

    Attributes:
        deblur: method that maps uint8 [h, w, 3], and sigma if it takes that, to
            "deblurred".
        super_resolve: method that maps uint8 [h, w, 3] to "sr".
    """

    deblur: Callable[..., Restored]
    super_resolve: Callable[[np.ndarray], Restored]

    @property
    def takes_sigma(self) -> bool:
        """Whether the first method must be told sigma."""
        return getattr(self.deblur, "takes_sigma", False)

    def prepare(self, height: int, width: int) -> None:
        """Compiles programs for photos of this size, if the methods have any."""
        for method in (self.deblur, self.super_resolve):
            if prepare := getattr(method, "prepare", None):
                prepare(height, width)

    def __call__(self, lr_blur: np.ndarray, *told: float) -> Restored:
        """Restores uint8 [h, w, 3]; sigma follows if the first method takes it.

        Raises:
            InputError: the first method does not deblur, or the second does not enlarge.
        """
        deblurred = self.deblur(lr_blur, *told).deblurred
        if deblurred is None:
            raise InputError("the first method of a cascade must deblur")
        sr = self.super_resolve(deblurred).sr
        if sr is None:
            raise InputError("the second method of a cascade must super-resolve")
        return Restored(sr=sr, deblurred=deblurred)
