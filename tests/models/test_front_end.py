"""The fixed bank of inverse filters, alone and in front of every network."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from tiny import SMALL

from configs import eddsrn_photo
from eddsrn_jax.checkpoints.weights import Network, read_network, write_network
from eddsrn_jax.data.sources import open_split
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.baselines.wiener import deblur
from eddsrn_jax.evaluation.inputs import Spoiling, cut_to_scale, degrade_photo, spoil
from eddsrn_jax.evaluation.metrics import psnr_y
from eddsrn_jax.images import read_image
from eddsrn_jax.models import (
    EDDSRN,
    EDSR,
    SCGAN,
    VDSR,
    DeblurCNN,
    HalfSizeEDDSRN,
    LapSRN,
    SRResNet,
    apply,
    init_params,
    make_network,
)
from eddsrn_jax.models.front_end import (
    BANKS,
    find_bank,
    front_end_radius,
    inverse_filter,
    network_input,
)
from eddsrn_jax.restoration.restorer import Restorer
from eddsrn_jax.restoration.tile_network import SEEN_BEYOND

NAME = HalfSizeEDDSRN.front_end
PHOTO = eddsrn_photo.get_config().model.front_end

SMALL_HALF = HalfSizeEDDSRN(
    features=(4, 4, 8), num_pairs=(1, 1, 1, 1, 1), detail_features=4, num_detail_pairs=1
)


@pytest.fixture(scope="module")
def bundled():
    """Returns scikit-image's validation photos; no network here is trained on them."""
    files = open_split("bundled").validation.files()
    return [cut_to_scale(read_image(file.content)) for file in files]


def channels_of(images, dtype="float32"):
    """Returns a network's input, computed by `network_input` as in most networks."""

    class Input(nn.Module):
        @nn.compact
        def __call__(self, images):
            return network_input(images, NAME, dtype)

    return Input().apply({}, images)


@pytest.mark.parametrize("name", BANKS)
def test_a_banks_name_ends_with_the_checksum_of_its_kernels(name):
    assert name.endswith(f"-{find_bank(name).checksum}")


@pytest.mark.parametrize("name", BANKS)
def test_kernels_round_alike_on_every_machine(name):
    """No value is so close to a rounding boundary that its last bits decide."""
    bank = find_bank(name)
    for i, (sigma, noise) in enumerate(bank.filters):
        kernel = 1e4 * inverse_filter(sigma, noise=noise, size=bank.size)
        assert np.abs(kernel - np.floor(kernel) - 0.5).min() > 1e-3
        rounded = kernel - 1e4 * bank.kernels[:, :, i]
        # The middle value compensates for rounding's change of the sum.
        rounded[bank.size // 2, bank.size // 2] = 0
        assert np.abs(rounded).max() < 0.501
        assert bank.kernels[:, :, i].sum() == pytest.approx(1, abs=1e-5)
        assert kernel.sum() == pytest.approx(1e4)
        for symmetric in (kernel[::-1], kernel[:, ::-1], kernel.T):
            np.testing.assert_allclose(kernel, symmetric, atol=1e-4)


def filtered(image, kernel):
    """Filters an image with SciPy and rounds the result to 8 bits."""
    channels = [
        scipy.ndimage.correlate(channel.astype(float), kernel, mode="nearest")
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.rint(np.clip(np.stack(channels, axis=-1), 0, 255)).astype(np.uint8)


def test_bank_filters_deblur_about_as_well_as_the_wiener_filter(bundled):
    """Both filters know the blur; the limits were measured on scikit-image's photos."""
    bank = find_bank(NAME)
    gains = []
    for i, (sigma, _) in enumerate(bank.filters):
        for photo in bundled:
            sharp, blurred = degrade_photo(photo, sigma, max_sigma=2.0)
            scores = [
                psnr_y(image, sharp, border=4)
                for image in (
                    blurred,
                    deblur(blurred, sigma),
                    filtered(blurred, bank.kernels[:, :, i]),
                )
            ]
            gains.append(np.subtract(scores[2], scores[:2]))
    over_blurred, over_wiener = np.mean(gains, axis=0)
    # Measured: gains of 7.32 and -0.16 dB.
    assert over_blurred > 7
    assert over_wiener > -0.3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 40), (61, 22)])
def test_input_channels_are_the_photo_and_each_filters_change(photo, height, width):
    image = photo[:height, :width]
    found = channels_of(image[None] / np.float32(255))
    bank = find_bank(NAME)
    assert found.shape == (1, height, width, 3 * (1 + len(bank.filters)))
    np.testing.assert_allclose(found[0, :, :, :3], (image - 128.0) / 64, atol=1e-5)
    for i, scale in enumerate(bank.scales):
        for channel in range(3):
            levels = image[:, :, channel].astype(float)
            kernel = bank.kernels[:, :, i].astype(float)
            change = scipy.ndimage.correlate(levels, kernel, mode="nearest") - levels
            np.testing.assert_allclose(
                found[0, :, :, 3 * (1 + i) + channel],
                change / scale / (1 + abs(change / scale) / 4),
                atol=1e-3,
            )


def test_8_bit_values_are_exact_in_bfloat16_and_16_bit_ones_distinct():
    levels = np.arange(256).reshape(1, 16, 16, 1)
    found = channels_of(levels / np.float32(255), "bfloat16")
    assert found.dtype == jnp.bfloat16
    exact = 64 * np.asarray(found[..., 0], np.float32) + 128
    np.testing.assert_array_equal(exact, levels[..., 0])
    fine = np.arange(65536, dtype=np.float32).reshape(1, 256, 256, 1) / 65535
    assert len(np.unique(channels_of(fine)[..., 0])) == 65536


def test_filters_that_expect_noise_deblur_noisy_photos(bundled):
    """Measured: gains of 1.5, 2.4 and 2.0 dB.

    Filters for clean photos lose 5 to 11 dB.
    """
    bank = find_bank(PHOTO)
    kernels = dict(zip(bank.filters, np.moveaxis(bank.kernels, -1, 0), strict=True))
    for sigma in (1.0, 2.0, 3.0):
        scores = []
        for photo in bundled:
            sharp, blurred = degrade_photo(photo, sigma, max_sigma=3.0)
            noisy = spoil(blurred, Spoiling(noise=5.0), seed=0, name="a")
            images = [noisy]
            images += [filtered(noisy, kernels[sigma, noise]) for noise in (0.1, 2e-3)]
            scores.append([psnr_y(image, sharp, border=4) for image in images])
        plain, robust, clean = np.mean(scores, axis=0)
        assert robust > plain + 1 and clean < plain - 4


@pytest.mark.parametrize("name", BANKS)
def test_windows_extend_photos_at_least_as_far_as_banks_reach(name):
    assert front_end_radius(name) <= SEEN_BEYOND


def test_network_input_is_unchanged_without_a_front_end():
    image = jnp.zeros((1, 2, 2, 3))
    assert network_input(image, "", "bfloat16") is image


NETWORKS = [
    EDDSRN(**SMALL, front_end=NAME),
    SMALL_HALF,
    SRResNet(features=4, num_blocks=1, front_end=NAME),
    EDSR(features=4, num_blocks=1, front_end=NAME),
    SCGAN(features=4, num_layers=2, front_end=NAME),
    LapSRN(features=4, num_layers=2, front_end=NAME),
    VDSR(features=4, num_layers=4, front_end=NAME),
    DeblurCNN(layers=((5, 4), (1, 4), (3, 3)), front_end=NAME),
]


def params_of(model):
    """Returns a new network's parameters.

    Those of the half-size network are shifted: its heads start at 0, which would hide
    what the network sees.
    """
    params = init_params(model, jax.random.key(0))
    if isinstance(model, HalfSizeEDDSRN):
        params = jax.tree.map(lambda x: x + 0.01, params)
    return params


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            model,
            id=type(model).__name__,
            marks=() if isinstance(model, HalfSizeEDDSRN | VDSR) else pytest.mark.slow,
        )
        for model in NETWORKS
    ],
)
def test_tiled_restoration_equals_the_network_on_the_whole_photo(model, photo):
    """Restores a photo of odd size in one larger window, and in several smaller ones."""
    image = photo[:29, :347].astype(np.float32) / 255
    params = params_of(model)
    expected = jax.jit(partial(apply, model))(params, image[None])
    halo = -(-model.receptive_radius // 8) * 8
    for window in (512, 2 * halo + 8):
        found = Restorer(model, params, largest_window=window)(image)
        for name, result in found.items():
            whole = np.clip(expected[name][0], 0, 1)
            assert np.abs(result - whole).max() < 1e-4


@pytest.mark.parametrize(
    "size", [pytest.param((13, 8), marks=pytest.mark.slow), (24, 41)]
)
def test_a_fitted_window_gives_the_networks_output(photo, size):
    """The window's size is the photo's, rounded up to 8, so convolutions need no mask."""
    image = photo[: size[0], : size[1]].astype(np.float32) / 255
    params = params_of(SMALL_HALF)
    restorer = Restorer(SMALL_HALF, params)
    restorer.prepare(*size)
    expected = jax.jit(partial(apply, SMALL_HALF))(params, image[None])
    for name, result in restorer(image).items():
        assert np.abs(result - np.clip(expected[name][0], 0, 1)).max() < 1e-5


def test_an_export_with_a_front_end_agrees_with_its_network(photo, tmp_path):
    params = init_params(SMALL_HALF, jax.random.key(0))
    Restorer(SMALL_HALF, params).export(tmp_path / "network.jax")
    exported = jax.export.deserialize(bytearray((tmp_path / "network.jax").read_bytes()))
    for height, width in ((64, 48), (8, 80)):
        images = photo[None, :height, :width].astype(np.float32) / 255
        expected = jax.jit(partial(apply, SMALL_HALF))(params, images)
        for name, found in exported.call(images).items():
            np.testing.assert_allclose(found, expected[name], atol=1e-5)


def test_make_network_rejects_unknown_banks():
    with pytest.raises(InputError, match=f"no front end 'gaussian-1-0', only {NAME}"):
        make_network("SRResNet", {"front_end": "gaussian-1-0"})


def test_read_network_restores_the_bank_and_rejects_unknown_ones(tmp_path, monkeypatch):
    path = tmp_path / "mine.safetensors"
    params = init_params(SMALL_HALF, jax.random.key(0))
    write_network(path, Network(SMALL_HALF, params, "mine", 1, (1.0, 2.0)))
    assert read_network(path).model == SMALL_HALF
    monkeypatch.setattr("eddsrn_jax.models.front_end.BANKS", {})
    with pytest.raises(InputError, match=f"mine.safetensors: .* no front end '{NAME}'"):
        read_network(path)
