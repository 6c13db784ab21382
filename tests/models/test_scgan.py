import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eddsrn_jax.mesh import DATA_AXIS
from eddsrn_jax.models import abstract_params, apply, init_params, split_params
from eddsrn_jax.models.complexity import count_parameters
from eddsrn_jax.models.scgan import SCGAN, Discriminator


def images(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


def test_the_generator_enlarges_by_four():
    model = SCGAN(features=4, num_layers=2, dtype="bfloat16")
    outputs = jax.eval_shape(
        functools.partial(apply, model), abstract_params(model), images(2, 5, 7, 3)
    )
    assert {name: (x.shape, x.dtype) for name, x in outputs.items()} == {
        "sr": ((2, 20, 28, 3), jnp.float32)
    }


def test_generator_parameter_count_matches_hand_count():
    """The numbers were counted by hand. Batch norm trains a scale and bias per feature.

    up0     4 x 4 x 3 x 64               3,072
    up1     4 x 4 x 64 x 64             65,536
    conv    10 x 5 x 5 x 64 x 64     1,024,000
    norm    12 x 2 x 64                  1,536
    rgb     5 x 5 x 64 x 3 + 3           4,803
    """
    trained, statistics = split_params(abstract_params(SCGAN()))
    assert count_parameters(trained) == 1_098_947
    assert count_parameters(statistics) == 1_536


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
def test_generator_receptive_field_matches_its_radius(num_layers):
    """With positive weights, a change shows in every output that depends on it."""
    model = SCGAN(features=2, num_layers=num_layers)
    params = jax.tree.map(lambda x: jnp.full_like(x, 0.1), abstract_params(model))
    image = images(1, 3, 24, 3)
    changed = image.copy()
    changed[:, :, 12] += 0.5
    before, after = (apply(model, params, x)["sr"] for x in (image, changed))
    (seen,) = np.nonzero(np.abs(after - before).max(axis=(0, 1, 3)) > 1e-6)
    assert max(12 - seen[0] // 4, seen[-1] // 4 - 12) == model.receptive_radius


def test_batch_statistics_are_averaged_over_all_devices():
    model = SCGAN(features=4, num_layers=1)
    trained, statistics = split_params(init_params(model, jax.random.key(0)))

    def train(x):
        variables = {"params": trained, "batch_stats": statistics}
        return model.apply(variables, x, train=True, mutable="batch_stats")

    x = images(2, 8, 8, 3)
    together, apart = (
        jax.vmap(train, axis_name=DATA_AXIS)(x.reshape(shape))
        for shape in ((1, 2, 8, 8, 3), (2, 1, 8, 8, 3))
    )
    sr = apart[0]["sr"].reshape(together[0]["sr"].shape)
    np.testing.assert_allclose(sr, together[0]["sr"], atol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a[0], b[0], rtol=1e-4)  # noqa: E731
    jax.tree.map(close, apart[1], together[1])
    mean = together[1]["batch_stats"]["up0_norm"]["mean"]
    assert np.abs(mean).max() > 0


def test_discriminator_parameter_count_matches_hand_count():
    """The numbers were counted by hand.

    conv0   4 x 4 x 3 x 64 + 64              3,136
    conv1   4 x 4 x 64 x 128 + 128         131,200
    conv2   4 x 4 x 128 x 256 + 256        524,544
    conv3   4 x 4 x 256 x 512 + 512      2,097,664
    logit   512 + 1                            513
    """
    variables = jax.eval_shape(
        Discriminator().init, jax.random.key(0), images(1, 32, 32, 3)
    )
    assert set(variables) == {"params"}
    assert count_parameters(variables) == 2_757_057


@pytest.mark.parametrize("height, width", [(32, 32), (40, 64), (50, 33), (96, 96)])
def test_discriminator_accepts_images_of_any_size(height, width):
    model = Discriminator(features=4, num_layers=3, dtype="bfloat16")
    variables = jax.eval_shape(model.init, jax.random.key(0), images(1, 32, 32, 3))
    logits, features = jax.eval_shape(model.apply, variables, images(2, height, width, 3))
    assert logits.shape == (2,)
    assert [x.shape for x in features] == [
        (2, -(-height // 2), -(-width // 2), 4),
        (2, -(-height // 4), -(-width // 4), 8),
        (2, -(-height // 8), -(-width // 8), 16),
    ]
    assert {x.dtype for x in (logits, *features)} == {jnp.dtype("float32")}


def test_discriminator_logit_depends_on_its_whole_image_and_no_other():
    model = Discriminator(features=4, num_layers=2)
    x = images(3, 32, 32, 3)
    variables = model.init(jax.random.key(0), x)
    logits, features = jax.jit(model.apply)(variables, x)
    for i in range(len(x)):
        alone, features_alone = jax.jit(model.apply)(variables, x[i : i + 1])
        np.testing.assert_allclose(alone[0], logits[i], atol=1e-5)
        np.testing.assert_allclose(features_alone[-1][0], features[-1][i], atol=1e-5)
    gradient = jax.grad(lambda x: jax.jit(model.apply)(variables, x)[0].sum())(x)
    assert (np.abs(gradient).max(axis=-1) > 0).mean() > 0.99
