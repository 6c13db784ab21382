"""Cuts a photo into overlapping windows of a few sizes.

A window's halo is the border whose results are discarded, because the network lacks the
pixels beyond it. Sizes and positions are in pixels of the photo, (rows, columns).
"""

import collections
import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Iterable, Sequence

import numpy as np

from eddsrn_jax.errors import InputError, UsageError
from eddsrn_jax.models import STRIDE
from eddsrn_jax.ops.resize import mirrored

_log = logging.getLogger(__name__)

Size = tuple[int, int]

# Window sizes that photos of all sizes share; the largest size that is allowed joins
# them. A pixel costs the same in a window of any size (two CPU cores, float32), so the
# size with the least waste is the fastest. With a halo of 80 pixels, these windows cover
# photos of at most a megapixel with 1.9 times their pixels on average, and those of
# DIV2K's size with 1.6 times. A window fitted to 4000 x 3000 pixels covers them with 1.25
# times their pixels; were 768 the largest side, it would be 1.46 times.
_WINDOWS = ((128, 128), (192, 192), (256, 256), (384, 512), (512, 512), (768, 768))
LARGEST_WINDOW = 1152
# Windows for long, narrow photos have a short side of _STRIP. They serve photos that fit
# into it and are more than _LONG times as long as a window, which are rare enough to get
# programs of their own.
_STRIP, _LONG = 64, 4
# The third photo of a size triggers the compilation of a program for that size.
# Compiling takes as long as restoring 500,000 pixels (lite, two CPU cores), so the shared
# programs are the fastest for a folder of a hundred sizes that occur once each.
_RECURRING = 3
# In a run of at most this many sizes, every size gets a program of its own at once.
_FEW_SIZES = 2
# The number of such programs is limited, as each takes some 12 MB.
MOST_FITTED = 32


@dataclasses.dataclass(frozen=True)
class Tile:
    """A window's position, and the part of the photo that it restores.

    Attributes:
        top, left: position of the window in the photo.
        rows, columns: part of the photo that is taken from the window, [start, stop).
    """

    top: int
    left: int
    rows: Size
    columns: Size


def window_sizes(size: Size, largest: int = LARGEST_WINDOW) -> tuple[Size, ...]:
    """Returns the shared window sizes for a photo up to a side, smallest first."""
    height, width = size
    # Square windows would hold few pixels of a long, narrow photo.
    if height < _STRIP - 1 and width > _LONG * largest:
        return ((_STRIP, largest),)
    if width < _STRIP - 1 and height > _LONG * largest:
        return ((largest, _STRIP),)
    smaller = [size for size in _WINDOWS if max(size) <= largest and min(size) < largest]
    return (*smaller, (largest, largest))


@functools.lru_cache(1024)
def fitted_window(size: Size, *, halo: int, largest: int = LARGEST_WINDOW) -> Size:
    """Returns the window size that covers a photo with the fewest pixels in total.

    Args:
        size: size of the photo.
        halo: width of a window's halo, a multiple of STRIDE.
        largest: side of the largest square window, a multiple of STRIDE above two halos.
            Other windows are no larger in area and at most 4 / 3 as long.
    """
    rows, columns = (
        [
            (_count(length, side, halo) * side, side)
            # A longer window than the photo, with its extension, would be a waste.
            for side in range(
                STRIDE, min(4 * largest // 3, length + 2 * STRIDE) + 1, STRIDE
            )
        ]
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
    """Covers a photo with windows of the one size that needs the fewest pixels in total.

    A window that is longer than the photo begins at its edge. Others end at most
    STRIDE + 1 pixels beyond the photo. Pixels closer than `halo` to a window's side
    inside the photo are taken from the neighbouring window.

    Args:
        size: size of the photo.
        halo: width of a window's halo, a multiple of STRIDE.
        windows: sizes to choose from, multiples of STRIDE.

    Returns:
        The window's size and the tiles, row by row.

    Raises:
        ValueError: no window covers the photo, and none is wider than two halos.
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
    """Returns the start of each window along one axis and the range taken from it.

    The list is empty if several windows are needed and they are no wider than two halos.
    """
    last = _last_start(length, side)
    if not last:
        return [(0, (0, length))]
    if side <= 2 * halo:
        return []
    starts = [*range(0, last, side - 2 * halo), last]
    # The range taken from a window ends at its halo, and the next range begins there.
    stops = [start + side - halo for start in starts[:-1]] + [length]
    return list(zip(starts, itertools.pairwise([0, *stops]), strict=True))


def _last_start(length: int, side: int) -> int:
    """Returns where the last window along an axis starts."""
    # The network sees a photo extended to a multiple of its stride. Bicubic interpolation
    # reads two pixels of that extension, or mirrors if the window ends with the photo.
    seen = length + 2 if length % STRIDE else length
    return max(-(-seen // STRIDE) * STRIDE - side, 0)


def _count(length: int, side: int, halo: int) -> float:
    """Returns the number of windows that `_plan_axis` plans; infinity if it cannot."""
    last = _last_start(length, side)
    if last and side <= 2 * halo:
        return math.inf
    return 1 + (-(-last // (side - 2 * halo)) if last else 0)


class Planner:
    """Chooses windows for photos: shared sizes at first, fitted ones for frequent sizes.

    Attributes:
        fitted: window sizes that were fitted to particular sizes of photos.
        largest: side of the largest square window.
    """

    def __init__(self, *, halo: int, largest: int, most_fitted: int = MOST_FITTED):
        """Starts with the windows that photos of all sizes share.

        Args:
            halo: width of a window's halo in pixels, a multiple of STRIDE.
            largest: side of the largest square window in pixels, a multiple of STRIDE.
            most_fitted: highest number of fitted windows.

        Raises:
            UsageError: `largest` is not a multiple of STRIDE, or is below
                2 * halo + STRIDE.
        """
        if largest < 2 * halo + STRIDE or largest % STRIDE:
            raise UsageError(
                f"largest_window={largest}: expected a multiple of {STRIDE}, at least"
                f" {2 * halo + STRIDE} (two halos of {halo} pixels and a part between)"
            )
        self.fitted: set[Size] = set()
        self.largest = largest
        self._halo, self._most_fitted = halo, most_fitted
        # Number of photos of each size so far.
        self._seen: collections.Counter[Size] = collections.Counter()

    def plan(self, size: Size) -> tuple[Size, list[Tile]]:
        """Returns the window size and tiles for the next photo, and counts its size."""
        self._seen[size] += 1
        if self._seen[size] >= _RECURRING:
            self.fit(size)
        window = self._fitted_window(size)
        windows = [window] if window in self.fitted else window_sizes(size, self.largest)
        return plan_tiles(size, halo=self._halo, windows=windows)

    def expect(self, sizes: Iterable[Size]) -> None:
        """Fits windows in advance to the sizes of the photos to come, where that pays.

        It does nothing after the first photo, as shared programs may be compiled then.
        """
        if self._seen:
            return
        counts = collections.Counter(sizes)
        for size, count in counts.items():
            if count >= _RECURRING or len(counts) <= _FEW_SIZES:
                self.fit(size)

    def fit(self, size: Size) -> None:
        """Fits a window to a size of photos, unless there are `most_fitted` already."""
        if len(self.fitted) < self._most_fitted:
            self.fitted.add(self._fitted_window(size))

    def _fitted_window(self, size: Size) -> Size:
        return fitted_window(size, halo=self._halo, largest=self.largest)

    def shrink(self, window: Size) -> None:
        """Sets the largest side to half that of a window that did not fit the memory.

        Raises:
            InputError: the half would not be wider than two halos.
        """
        half = max(window) // 2 // STRIDE * STRIDE
        if half <= 2 * self._halo:
            raise InputError(
                f"out of memory even with windows of {window[1]} x {window[0]} pixels;"
                f" smaller ones would have no pixels between their halos of {self._halo}"
            )
        self.largest = half
        _log.warning(
            "out of memory with windows of %d x %d pixels; retrying with %d",
            window[1],
            window[0],
            half,
        )


def cut(image: np.ndarray, top: int, left: int, size: Size) -> np.ndarray:
    """Cuts a part out of an image [h, w, ...], which is mirrored beyond its edges."""
    for axis, start, length in ((0, top, size[0]), (1, left, size[1])):
        end = image.shape[axis]
        if start >= 0 and start + length <= end:
            image = image[(slice(None),) * axis + (slice(start, start + length),)]
        else:
            image = image.take(mirrored(np.arange(start, start + length), end), axis)
    return image
