"""The half-size network: its cost, parts, initial outputs and receptive field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eddsrn_jax.evaluation.inputs import degrade_photo
from eddsrn_jax.models import HalfSizeEDDSRN, abstract_params, init_params
from eddsrn_jax.models.complexity import count_parameters, macs_per_pixel
from eddsrn_jax.models.front_end import FrontEnd, find_bank
from eddsrn_jax.models.half_size import log_energies, mix
from eddsrn_jax.ops.resize import bicubic_upscale

SMALL = {"features": (4, 4, 8), "num_pairs": (1, 1, 1, 1, 1)}


@pytest.fixture(scope="module")
def small():
    model = HalfSizeEDDSRN(**SMALL)
    return model, init_params(model, jax.random.key(0))


def test_half_size_network_has_the_cost_counted_by_hand():
    """Expected values were counted by hand from the widths.

    They are 5.1 M parameters and 0.25 M multiply-accumulates a pixel.
    """
    model = HalfSizeEDDSRN()
    assert count_parameters(abstract_params(model)) == pytest.approx(5.06e6, rel=0.005)
    assert macs_per_pixel(model) == pytest.approx(0.246e6, rel=0.005)


def test_layers_for_details_have_the_cost_counted_by_hand():
    plain = HalfSizeEDDSRN()
    detailed = HalfSizeEDDSRN(detail_features=64, num_detail_pairs=2)
    # Photo, five changes and mix, and the trunk's 64 features at twice their size.
    inputs = 3 + 5 + 3 + 64 // 4
    kernels = 9 * 64 * (inputs + 4 * 64 + 3 * 16 + 3)
    added = macs_per_pixel(detailed) - macs_per_pixel(plain)
    assert added == pytest.approx(kernels)
    parameters = [count_parameters(abstract_params(x)) for x in (plain, detailed)]
    assert parameters[1] - parameters[0] == kernels + 5 * 64 + 3 * 16 + 3


def test_layers_for_details_change_nothing_before_training(small, photo):
    """A trained network that gets these layers starts with its own outputs."""
    model, params = small
    x = photo[None, :32, :40].astype(np.float32) / 255
    detailed = model.clone(detail_features=4, num_detail_pairs=1)
    added = init_params(detailed, jax.random.key(1))
    for name in ("sr", "deblurred"):
        expected = jax.jit(model.apply)({"params": params}, x)[name]
        found = jax.jit(detailed.apply)({"params": added | params}, x)[name]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_untrained_outputs_are_close_to_the_photo(small, photo):
    model, params = small
    x = photo[None, :48, :64].astype(np.float32) / 255
    outputs = jax.jit(model.apply)({"params": params}, x)
    changed = np.abs(outputs["deblurred"] - x)
    assert 0 < changed.mean() < 0.02
    # The heads return 0, and the mix is the same for both outputs.
    enlarged = bicubic_upscale(outputs["deblurred"], 4)
    np.testing.assert_allclose(outputs["sr"], enlarged, atol=1e-5)


def test_mix_is_a_weighted_mean_of_zero_and_every_filters_change():
    changes = np.arange(12.0, dtype=np.float32).reshape(1, 1, 2, 2, 3)
    logits = np.log(np.array([[1, 1, 2], [1e9, 1, 1]], np.float32)).reshape(1, 1, 2, 3)
    found = mix(jnp.asarray(logits), jnp.asarray(changes))
    np.testing.assert_allclose(found[0, 0, 0], np.arange(3) / 4 + (np.arange(3) + 3) / 2)
    np.testing.assert_allclose(found[0, 0, 1], 0, atol=1e-6)


def test_energies_depend_on_blur_and_little_on_contrast(photo):
    """The milder the blur, the more a filter for strong blur changes the photo.

    Its change is compared with that of a filter for mild blur.
    """
    filters = FrontEnd(HalfSizeEDDSRN.front_end)
    differences = {}
    for sigma in (1.0, 1.5, 2.0):
        _, blurred = degrade_photo(photo, sigma, max_sigma=2.0)
        for contrast in (1.0, 0.7):
            image = contrast * blurred[None, :72, :112].astype(np.float32) / 255
            energies = np.asarray(log_energies(filters.apply({}, image)))
            assert energies.shape == (1, 9, 14, 5)
            differences[sigma, contrast] = (energies[..., 4] - energies[..., 0]).mean()
    for contrast in (1.0, 0.7):
        found = [differences[sigma, contrast] for sigma in (1.0, 1.5, 2.0)]
        assert found[0] > found[1] + 0.3 > found[2] + 0.6
    for sigma in (1.0, 1.5, 2.0):
        assert differences[sigma, 1.0] == pytest.approx(differences[sigma, 0.7], abs=0.3)


def test_energies_are_logarithms_of_mean_squares_of_grey_levels():
    changes = np.zeros((1, 8, 16, 1, 3), np.float32)
    changes[:, :, 8:] = 10 / 255
    expected = (np.log([1.0, 101.0]) - 4) / 2
    np.testing.assert_allclose(log_energies(changes)[0, 0, :, 0], expected, rtol=1e-5)


def test_bfloat16_computes_close_to_float32(small, photo):
    model, params = small
    params = jax.tree.map(lambda x: x + 0.01, params)
    x = photo[None, :32, :32].astype(np.float32) / 255
    full, half = (
        jax.jit(model.clone(dtype=dtype).apply)({"params": params}, x)
        for dtype in ("float32", "bfloat16")
    )
    for name, image in half.items():
        assert image.dtype == jnp.float32
        difference = np.abs(image - full[name]).max()
        assert 0 < difference < 0.03


@pytest.mark.parametrize(
    "pairs, detail_features",
    [((1, 1, 1, 1, 1), 0), ((1, 2, 3, 2, 2), 0), ((1, 1, 1, 1, 1), 2)],
)
def test_the_radius_bounds_the_receptive_field(pairs, detail_features):
    """A change of one column changes no output beyond the receptive-field radius.

    The blur estimator sees 24 pixels further than the trunk. Changes that it alone sees
    have too little effect to show in float32.
    """
    detail = {"detail_features": detail_features, "num_detail_pairs": 2}
    model = HalfSizeEDDSRN(features=(4, 2, 2), num_pairs=pairs, **detail)
    params = init_params(model, jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.2, params)
    side = 2 * 8 * (model.receptive_radius // 8 + 3)
    image = np.full((1, 8, side, 3), 0.5, np.float32)
    run = jax.jit(model.apply)
    before = run({"params": params}, image)
    furthest = 0
    for middle in range(side // 2, side // 2 + 8):
        changed = image.copy()
        changed[:, :, middle] = 1.0
        after = run({"params": params}, changed)
        for name, scale in (("sr", 4), ("deblurred", 1)):
            seen = np.abs(after[name] - before[name]).max(axis=(0, 1, 3))
            (seen,) = np.nonzero(seen)
            last, first = seen[-1] // scale // 8 * 8, (seen[0] // scale // 8 + 1) * 8
            furthest = max(furthest, last - middle, middle - first + 1)
    assert model.receptive_radius - 40 <= furthest <= model.receptive_radius
    assert find_bank(model.front_end).size == 13
