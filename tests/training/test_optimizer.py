import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from eddsrn_jax.training.muon import almost_orthogonal
from eddsrn_jax.training.optimizer import (
    make_optimizer,
    step_decay,
    warmup_constant_decay,
    warmup_cosine,
)

OPTIONS = {
    "name": "adam",
    "schedule": "step_decay",
    "learning_rate": 5e-4,
    "halve_every_epochs": 30,
    "warmup_steps": 10,
    "decay_steps": 20,
    "b2": 0.999,
    "clip_norm": 0.0,
    "steps_per_epoch": 1000,
    "total_steps": 120_000,
}


def test_paper_schedule_halves_the_learning_rate_every_30_epochs():
    _, rate = make_optimizer(**OPTIONS)
    for step, expected in [
        (0, 5e-4),
        (29_999, 5e-4),
        (30_000, 2.5e-4),
        (119_999, 6.25e-5),
    ]:
        assert rate(step) == pytest.approx(expected)


def test_step_decay_halves_the_rate_every_n_steps():
    rate = step_decay(1.0, halve_every_steps=3)
    assert [float(rate(step)) for step in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_warmup_cosine_rises_falls_and_ends_at_a_hundredth():
    rate = warmup_cosine(2.0, warmup_steps=4, total_steps=20)
    assert [float(rate(s)) for s in (0, 2, 4)] == [0.0, 1.0, 2.0]
    assert rate(12) == pytest.approx((2.0 + 0.02) / 2)
    assert rate(20) == pytest.approx(0.02)


def test_warmup_cosine_caps_warmup_at_half_the_run():
    assert warmup_cosine(1.0, warmup_steps=200, total_steps=10)(5) == pytest.approx(1.0)


def test_warmup_constant_decay_rises_stays_and_falls_to_zero():
    steps = {"warmup_steps": 4, "decay_steps": 10}
    rate = warmup_constant_decay(2.0, **steps, total_steps=100)
    found = [float(rate(s)) for s in (0, 2, 4, 50, 90, 95, 99)]
    assert found == pytest.approx([0, 1, 2, 2, 2, 1, 0.2])
    longer = warmup_constant_decay(2.0, **steps, total_steps=1000)
    assert [float(longer(s)) for s in (2, 50, 90, 95)] == [1, 2, 2, 2]
    short = warmup_constant_decay(2.0, **steps, total_steps=5)
    assert [float(short(s)) for s in (0, 5)] == pytest.approx([2, 0])


def test_make_optimizer_returns_the_warmup_constant_decay_schedule():
    options = OPTIONS | {"schedule": "warmup_constant_decay", "total_steps": 40}
    optimizer, rate = make_optimizer(**options)
    assert [float(rate(s)) for s in (5, 15, 30)] == pytest.approx([2.5e-4, 5e-4, 2.5e-4])
    # With a constant gradient, each of Adam's steps equals that step's learning rate.
    params, moved = jnp.zeros(1), []
    state = optimizer.init(params)
    for _ in range(31):
        updates, state = optimizer.update(jnp.ones(1), state)
        moved.append(-float(updates[0]))
    expected = pytest.approx([2.5e-4, 5e-4, 2.5e-4], rel=1e-4)
    assert [moved[s] for s in (5, 15, 30)] == expected


def test_adams_second_moment_decays_by_b2():
    optimizer, _ = make_optimizer(**OPTIONS | {"b2": 0.9})
    _, state = optimizer.update(jnp.array([2.0]), optimizer.init(jnp.zeros(1)))
    assert optax.tree.get(state, "nu").tolist() == pytest.approx([0.1 * 4])


def test_adams_first_step_is_the_learning_rate():
    optimizer, _ = make_optimizer(**OPTIONS)
    params = jnp.array([1.0, -2.0])
    updates, _ = optimizer.update(jnp.array([300.0, -0.1]), optimizer.init(params))
    assert updates.tolist() == pytest.approx([-5e-4, 5e-4], rel=1e-4)


def test_gradients_are_clipped_by_global_norm_before_adam():
    optimizer, _ = make_optimizer(**OPTIONS | {"clip_norm": 1.0})
    state = optimizer.init(jnp.zeros(2))
    _, state = optimizer.update(jnp.array([30.0, 40.0]), state)
    first_moment = optax.tree.get(state, "mu")
    assert first_moment.tolist() == pytest.approx([0.06, 0.08])


def test_muon_moves_all_directions_of_a_kernel_alike():
    optimizer, _ = make_optimizer(**OPTIONS | {"name": "muon"})
    # The gradients of the outputs differ by up to a factor of 100.
    gradient = np.random.default_rng(0).normal(size=(3, 3, 4, 8)) * np.logspace(-2, 0, 8)
    params = {"kernel": jnp.zeros((3, 3, 4, 8)), "bias": jnp.zeros(8)}
    grads = {"kernel": jnp.array(gradient), "bias": jnp.array(gradient[0, 0, 0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    moved = np.asarray(updates["kernel"]).reshape(36, 8)
    # An orthogonal 36 x 8 matrix times 0.2 sqrt(36) has a root mean square of 0.2.
    singular_values = np.linalg.svd(moved, compute_uv=False) / (5e-4 * 0.2 * 6)
    assert 0.6 < singular_values.min() < singular_values.max() < 1.3
    # It goes downhill.
    assert np.sum(moved * gradient.reshape(36, 8)) < 0


@pytest.mark.parametrize("shape", [(72, 8), (8, 72), (24, 24), (5, 1)])
@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-4])
def test_almost_orthogonal_equals_the_iteration_of_optax(shape, smallest):
    rng = np.random.default_rng(0)
    u, values, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    values = np.geomspace(1, smallest, len(values))
    matrix = jnp.array((u * values) @ v, jnp.float32)
    reference = optax.contrib.scale_by_muon(beta=0.0, nesterov=False)
    expected, _ = reference.update(matrix, reference.init(matrix))
    for scale in (1e-4, 1.0, 1e12):
        error = jnp.linalg.norm(almost_orthogonal(scale * matrix) - expected)
        assert error < 2e-3 * jnp.linalg.norm(expected)
    for scale, most in ((1e-13, 0.03), (1e-19, 1e-6), (1e-22, 1e-6), (1e-30, 1e-6)):
        assert jnp.abs(almost_orthogonal(scale * matrix)).max() < most


def test_muon_does_not_move_a_kernel_without_gradient():
    optimizer, _ = make_optimizer(**OPTIONS | {"name": "muon"})
    params = {"kernel": jnp.ones((3, 3, 4, 8))}
    grads = {"kernel": jnp.zeros((3, 3, 4, 8))}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert (updates["kernel"] == 0).all()


def test_muon_leaves_parameters_other_than_kernels_to_adam():
    gradient = jnp.array([300.0, -0.1])
    params = {"kernel": jnp.zeros((3, 3, 1, 2)), "bias": jnp.zeros(2)}
    grads = {"kernel": jnp.ones((3, 3, 1, 2)), "bias": gradient}
    optimizer, _ = make_optimizer(**OPTIONS | {"name": "muon"})
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # Adam with Nesterov momentum, as in optax.contrib.muon.
    step = 5e-4 * (0.9 * 0.1 / (1 - 0.9**2) + 0.1 / (1 - 0.9))
    assert updates["bias"].tolist() == pytest.approx([-step, step], rel=1e-4)


def test_a_rate_that_is_halved_after_more_steps_than_JAX_counts_stays():
    _, rate = make_optimizer(**OPTIONS | {"halve_every_epochs": 10_000_000})
    assert float(jax.jit(rate)(2**30)) == pytest.approx(5e-4)
