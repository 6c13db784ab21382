import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import PLAIN, SMALL, STEP_OPTIONS, TwoOutputs

from eddsrn_jax.errors import InputError
from eddsrn_jax.mesh import make_mesh, map_step, process_rows, replicate, shard_batch
from eddsrn_jax.models import EDDSRN, VDSR, init_params
from eddsrn_jax.ops.degradation import training_triple
from eddsrn_jax.training.state import create_train_state
from eddsrn_jax.training.step import CHECKED_PARTS, train_step

LOSSES = ("loss", "loss_sr", "loss_db")


def run(batch, *, devices=1, steps=1, optimizer=None, model=None):
    """Repeats a training step; returns the last state and the metrics of all steps."""
    model = model or TwoOutputs()
    optimizer = optimizer or optax.sgd(0.1)
    mesh = make_mesh(jax.devices()[:devices])
    params = init_params(model, jax.random.key(0))
    state = replicate(create_train_state(params, optimizer), mesh)
    step = functools.partial(train_step, model=model, optimizer=optimizer, **STEP_OPTIONS)
    step = map_step(step, mesh)
    history = []
    for _ in range(steps):
        state, metrics = step(state, shard_batch(batch, mesh))
        history.append(jax.device_get(metrics))
    return state, history


def test_steps_agree_between_one_and_eight_devices(batch):
    """The optimizer is SGD, as Adam would hide a gradient eight times too large."""
    (one, one_history), (eight, eight_history) = (
        run(batch, devices=n, steps=3) for n in (1, 8)
    )
    for before, after in zip(one_history, eight_history, strict=True):
        for name in (*LOSSES, "grad_norm"):
            np.testing.assert_allclose(before[name], after[name], rtol=2e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-6),
        jax.device_get(one.params),
        jax.device_get(eight.params),
    )
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(),
        jax.device_get(one.params),
        init_params(TwoOutputs(), jax.random.key(0)),
    )
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_sgd_step_follows_the_gradient_of_the_documented_loss(batch):
    """The loss is written out again, and finite differences give its slope."""
    model = TwoOutputs()
    params = init_params(model, jax.random.key(0))
    state, (metrics,) = run(batch, optimizer=optax.sgd(1.0))
    keys = jax.random.wrap_key_data(batch["key"])
    make = functools.partial(training_triple, scale=4, sigma_range=(1.0, 2.0))
    examples = jax.jit(jax.vmap(make))(keys, batch["hr"])

    @jax.jit
    def loss(params):
        outputs = model.apply({"params": params}, examples["lr_blur"])
        sr = jnp.mean((outputs["sr"] - examples["hr"]) ** 2)
        db = jnp.mean(jnp.sqrt((outputs["deblurred"] - examples["lr_sharp"]) ** 2 + 1e-6))
        return sr + 0.2 * db

    assert loss(params) == pytest.approx(float(metrics["loss"]), rel=1e-5)
    new = jax.device_get(state.params)
    gradient = jax.tree.map(lambda old, new: old - new, params, new)
    norm = optax.tree.norm(gradient)
    assert norm == pytest.approx(float(metrics["grad_norm"]), rel=1e-4)
    move = 1e-2 / norm
    ends = [
        loss(jax.tree.map(lambda p, g, s=sign: p + s * move * g, params, gradient))
        for sign in (1, -1)
    ]
    # The slope of a loss along its gradient is the gradient's norm.
    assert (ends[0] - ends[1]) / (2e-2) == pytest.approx(float(norm), rel=0.02)


@pytest.mark.parametrize(
    "model", [TwoOutputs(), pytest.param(EDDSRN(**SMALL), marks=pytest.mark.slow)]
)
def test_learning_lowers_the_loss(batch, model):
    _, history = run(batch, steps=12, model=model, optimizer=optax.adam(2e-3))
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]


def poisoned(batch):
    """Returns a copy of a batch with one value replaced by NaN."""
    hr = batch["hr"].astype(np.float32)
    hr[3, 10, 20] = np.nan
    return {**batch, "hr": hr}


def run_with(batches, params, *, optimizer=None, devices=2):
    """Runs one step for each batch; returns all states and the first bad parts."""
    model, optimizer = TwoOutputs(), optimizer or optax.adam(1e-3)
    mesh = make_mesh(jax.devices()[:devices])
    state = replicate(create_train_state(params, optimizer, ema=True), mesh)
    step = functools.partial(train_step, model=model, optimizer=optimizer, **STEP_OPTIONS)
    step, states, bad_parts = map_step(step, mesh), [], []
    for batch in batches:
        state, metrics = step(state, shard_batch(batch, mesh))
        states.append(jax.device_get(state))
        index = int(metrics["bad_part"])
        bad_parts.append(None if index < 0 else CHECKED_PARTS[index])
    return states, bad_parts


@pytest.fixture(scope="module")
def start():
    return init_params(TwoOutputs(), jax.random.key(0))


def test_step_names_the_first_nonfinite_part(batch, start):
    good = {**batch, "hr": batch["hr"].astype(np.float32)}
    _, bad_parts = run_with([good, poisoned(batch), good], start)
    assert bad_parts == [None, "loss", None]
    # The parameters are named if they were not finite before the step.
    bad = jax.tree.map(lambda x: x, start)
    bad["stem"]["bias"] = bad["stem"]["bias"] * np.nan
    assert run_with([good], bad)[1] == ["parameters"]
    # This learning rate makes the parameters overflow in the step itself.
    _, bad_parts = run_with([good], start, optimizer=optax.sgd(1e38))
    assert bad_parts == ["updated parameters"]


def test_step_names_a_nonfinite_gradient_despite_a_finite_loss(batch, start):
    """The square root of zero is finite, but its slope is not."""

    class Rooted(TwoOutputs):
        def __call__(self, x):
            outputs = super().__call__(x)
            zero = 0 * outputs["sr"]
            return {**outputs, "sr": outputs["sr"] + jnp.sqrt(jnp.abs(zero))}

    _, (metrics,) = run(batch, model=Rooted())
    assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["grad_norm"])
    assert CHECKED_PARTS[int(metrics["bad_part"])] == "gradient"


def test_a_nonfinite_step_changes_only_the_step_counter(batch, start):
    good = {**batch, "hr": batch["hr"].astype(np.float32)}
    (first, second, third), _ = run_with([good, poisoned(batch), good], start)
    assert [int(state.step) for state in (first, second, third)] == [1, 2, 3]
    for name in ("params", "ema_params", "opt_state"):
        before, after = getattr(first, name), getattr(second, name)
        jax.tree.map(np.testing.assert_array_equal, before, after)
    assert np.isfinite(third.used_params["stem"]["kernel"]).all()
    stem, stem_before = (p["stem"]["kernel"] for p in (third.params, start))
    assert np.abs(stem - stem_before).max() > 1e-4


def test_step_without_a_deblurring_head_uses_the_sr_loss_alone(batch):
    _, (metrics,) = run(batch, model=VDSR(**PLAIN))
    assert set(metrics) == {"loss", "loss_sr", "grad_norm", "bad_part"}
    assert metrics["loss"] == metrics["loss_sr"]


def test_bfloat16_keeps_parameters_and_losses_in_float32(batch):
    state, (metrics,) = run(batch, model=TwoOutputs(dtype="bfloat16"))
    _, (reference,) = run(batch)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
    assert metrics["loss"].dtype == np.float32
    assert metrics["loss"] != reference["loss"]
    assert metrics["loss"] == pytest.approx(float(reference["loss"]), rel=0.01)


def test_weight_average_matches_hand_computation(batch):
    """Three steps are averaged by hand; the decay starts at 1 / 10 and grows."""
    model, optimizer = TwoOutputs(), optax.sgd(0.1)
    mesh = make_mesh(jax.devices()[:1])
    params = init_params(model, jax.random.key(0))
    state = replicate(create_train_state(params, optimizer, ema=True), mesh)
    step = functools.partial(train_step, model=model, optimizer=optimizer, **STEP_OPTIONS)
    step, average = map_step(step, mesh), params
    for decay in (1 / 10, 2 / 11, 3 / 12):
        state, _ = step(state, shard_batch(batch, mesh))
        average = jax.tree.map(
            lambda a, p, d=decay: d * a + (1 - d) * p,
            average,
            jax.device_get(state.params),
        )
    close = functools.partial(np.testing.assert_allclose, atol=1e-7)
    jax.tree.map(close, jax.device_get(state.used_params), average)


def test_rejects_a_batch_size_not_divisible_by_the_device_count():
    mesh = make_mesh()
    assert process_rows(16, mesh) == slice(0, 16)
    with pytest.raises(InputError, match="batch_size=12 .* 8 devices"):
        process_rows(12, mesh)
