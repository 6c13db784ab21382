import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SMALL

from eddsrn_jax.models import (
    EDDSRN,
    EDSR,
    VDSR,
    DeblurCNN,
    HalfSizeEDDSRN,
    LapSRN,
    SRResNet,
    abstract_params,
    apply,
    init_params,
    join_params,
    split_params,
)
from eddsrn_jax.models.complexity import count_parameters, macs_per_pixel
from eddsrn_jax.models.layers import (
    max_pool_2x2,
    pad_to_multiple,
    scaled_normal,
)
from eddsrn_jax.ops.resize import bicubic_upscale


@pytest.fixture(scope="module")
def small():
    model = EDDSRN(**SMALL)
    return model, init_params(model, jax.random.key(0))


def test_eddsrn_parameters_and_macs_match_hand_counts():
    """24.4 M parameters and 2.67 M MACs per LR pixel were counted by hand from widths."""
    model = EDDSRN()
    assert count_parameters(abstract_params(model)) == pytest.approx(24.4e6, rel=0.005)
    assert macs_per_pixel(model) == pytest.approx(2.67e6, rel=0.005)


def test_eddsrn_parameter_names_are_stable():
    params = abstract_params(EDDSRN())
    names = {
        "trunk": {
            "stem",
            *(f"{kind}{i}" for kind in ("skip", "widen", "up") for i in (1, 2, 3)),
        }
        | {"encoder_block1", "encoder_block2", "encoder_block3"}
        | {"decoder_block2", "decoder_block3"},
        "sr_head": {"flat0", "flat1", "flat2", "up0", "up1", "flat3", "rgb"},
        "deblur_head": {"flat0", "flat1", "rgb"},
    }
    assert {name: set(tree) for name, tree in params.items()} == names
    assert params["trunk"]["stem"]["kernel"].shape == (7, 7, 3, 64)


@pytest.mark.parametrize("height, width", [(1, 9), (13, 22)])
@pytest.mark.parametrize(
    "model",
    [
        EDDSRN(**SMALL),
        HalfSizeEDDSRN(features=(4, 4, 8), num_pairs=(1, 1, 1, 1, 1)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_returns_finite_x1_and_x4_outputs_for_any_input_size(model, height, width):
    params = init_params(model, jax.random.key(0))
    x = np.random.default_rng(0).random((2, height, width, 3), np.float32)
    outputs = jax.jit(model.apply)({"params": params}, x)
    assert outputs["sr"].shape == (2, 4 * height, 4 * width, 3)
    assert outputs["deblurred"].shape == x.shape
    assert all(np.isfinite(image).all() for image in outputs.values())


def test_initial_sr_is_near_bicubic_and_zero_weights_leave_only_skips(small):
    model, params = small
    x = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    outputs = jax.jit(model.apply)({"params": params}, x)
    assert np.abs(outputs["sr"] - bicubic_upscale(x, 4)).mean() < 0.2
    zeros = jax.tree.map(jnp.zeros_like, params)
    outputs = jax.jit(model.apply)({"params": zeros}, x)
    np.testing.assert_allclose(outputs["sr"], bicubic_upscale(x, 4), atol=1e-6)
    np.testing.assert_array_equal(outputs["deblurred"], x)


def test_sr_output_does_not_depend_on_the_deblurring_head(small):
    model, params = small
    x = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    changed = jax.tree.map(lambda p: p, params)
    changed["deblur_head"] = jax.tree.map(lambda p: p + 1.0, params["deblur_head"])
    run = jax.jit(model.apply)
    before, after = (run({"params": p}, x) for p in (params, changed))
    np.testing.assert_array_equal(before["sr"], after["sr"])
    assert np.abs(before["deblurred"] - after["deblurred"]).max() > 0.1


def test_edsrn_is_eddsrn_without_its_deblurring_head(small):
    model, params = small
    alone = EDDSRN(**SMALL | {"deblur_features": 0})
    own = {name: tree for name, tree in params.items() if name != "deblur_head"}
    assert jax.tree.structure(abstract_params(alone)) == jax.tree.structure(own)
    x = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    outputs = jax.jit(alone.apply)({"params": own}, x)
    assert set(outputs) == {"sr"}
    np.testing.assert_array_equal(
        outputs["sr"], jax.jit(model.apply)({"params": params}, x)["sr"]
    )


def test_bfloat16_computes_close_to_float32_and_returns_float32(small):
    model, params = small
    x = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    full = jax.jit(model.apply)({"params": params}, x)["sr"]
    half_model = EDDSRN(**SMALL, dtype="bfloat16")
    half = jax.jit(half_model.apply)({"params": params}, x)["sr"]
    assert half.dtype == jnp.float32
    difference = np.abs(full - half).max()
    assert 0 < difference < 0.02


def test_max_pool_and_its_gradient_agree_with_flax():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 8, 3)), jnp.float32)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 4, 3)), jnp.float32)
    reference = lambda x: nn.max_pool(x, (2, 2), strides=(2, 2))  # noqa: E731
    np.testing.assert_array_equal(max_pool_2x2(x), reference(x))
    found, expected = (
        jax.grad(lambda x, pool=pool: jnp.sum(pool(x) * weight))(x)
        for pool in (max_pool_2x2, reference)
    )
    np.testing.assert_array_equal(found, expected)


def test_pad_to_multiple_mirrors_at_the_end_only():
    x = jnp.arange(3.0).reshape(1, 3, 1, 1)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 4, 4, 1)
    np.testing.assert_array_equal(padded[0, :, 0, 0], [0, 1, 2, 2])


def test_srresnet_has_the_published_size_cost_and_scale():
    """The published size is 1.5 M parameters. ED-DSRN computes 1.2 times as much."""
    model = SRResNet()
    assert count_parameters(abstract_params(model)) == pytest.approx(1.55e6, rel=0.03)
    # By hand: first layer, blocks and the layer after them, enlargement, last layer.
    layers = 9**2 * 3 * 64, 33 * 3**2 * 64**2, 5 * 3**2 * 64 * 256, 16 * 9**2 * 64 * 3
    assert macs_per_pixel(model) == sum(layers)
    assert macs_per_pixel(EDDSRN()) / macs_per_pixel(model) == pytest.approx(1.2, abs=0.1)
    x = np.zeros((1, 4, 6, 3), np.float32)
    small = SRResNet(features=8, num_blocks=2)
    outputs = small.apply(small.init(jax.random.key(0), x), x)
    assert outputs["sr"].shape == (1, 16, 24, 3)


@pytest.mark.parametrize(
    "model, published",
    [
        (EDSR(), 43.1e6),
        (EDSR(features=64, num_blocks=16, residual_scale=1.0), 1.52e6),
        # The paper gives no count; this one follows from the layers in its table.
        (DeblurCNN(), 4.50e6),
    ],
    ids=["EDSR", "EDSR baseline", "DeblurCNN"],
)
def test_edsr_and_deblur_cnn_have_the_published_size(model, published):
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert count_parameters(params["params"]) == pytest.approx(published, rel=0.03)


def test_deblur_cnn_kernels_imply_a_51_pixel_receptive_field():
    assert sum(size - 1 for size, _ in DeblurCNN().layers) == 50


@pytest.mark.slow
def test_rematerialising_changes_no_gradient(small):
    model, params = small
    image = jax.random.uniform(jax.random.key(1), (1, 16, 24, 3))

    def gradient(model):
        def total(params):
            outputs = jax.jit(model.apply)({"params": params}, image)
            return sum(jnp.square(x).mean() for x in outputs.values())

        return jax.jit(jax.grad(total)), str(jax.make_jaxpr(jax.grad(total))(params))

    (plain, jaxpr), (again, again_jaxpr) = (
        gradient(model.clone(rematerialize=value)) for value in (False, True)
    )
    assert "remat" in again_jaxpr and "remat" not in jaxpr
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)  # noqa: E731
    jax.tree.map(close, plain(params), again(params))


@pytest.mark.parametrize("num_pairs", [1, 2])
def test_eddsrn_receptive_field_matches_its_radius(num_pairs):
    """With positive weights, a change shows in every output that depends on it."""
    fields = {"features": (2,) * 4, "sr_features": (2,) * 3, "deblur_features": 2}
    model = EDDSRN(**fields, num_pairs=num_pairs)
    assert model.receptive_radius == {1: 77, 2: 121}[num_pairs]
    # Biases are zero, so an output that sees only zeros is zero.
    params = jax.tree.map(
        lambda x: jnp.full_like(x, (x.ndim > 1) / 16),
        init_params(model, jax.random.key(0)),
    )
    distances = []
    for middle in range(172, 180):
        image = np.zeros((1, 8, 352, 3), np.float32)
        image[:, :, middle] = 1
        outputs = jax.jit(model.apply)({"params": params}, image)
        for name, scale in (("sr", 4), ("deblurred", 1)):
            (seen,) = np.nonzero(np.asarray(outputs[name]).any(axis=(0, 1, 3)))
            # The change shows in blocks of 8 pixels. `last` is the start of the last such
            # block, and `first` is the end of the first.
            last, first = seen[-1] // scale // 8 * 8, (seen[0] // scale // 8 + 1) * 8
            distances += [last - middle, middle - first + 1]
    assert max(distances) == model.receptive_radius


def test_initial_values_equal_flaxs_initializer():
    for shape in ((3, 3, 5, 7), (1, 1, 1, 1), (7, 7, 64, 65)):
        key = jax.random.key(sum(shape))
        expected = nn.initializers.variance_scaling(0.3, "fan_in", "normal")(key, shape)
        np.testing.assert_allclose(scaled_normal(0.3)(key, shape), expected, rtol=3e-7)


@pytest.mark.parametrize(
    "model",
    [
        SRResNet(features=2, num_blocks=2),
        EDSR(features=2, num_blocks=2),
        LapSRN(features=2, num_layers=3),
        VDSR(features=2, num_layers=7),
        DeblurCNN(layers=((5, 2), (1, 2), (7, 3))),
    ],
    ids=lambda model: type(model).__name__,
)
def test_receptive_fields_of_other_networks_match_their_radius(model):
    """With positive weights, a change shows in every output that depends on it."""
    image = np.random.default_rng(0).random((1, 3, 80, 3), np.float32)
    params = jax.tree.map(lambda x: jnp.full_like(x, 0.1), abstract_params(model))
    changed = image.copy()
    changed[:, :, 40] += 0.5
    ((name, before), *_), ((_, after), *_) = (
        apply(model, params, x).items() for x in (image, changed)
    )
    scale = 4 if name == "sr" else 1
    (seen,) = np.nonzero(np.abs(after - before).max(axis=(0, 1, 3)) > 1e-6)
    radius = max(40 - seen[0] // scale, seen[-1] // scale - 40)
    assert radius == model.receptive_radius


def test_split_params_separates_batch_statistics_and_join_reverses_it():
    params = init_params(SRResNet(features=4, num_blocks=1), jax.random.key(0))
    trained, statistics = split_params(params)
    assert set(statistics["body_norm"]) == {"mean", "var"}
    assert set(trained["body_norm"]) == {"scale", "bias"}
    assert "stem" not in statistics
    again = join_params(trained, statistics)
    jax.tree.map(np.testing.assert_array_equal, again, params)
