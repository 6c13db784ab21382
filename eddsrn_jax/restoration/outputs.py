"""The outputs of a restoration."""

import dataclasses
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Restored:
    """Results of a restoration method for a photo of [h, w].

    Attributes:
        sr: super-resolved image, [4h, 4w]; None if there is none.
        deblurred: deblurred image, [h, w]; None if there is none.
    """

    sr: Any = None
    deblurred: Any = None

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yields the name and image of each result that exists."""
        for name, image in (("sr", self.sr), ("deblurred", self.deblurred)):
            if image is not None:
                yield name, image
