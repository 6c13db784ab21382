"""Cutting a photograph into overlapping windows of a few sizes.

Sizes and positions are in pixels of the small image, (rows, columns).
"""

import collections
import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Sequence

import numpy as np

from eddsrn_jax.errors import InputError
from eddsrn_jax.models import STRIDE
from eddsrn_jax.resize import mirrored

_log = logging.getLogger(__name__)

Size = tuple[int, int]

# What programs are compiled for whatever comes; one of the largest size that is allowed
# joins them. A pixel costs the same in a window of any size (two CPU cores, float32), so
# that the least waste is the fastest: these cover photographs of a megapixel and less
# with 1.7 times their pixels in the mean, those of DIV2K with 1.15.
_WINDOWS = ((128, 128), (192, 192), (256, 256), (384, 512), (512, 512))
LARGEST_WINDOW = 768
# The other side of windows for photographs that fit into it and are so many times longer
# than a window: rare enough for programs of their own.
_STRIP, _LONG = 64, 8
# The photograph of a size that gets a program of its own. Compiling one takes as long as
# restoring 500,000 pixels (lite, two CPU cores): a folder of a hundred sizes, each seen
# once, is best served by the few programs for all.
_RECURRING = 3
# A program takes some 12 MB.
_MOST_FITTED = 32


@dataclasses.dataclass(frozen=True)
class Tile:
    """What one window contributes.

    Attributes:
        top, left: of the window in the photograph.
        rows, columns: the part of the photograph, [start, stop), that is taken from it.
    """

    top: int
    left: int
    rows: Size
    columns: Size


def window_sizes(size: Size, largest: int = LARGEST_WINDOW) -> tuple[Size, ...]:
    """Sizes of windows for a photograph, up to a largest side, smallest first."""
    height, width = size
    # In square windows they would be nearly all halo.
    if height < _STRIP - 1 and width > _LONG * largest:
        return ((_STRIP, largest),)
    if width < _STRIP - 1 and height > _LONG * largest:
        return ((largest, _STRIP),)
    smaller = [size for size in _WINDOWS if max(size) <= largest and min(size) < largest]
    return (*smaller, (largest, largest))


@functools.lru_cache(1024)
def fitted_window(size: Size, *, halo: int, largest: int = LARGEST_WINDOW) -> Size:
    """The size of windows that cover a photograph with the least pixels in all.

    Args:
        size: of the photograph.
        halo: multiple of STRIDE.
        largest: side of the largest square window, a multiple of STRIDE above two halos.
            Others are no larger in area, and up to 4 / 3 as long.
    """
    sides = range(STRIDE, 4 * largest // 3 + 1, STRIDE)
    rows, columns = (
        [(len(_plan_axis(length, side, halo)) * side or math.inf, side) for side in sides]
        for length in size
    )
    *_, height, width = min(
        (pixels_down * pixels_across, height, width)
        for pixels_down, height in rows
        for pixels_across, width in columns
        if height * width <= largest**2
    )
    return height, width


def plan_tiles(
    size: Size, *, halo: int, windows: Sequence[Size]
) -> tuple[Size, list[Tile]]:
    """Covers a photograph by windows of one size, the one of least pixels in all.

    Windows stay within the photograph where it is larger than they are. What lies less
    than `halo` from a window's side within the photograph is left to its neighbour.

    Args:
        size: of the photograph.
        halo: multiple of STRIDE.
        windows: sizes to choose from, multiples of STRIDE.

    Returns:
        The window's size and the tiles, row by row.

    Raises:
        ValueError: the photograph is larger than all windows, and these are all halo.
    """
    plans = []
    for window in windows:
        axes = [
            _plan_axis(length, side, halo)
            for length, side in zip(size, window, strict=True)
        ]
        if all(axes):
            pixels = len(axes[0]) * len(axes[1]) * window[0] * window[1]
            plans.append((pixels, len(plans), window, axes))
    if not plans:
        raise ValueError(
            f"no window of {windows} is wider than two halos of {halo} pixels"
        )
    *_, window, axes = min(plans)
    tiles = [
        Tile(top, left, rows, columns)
        for (top, rows), (left, columns) in itertools.product(*axes)
    ]
    return window, tiles


def _plan_axis(length: int, side: int, halo: int) -> list[tuple[int, Size]]:
    """Starts of windows along one axis, and what is taken from each."""
    # The network sees a photograph extended to a multiple of its stride. Bicubic
    # interpolation sees two pixels of that, or mirrors where a window ends with it.
    seen = length + 2 if length % STRIDE else length
    last = max(-(-seen // STRIDE) * STRIDE - side, 0)
    if not last:
        return [(0, (0, length))]
    if side <= 2 * halo:
        return []
    starts = [*range(0, last, side - 2 * halo), last]
    # A window ends where its halo begins, and the next one takes over from there.
    stops = [start + side - halo for start in starts[:-1]] + [length]
    return list(zip(starts, itertools.pairwise([0, *stops]), strict=True))


class Planner:
    """Chooses windows, for photographs of sizes that come again better and better.

    Attributes:
        fitted: sizes of windows that only photographs of some sizes are cut into.
    """

    def __init__(self, *, halo: int, largest: int):
        """Begins with the windows that serve all sizes.

        Args:
            halo: of windows, a multiple of STRIDE.
            largest: side of the largest square window, a multiple of STRIDE.

        Raises:
            InputError: the largest window is no such multiple, or all halo.
        """
        if largest < 2 * halo + STRIDE or largest % STRIDE:
            raise InputError(
                f"largest_window={largest}: expected a multiple of {STRIDE} from"
                f" {2 * halo + STRIDE} on: two halos of {halo} pixels, something between"
            )
        self.fitted: set[Size] = set()
        self.largest = largest
        self._halo = halo
        # How many photographs there were of each size.
        self._seen: collections.Counter[Size] = collections.Counter()

    def plan(self, size: Size) -> tuple[Size, list[Tile]]:
        """The window's size, and tiles, for a photograph that is to be restored."""
        self._seen[size] += 1
        if self._seen[size] >= _RECURRING:
            self.fit(size)
        window = self._fitted_window(size)
        windows = [window] if window in self.fitted else window_sizes(size, self.largest)
        return plan_tiles(size, halo=self._halo, windows=windows)

    def fit(self, size: Size) -> None:
        """From now on, a window for this size of photographs, unless there are many."""
        if len(self.fitted) < _MOST_FITTED:
            self.fitted.add(self._fitted_window(size))

    def _fitted_window(self, size: Size) -> Size:
        return fitted_window(size, halo=self._halo, largest=self.largest)

    def shrink(self, window: Size) -> None:
        """Halves the largest window, after one that did not fit the memory.

        Raises:
            InputError: the half would be all halo.
        """
        half = max(window) // 2 // STRIDE * STRIDE
        if half <= 2 * self._halo:
            raise InputError(
                f"out of memory with windows of {window[1]} x {window[0]} pixels already;"
                f" smaller ones are all halo ({self._halo} pixels on each side)"
            )
        self.largest = half
        _log.warning(
            "out of memory with windows of %d x %d pixels, again with %d",
            *(window[1], window[0], half),
        )


def cut(image: np.ndarray, top: int, left: int, size: Size) -> np.ndarray:
    """A part of [h, w, ...] that may reach beyond it, where it is mirrored."""
    for axis, start, length in ((0, top, size[0]), (1, left, size[1])):
        end = image.shape[axis]
        if start >= 0 and start + length <= end:
            image = image[(slice(None),) * axis + (slice(start, start + length),)]
        else:
            image = image.take(mirrored(np.arange(start, start + length), end), axis)
    return image
