import itertools
import math

import numpy as np
import pytest

from eddsrn_jax.models import STRIDE
from eddsrn_jax.restoration.tiles import (
    Planner,
    cut,
    fitted_window,
    plan_tiles,
    window_sizes,
)

HALO = 80


@pytest.mark.parametrize("largest", [168, 256, 500, 1024])
def test_window_sizes_are_at_most_seven_and_none_exceeds_the_largest(largest):
    windows = window_sizes((500, 500), largest)
    assert len(windows) <= 7
    assert windows[-1] == (largest, largest)
    assert max(max(size) for size in windows) == largest


@pytest.mark.parametrize(
    "size",
    [
        *[
            (1, 1),
            (1, 65535),
            (65535, 1),
            (61, 3000),
            (62, 3000),
            (3000, 63),
            (64, 3000),
            (7, 129),
            (120, 131),
            (128, 128),
            (129, 200),
        ],
        *[(510, 339), (513, 512), (1023, 1025), (3000, 4000), (2999, 4001)],
    ],
)
@pytest.mark.parametrize("largest", [168, 512, 1024])
def test_tiles_cover_each_pixel_once_and_include_its_halo(size, largest):
    own = fitted_window(size, halo=HALO, largest=largest)
    assert math.prod(own) <= largest**2 and max(own) <= 4 / 3 * largest
    for windows in (window_sizes(size, largest), [own]):
        window, tiles = plan_tiles(size, halo=HALO, windows=windows)
        assert window in windows
        check_cover(size, window, tiles)


def check_cover(size, window, tiles):
    rows = sorted({(tile.top, tile.rows) for tile in tiles})
    columns = sorted({(tile.left, tile.columns) for tile in tiles})
    found = [((tile.top, tile.rows), (tile.left, tile.columns)) for tile in tiles]
    assert found == [(row, column) for row in rows for column in columns]
    for axis, length, side in ((rows, size[0], window[0]), (columns, size[1], window[1])):
        assert axis[0][1][0] == 0 and axis[-1][1][1] == length
        for (_, (_, stop)), (_, (start, _)) in itertools.pairwise(axis):
            assert stop == start
        for first, (start, stop) in axis:
            assert start < stop and first % STRIDE == 0 and first >= 0
            # The halo may end at the photo's edge.
            assert first <= max(start - HALO, 0)
            assert first + side >= min(stop + HALO, length)


def test_plan_tiles_picks_the_window_with_the_fewest_pixels():
    windows = window_sizes((500, 500))
    assert plan_tiles((100, 100), halo=HALO, windows=windows)[0] == (128, 128)
    assert plan_tiles((192, 192), halo=HALO, windows=windows)[0] == (192, 192)
    # Bicubic interpolation of the last pixel needs two more, so 191 exceed 192.
    assert plan_tiles((191, 191), halo=HALO, windows=windows)[0] == (256, 256)
    strip = (1, 65535)
    window, tiles = plan_tiles(strip, halo=HALO, windows=window_sizes(strip))
    assert window == (64, 1152) and len(tiles) == 66
    window, tiles = plan_tiles((340, 510), halo=HALO, windows=windows)
    assert window == (384, 512) and len(tiles) == 1


def test_fitted_window_computes_fewer_pixels_than_fixed_windows():
    assert fitted_window((100, 125), halo=HALO) == (104, 128)
    # Bicubic interpolation of the last pixel needs two more, so 511 exceed 512.
    assert fitted_window((339, 511), halo=HALO) == (344, 520)
    rows, columns = fitted_window((1, 65535), halo=HALO)
    assert rows == 8 and columns > 900
    # Two of these windows suffice; four square ones would be needed.
    assert fitted_window((866, 1155), halo=HALO, largest=768) == (872, 664)
    size = (3000, 4000)
    window, tiles = plan_tiles(size, halo=HALO, windows=[fitted_window(size, halo=HALO)])
    assert len(tiles) * math.prod(window) < 1.3 * math.prod(size)
    _, others = plan_tiles(size, halo=HALO, windows=window_sizes(size))
    assert len(tiles) * math.prod(window) < len(others) * 1152**2


def test_rejects_windows_no_larger_than_two_halos():
    with pytest.raises(ValueError, match="two halos of 80 pixels"):
        plan_tiles((300, 300), halo=HALO, windows=[(160, 160)])


def test_cut_mirrors_pixels_beyond_the_image():
    image = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(cut(image, 0, 1, (2, 2)), [[1, 2], [4, 5]])
    np.testing.assert_array_equal(
        cut(image, 0, 0, (3, 5)), [[0, 1, 2, 2, 1], [3, 4, 5, 5, 4], [3, 4, 5, 5, 4]]
    )
    np.testing.assert_array_equal(cut(image, -1, -2, (2, 3)), [[1, 0, 0], [1, 0, 0]])
    # Mirroring repeats as often as needed. Without it the result is a view.
    assert cut(image, 0, 0, (50, 50)).shape == (50, 50)
    assert cut(image, 0, 1, (2, 2)).base is not None


def test_expected_sizes_get_fitted_windows_if_they_are_few_or_recur():
    few = Planner(halo=HALO, largest=768)
    few.expect([(100, 125), (339, 511)])
    assert few.plan((100, 125))[0] == (104, 128)
    assert few.plan((339, 511))[0] == (344, 520)
    many = Planner(halo=HALO, largest=768)
    many.expect([(100, 125)] * 3 + [(339, 511)] * 2 + [(90, 80)])
    assert many.fitted == {(104, 128)}
    assert many.plan((339, 511))[0] == (384, 512)
    # Programs that all sizes share may exist now, so another run fits no windows.
    many.expect([(90, 80)])
    assert many.fitted == {(104, 128)}


def test_without_fitted_windows_all_sizes_share_theirs():
    planner = Planner(halo=HALO, largest=768, most_fitted=0)
    planner.expect([(339, 511)])
    planner.fit((339, 511))
    assert [planner.plan((339, 511))[0] for _ in range(4)] == 4 * [(384, 512)]
    assert not planner.fitted
