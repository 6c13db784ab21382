"""The training state."""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from eddsrn_jax.models import join_params, split_params

# Parts of a step that are checked for non-finite values, in the order of computation.
BAD_PARTS = ("parameters", "loss", "gradient", "parameters after it")
# The run stops after more consecutive skipped steps than this.
MOST_SKIPPED = 10


@flax.struct.dataclass
class TrainState:
    """Everything that changes from step to step, and so everything that is saved.

    Attributes:
        step: int32, number of steps done, skipped ones included.
        params: trained parameters of the network.
        batch_stats: running statistics of batch norm; empty if the network has none.
        ema_params: exponential moving average of `params`, used in their place; or None.
        opt_state: state of the optimiser.
        sums: float32 by name, sums of the metrics since they were last logged. They are
            saved so that a resumed run logs the same values as an uninterrupted one.
        count: int32, number of steps in `sums`.
        skipped: int32, number of steps skipped because of non-finite values.
        bad_in_row: int32, number of consecutive non-finite steps up to now.
        bad_step: int32, the non-finite step that stops the run; else -1.
        bad_part: int32, index in BAD_PARTS of the first non-finite part of `bad_step`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    ema_params: Any
    opt_state: Any
    sums: dict[str, jax.Array]
    count: jax.Array
    skipped: jax.Array
    bad_in_row: jax.Array
    bad_step: jax.Array
    bad_part: jax.Array

    @property
    def used_params(self) -> Any:
        """Parameters for validation, evaluation and restoring, statistics included."""
        trained = self.params if self.ema_params is None else self.ema_params
        return join_params(trained, self.batch_stats)

    def split(self) -> tuple[Any, dict[str, Any]]:
        """Splits the state into `used_params` and the other fields by name."""
        rest = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in (self._used, "batch_stats"):
            del rest[name]
        return self.used_params, {k: v for k, v in rest.items() if v is not None}

    def join(self, params: Any, rest: dict[str, Any]) -> "TrainState":
        """Returns a state of this kind that `split` would split so."""
        used, batch_stats = split_params(params)
        return self.replace(**{self._used: used}, batch_stats=batch_stats, **rest)

    @property
    def _used(self) -> str:
        return "params" if self.ema_params is None else "ema_params"


def create_train_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    *,
    losses: Sequence[str],
    averaged: bool = False,
) -> TrainState:
    """Creates the state of a run before its first step.

    Args:
        params: initial parameters, statistics included.
        optimizer: optimiser of the run.
        losses: names of the losses, see `loss_names`.
        averaged: whether to keep a moving average of the parameters.
    """
    params, batch_stats = split_params(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        ema_params=params if averaged else None,
        opt_state=optimizer.init(params),
        sums={name: jnp.zeros(()) for name in (*losses, "grad_norm")},
        count=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        bad_in_row=jnp.zeros((), jnp.int32),
        bad_step=jnp.full((), -1, jnp.int32),
        bad_part=jnp.zeros((), jnp.int32),
    )
