import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from PIL import Image, ImageFilter
from processes import ROOT
from tiny import PLAIN, TwoOutputs

from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.baselines.bicubic import bicubic
from eddsrn_jax.images.pixels import convert
from eddsrn_jax.models import (
    EDDSRN,
    SCGAN,
    VDSR,
    DeblurCNN,
    LapSRN,
    SRResNet,
    apply,
    init_params,
)
from eddsrn_jax.ops.resize import bicubic_upscale
from eddsrn_jax.restoration import restorer as restorer_module
from eddsrn_jax.restoration.restorer import Restorer
from eddsrn_jax.restoration.tile_network import restore_window
from eddsrn_jax.restoration.tiles import plan_tiles


class WideTwoOutputs(TwoOutputs):
    """A network that compiles quickly, restored in windows as large as ED-DSRN's."""

    receptive_radius = 77


MODEL = WideTwoOutputs()


@pytest.fixture(scope="module")
def restorer():
    return Restorer(MODEL, init_params(MODEL, jax.random.key(0)))


@pytest.fixture(scope="module")
def tiled(restorer):
    """Returns a restorer that covers the test photo with several windows."""
    return Restorer(MODEL, restorer._params, largest_window=256)


@pytest.fixture(scope="module")
def whole(restorer):
    """Returns a restorer whose single window holds the whole test photo."""
    restorer = Restorer(MODEL, restorer._params)
    restorer._planner.plan = lambda size: plan_tiles(size, halo=80, windows=[(512, 512)])
    return restorer


def floats(image):
    return image.astype(np.float32) / 255


@pytest.mark.parametrize("size", [(64, 64), (50, 61), (66, 130), (1, 1), (1, 90)])
def test_restorer_returns_rounded_network_outputs(restorer, photo, size):
    height, width = size
    image = photo[:height, :width]
    found = restorer(image)
    assert found.sr.shape == (4 * height, 4 * width, 3)
    assert found.deblurred.shape == image.shape
    outputs = jax.jit(MODEL.apply)({"params": restorer._params}, floats(image)[None])
    for name, levels in found.items():
        assert levels.dtype == np.uint8
        expected = np.asarray(outputs[name][0]).clip(0, 1) * 255
        # Values are rounded, not truncated; sums may differ in their order.
        assert np.abs(levels - expected).max() < 0.5 + 1e-3


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(SRResNet(features=4, num_blocks=1), marks=pytest.mark.slow),
        pytest.param(SCGAN(features=4, num_layers=2), marks=pytest.mark.slow),
        pytest.param(LapSRN(features=4, num_layers=2), marks=pytest.mark.slow),
        VDSR(features=4, num_layers=4),
        DeblurCNN(layers=((5, 4), (1, 4), (3, 3))),
    ],
    ids=lambda model: type(model).__name__,
)
def test_windows_reproduce_whole_photo_outputs_of_other_networks(model, photo):
    """The photo is restored in one larger window, and in several smaller ones."""
    image = floats(photo[:61, :163])
    params = init_params(model, jax.random.key(0))
    expected = apply(model, params, image[None])
    for window in (None, 96):
        found = Restorer(model, params, largest_window=window)(image)
        for name, result in found.items():
            whole = np.clip(expected[name][0], 0, 1)
            assert np.abs(result - whole).max() < 1e-4


@pytest.mark.parametrize(
    "size", [pytest.param((300, 448), marks=pytest.mark.slow), (250, 411)]
)
def test_tiled_result_matches_result_in_a_single_window(whole, tiled, photo, size):
    image = photo[: size[0], : size[1]]
    window, tiles = tiled._planner.plan(size)
    assert max(window) <= 256 and len(tiles) > 2
    seams = {(s, i) for tile in tiles for i, s in enumerate([*tile.rows, *tile.columns])}
    for pixels, tolerance in ((floats(image), 1e-5), (image, 1)):
        parts = tiled(pixels)
        for name, expected in whole(pixels).items():
            scale = 4 if name == "sr" else 1
            found = getattr(parts, name)
            difference = np.abs(found - expected.astype(np.float32))
            assert difference.max() <= tolerance
            if tolerance == 1:
                assert (difference > 0).mean() < 1e-4
                near = np.zeros(difference.shape[:2], bool)
                for position, i in seams:
                    at = slice(max(scale * position - 8, 0), scale * position + 8)
                    near[at if i < 2 else slice(None), slice(None) if i < 2 else at] = (
                        True
                    )
                assert (difference[near] > 0).mean() < 1e-4
    again = tiled(image)
    for name, expected in tiled(image).items():
        np.testing.assert_array_equal(getattr(again, name), expected)


def test_tiled_alpha_is_bicubic_and_gray_is_the_mean_of_rgb(tiled, photo):
    alpha = photo[:, :, 1:2]
    found = tiled(np.concatenate([photo, alpha], axis=2))
    expected = tiled(photo)
    np.testing.assert_array_equal(found.sr[:, :, :3], expected.sr)
    np.testing.assert_array_equal(found.sr[:, :, 3:], bicubic(alpha).sr)
    np.testing.assert_array_equal(found.deblurred[:, :, 3:], alpha)
    gray = tiled(photo[:, :, 1])
    assert gray.sr.shape == (1200, 1792) and gray.deblurred.shape == (300, 448)
    colour = tiled(np.repeat(alpha, 3, axis=2))
    mean = colour.sr.astype(np.float32).mean(axis=2)
    assert np.abs(gray.sr - mean).max() <= 0.5
    both = tiled(np.repeat(alpha, 2, axis=2))
    np.testing.assert_array_equal(both.sr[:, :, 0], gray.sr)


def test_100_photo_sizes_use_only_seven_windows(restorer):
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(20), np.log(3000), (100, 2))).astype(int)
    windows = {restorer._planner.plan((int(h), int(w)))[0] for h, w in sizes}
    assert len(windows) == 7
    before = restore_window._cache_size()
    for height, width in sizes[sizes.max(axis=1) <= 180]:
        restorer(np.zeros((height, width, 3), np.uint8))
    assert restore_window._cache_size() - before <= 2


def test_recurring_or_prepared_sizes_get_a_fitted_window(restorer, photo):
    if jax.default_backend() != "cpu":
        pytest.skip("on GPUs and TPUs all sizes share their windows")
    restorer = Restorer(MODEL, restorer._params)
    results = [restorer(photo[:100, :120]) for _ in range(4)]
    for restored in results[1:]:
        difference = np.abs(restored.sr.astype(int) - results[0].sr)
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-4
    windows = [restorer._planner.plan((190, 300))[0] for _ in range(4)]
    assert windows == [(256, 256), (256, 256), (192, 304), (192, 304)]
    # The fitted window of 104 x 120 is too small for 119 columns, because bicubic
    # interpolation of the last pixel needs two more.
    assert restorer._planner.plan((100, 119))[0] == (128, 128)
    restorer.prepare(70, 119)
    assert restorer._planner.plan((70, 119))[0] == (72, 128)


@pytest.mark.parametrize(
    ("dtype", "levels"),
    [("uint16", 65535), ("float32", 1), ("float64", 1), ("float16", 1)],
)
def test_outputs_keep_the_dtype_and_value_range_of_the_input(
    restorer, photo, dtype, levels
):
    image = photo[:40, :48]
    given = convert(image, 3, np.uint16) if levels > 1 else (image / 255).astype(dtype)
    found = restorer(given)
    for name, expected in restorer(image).items():
        result = getattr(found, name)
        assert result.dtype == dtype
        difference = np.abs(result / levels - expected / 255.0)
        assert difference.max() < 0.51 / 255 + 1e-3 * (dtype == "float16")


def test_16_bit_inputs_keep_16_bit_precision(restorer, photo):
    # The gradient along a row is 1/128 of an 8-bit level per pixel.
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)[:, :, None].repeat(3, axis=2)
    found = restorer(30000 + 2 * ramp, strength=0)
    assert len(np.unique(found.deblurred)) == 4096
    assert len(np.unique(found.sr)) > 8000


def test_strength_blends_with_bicubic(restorer, photo):
    image = floats(photo[:40, :48])
    full, none = restorer(image), restorer(image, strength=0)
    plain = bicubic_upscale(image[None], 4)[0].clip(0, 1)
    np.testing.assert_allclose(none.sr, plain, atol=1e-6)
    np.testing.assert_array_equal(none.deblurred, image)
    outputs = jax.jit(MODEL.apply)({"params": restorer._params}, image[None])
    expected = 0.25 * outputs["deblurred"][0] + 0.75 * image
    found = restorer(image, strength=0.25).deblurred
    np.testing.assert_allclose(found, expected.clip(0, 1), atol=1e-6)
    np.testing.assert_array_equal(restorer(image, strength=1).sr, full.sr)


@pytest.mark.parametrize(
    ("mode", "back"),
    [
        *[("RGB", "RGB"), ("L", "L"), ("LA", "LA"), ("RGBA", "RGBA"), ("I;16", "I;16")],
        *[("1", "L"), ("P", "RGB"), ("CMYK", "RGB")],
    ],
)
def test_pillow_inputs_give_pillow_outputs_of_matching_mode(restorer, photo, mode, back):
    image = Image.fromarray(photo[:40, :48])
    if mode == "I;16":
        gray = convert(photo[:40, :48, :1], 1, np.uint16)
        image = Image.fromarray(gray[:, :, 0])
    found = restorer(image.convert(mode) if mode != "I;16" else image)
    assert found.sr.mode == found.deblurred.mode == back
    assert found.sr.size == (192, 160) and found.deblurred.size == (48, 40)
    if mode == "RGB":
        expected = restorer(photo[:40, :48])
        np.testing.assert_array_equal(np.asarray(found.sr), expected.sr)


def test_pillow_images_are_rotated_by_exif_orientation(restorer, photo):
    image = Image.fromarray(photo[:40, :48])
    image.getexif()[0x0112] = 6
    found = restorer(image)
    assert found.sr.size == (160, 192)
    expected = restorer(np.rot90(photo[:40, :48], -1))
    np.testing.assert_array_equal(np.asarray(found.sr), expected.sr)
    assert found.sr.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 5), np.uint8), r"\[h, w, 1..4\], not \(4, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"not \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), r"not \(4,\)"),
        (np.zeros((4, 4), np.int32), "not int32"),
        (np.full((4, 4), 255.0), r"in \[0, 1\], not 255 to 255"),
        (np.full((4, 4), np.nan), "not nan to nan"),
    ],
)
def test_rejects_arrays_of_wrong_shape_dtype_or_range(restorer, image, message):
    with pytest.raises(ValueError, match=message):
        restorer(image)


def test_rejects_strength_above_one(restorer, photo):
    with pytest.raises(ValueError, match=r"strength=1.5: expected .* \[0, 1\]"):
        restorer(photo, strength=1.5)


def test_threads_can_share_one_restorer(restorer, photo):
    images = [photo[: 40 + 8 * i, : 120 - 8 * i] for i in range(8)]
    expected = [restorer(image).sr for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: restorer(image).sr, images * 3))
    for i, sr in enumerate(found):
        np.testing.assert_array_equal(sr, expected[i % 8])


def test_out_of_memory_halves_the_window(restorer, photo, monkeypatch, caplog):
    smaller = Restorer(MODEL, restorer._params, largest_window=512)
    run, sizes = smaller._run, []

    def small_memory(window, *args, **kwargs):
        sizes.append(window.shape[0])
        if window.shape[0] > 300:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 7 bytes")
        return run(window, *args, **kwargs)

    monkeypatch.setattr(smaller, "_run", small_memory)
    caplog.set_level(logging.WARNING)
    found = smaller(photo)
    assert sizes[0] == 384 and set(sizes[1:]) == {256}
    assert "out of memory with windows of 512 x 384 pixels; retrying with" in caplog.text
    assert np.abs(found.sr - restorer(photo).sr.astype(int)).max() <= 1
    # The next photo does not try the large windows again.
    sizes.clear()
    smaller(photo)
    assert 384 not in sizes


def test_out_of_memory_with_the_smallest_window_is_an_error(restorer, photo, monkeypatch):
    smallest = Restorer(MODEL, restorer._params, largest_window=168)

    def no_memory(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(smallest, "_run", no_memory)
    with pytest.raises(InputError, match="out of memory even with windows of"):
        smallest(photo)


@pytest.mark.parametrize("name", ["photo", "gaussian"])
def test_windows_of_half_size_networks_restore_as_in_the_whole_photo(name, photo):
    whole, tiled = (
        Restorer.from_pretrained(name, largest_window=side) for side in (512, 272)
    )
    assert len(tiled._planner.plan(photo.shape[:2])[1]) == 8
    blurred = np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(1.5)))
    for image in (photo, blurred):
        expected, found = dict(whole(image).items()), dict(tiled(image).items())
        for output, pixels in expected.items():
            difference = np.abs(found[output].astype(int) - pixels)
            assert difference.max() <= 1 and (difference > 0).mean() < 1e-4


def test_network_without_a_deblurring_head_returns_only_sr(photo):
    model = VDSR(**PLAIN)
    found = Restorer(model, init_params(model, jax.random.key(0)))(photo[:20, :20])
    assert found.deblurred is None and found.sr.shape == (80, 80, 3)


@pytest.mark.parametrize("name", ["sr", "deblurred"])
def test_requesting_one_output_returns_only_that_output_unchanged(restorer, photo, name):
    alone = Restorer(MODEL, restorer._params, outputs=[name])(photo)
    assert [key for key, _ in alone.items()] == [name]
    both = dict(restorer(photo).items())
    np.testing.assert_array_equal(getattr(alone, name), both[name])
    with pytest.raises(InputError, match="no output 'sharp', only deblurred, sr"):
        Restorer(MODEL, restorer._params, outputs=["sharp"])


def test_exported_network_matches_the_original(restorer, photo, tmp_path):
    path = tmp_path / "network.jax"
    restorer.export(path)
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    for height, width in ((64, 48), (8, 80)):
        images = np.stack([floats(photo[i : i + height, :width]) for i in range(2)])
        found = exported.call(images)
        expected = jax.jit(MODEL.apply)({"params": restorer._params}, images)
        assert found.keys() == expected.keys()
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    with pytest.raises(InputError, match="cannot be written"):
        restorer.export(tmp_path / "absent" / "network.jax")


def test_rejects_windows_too_small_or_not_a_multiple_of_8(restorer):
    with pytest.raises(
        InputError, match="largest_window=160: expected a multiple of 8, at least 168"
    ):
        Restorer(MODEL, restorer._params, largest_window=160)
    with pytest.raises(InputError, match="largest_window=201"):
        Restorer(MODEL, restorer._params, largest_window=201)


def test_default_window_grows_with_device_memory(restorer, monkeypatch):
    for gigabytes, side in ((0.001, 168), (64, 1152)):
        monkeypatch.setattr(
            restorer_module, "device_memory", lambda _, g=gigabytes: int(g * 1e9)
        )
        assert Restorer(MODEL, restorer._params)._planner.largest == side
    paper = EDDSRN()
    monkeypatch.setattr(restorer_module, "device_memory", lambda _: int(4e9))
    assert 256 < Restorer(paper, {})._planner.largest < 512


def test_restoring_imports_no_tensorflow_orbax_or_optax():
    code = """
import sys, numpy as np
from eddsrn_jax import Restorer
Restorer.from_pretrained()(np.zeros((8, 8, 3), np.uint8))
sys.exit(any(name in sys.modules for name in ("tensorflow", "orbax", "optax")))
"""
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True, cwd=ROOT)
