"""Results of other sizes than x4, and of other qualities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from samples import smooth
from tiny import TwoOutputs

from eddsrn_jax.images.metadata import Metadata
from eddsrn_jax.images.pictures import read_header, read_picture, write_picture
from eddsrn_jax.images.pixels import rounded
from eddsrn_jax.models import init_params
from eddsrn_jax.ops.resize import bicubic_downscale, bicubic_upscale
from eddsrn_jax.restoration import batch
from eddsrn_jax.restoration.jobs import Limits, Placing
from eddsrn_jax.restoration.resizing import enlarged, reduced
from eddsrn_jax.restoration.restorer import Restorer

MODEL = TwoOutputs()


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_whole_factors_agree_with_the_other_resize(scale, dtype):
    peak = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, peak + 1, (24, 160, 3), dtype)
    expected = bicubic_downscale(jnp.asarray(pixels[None], jnp.float32), scale)[0]
    found = reduced(pixels, 24 // scale, 160 // scale)
    error = np.abs(found - np.asarray(expected).clip(0, peak))
    assert found.dtype == dtype and error.max() <= 0.5 + 2e-6 * peak


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_enlarging_in_bands_gives_the_same_as_at_once(dtype):
    pixels = smooth(3, np.uint16, 150, 31)
    pixels = (
        (pixels / 65535).astype(dtype) if dtype == np.float32 else pixels.astype(dtype)
    )
    for height in (1, 2, 63, 64, 65, 150):
        large = bicubic_upscale(pixels[None, :height].astype(np.float32), 4)[0]
        expected = rounded(large, dtype) if dtype != np.float32 else np.clip(large, 0, 1)
        found = enlarged(pixels[:height], 4)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("height", "width"), [(30, 45), (40, 60), (13, 7), (1, 1)])
def test_flat_images_stay_flat_and_ramps_stay_straight(height, width):
    flat = np.full((40, 60, 2), 77, np.uint8)
    assert (reduced(flat, height, width) == 77).all()
    if width > 40:
        ramp = np.tile(np.arange(60, dtype=np.uint16) * 1000, (40, 1))[:, :, None]
        found = reduced(ramp, height, width)[0, 4:-4, 0]
        expected = ((np.arange(width) + 0.5) * 60 / width - 0.5)[4:-4] * 1000
        # The stretched kernel keeps ramps to a few per cent of their steps.
        np.testing.assert_allclose(found, expected, atol=0.03 * 1000)


def test_enlarging_clips_overshoot_and_keeps_the_range_of_floats():
    edge = np.zeros((4, 8, 1), np.uint16)
    edge[:, 4:] = 65535
    found = enlarged(edge, 4)
    assert found.dtype == np.uint16 and found.shape == (16, 32, 1)
    assert (found[:, :8] == 0).all() and (found[:, 24:] == 65535).all()
    expected = enlarged((edge / 65535).astype(np.float32), 4)
    assert expected.min() == 0 and expected.max() == 1
    np.testing.assert_allclose(found / 65535, expected, atol=0.5001 / 65535)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rounding_clips_and_rounds_halves_up(dtype):
    peak = np.iinfo(dtype).max
    levels = np.array([-1.0, 0.49, 0.5, 1.5, 2.5, peak - 0.5, peak + 9.0])
    assert rounded(levels, dtype).tolist() == [0, 0, 1, 2, 3, peak, peak]


def test_smaller_results_are_reduced_from_x4(tmp_path):
    restorer = Restorer(MODEL, init_params(MODEL, jax.random.key(0)))
    for dtype, channels in ((np.uint8, 3), (np.uint16, 4), (np.uint8, 1)):
        path, pixels = tmp_path / "a.png", smooth(channels, dtype, 12, 16) + 1
        write_picture(path, pixels, Metadata())
        whole = restorer(pixels).sr
        for options, name, size in (
            ({"scale": 2}, "a_x2.png", (24, 32)),
            ({"scale": 3}, "a_x3.png", (36, 48)),
            ({"width": 20}, "a_w20.png", (15, 20)),
        ):
            # The folder's earlier results are never inputs.
            (job,) = batch.restore_files(
                [tmp_path],
                lambda: restorer,
                placing=Placing(("sr",), **options),
                limits=Limits(),
            )
            assert job.status == "restored" and job.targets["sr"].name == name
            found, _ = read_picture(tmp_path / name)
            # Windows of another size change a few values by one.
            expected = reduced(whole, *size).astype(int)
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= (1 if dtype == np.uint8 else 2)
    (job,) = batch.restore_files(
        [tmp_path / "a.png"],
        lambda: restorer,
        placing=Placing(("sr",), width=65),
        limits=Limits(),
    )
    assert job.error == "--width=65 is more than 4 times the photo's width of 16 pixels"


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_a_lower_quality_gives_smaller_files(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    sizes = []
    for quality in (20, 95, 100):
        path = tmp_path / f"a{suffix}"
        write_picture(path, noise, Metadata(), quality=quality)
        sizes.append(path.stat().st_size)
        assert read_header(path).width == 64
    assert sizes == sorted(set(sizes))
    write_picture(tmp_path / f"b{suffix}", Image.fromarray(noise), Metadata())
    assert (tmp_path / f"b{suffix}").stat().st_size == sizes[1]


def test_a_format_need_not_hold_the_result_before_it_is_reduced(tmp_path):
    restorer = Restorer(MODEL, init_params(MODEL, jax.random.key(0)))
    path = tmp_path / "wide.png"
    write_picture(path, np.zeros((1, 4200, 3), np.uint8), Metadata())
    placing = Placing(outputs=("sr",), suffix=".webp", scale=2)
    (job,) = batch.restore_files(
        [path], lambda: restorer, placing=placing, limits=Limits()
    )
    header = read_header(job.targets["sr"])
    assert (job.status, header.height, header.width) == ("restored", 2, 8400)
