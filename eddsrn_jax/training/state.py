"""The training state."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from eddsrn_jax.models import join_params, split_params


@flax.struct.dataclass
class TrainState:
    """Everything that a training step changes.

    Attributes:
        step: int32, number of steps done, skipped ones included.
        params: trained parameters of the network.
        batch_stats: running statistics of batch norm; empty if the network has none.
        ema_params: exponential moving average of `params`, used in their place; or None.
        opt_state: state of the optimizer.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    ema_params: Any
    opt_state: Any

    @property
    def used_params(self) -> Any:
        """Parameters for validation, evaluation and restoring, statistics included."""
        trained = self.params if self.ema_params is None else self.ema_params
        return join_params(trained, self.batch_stats)

    @property
    def trained(self) -> Any:
        """All parameters that a step updates with gradients."""
        return self.params

    def split(self) -> tuple[Any, dict[str, Any]]:
        """Splits the state into `used_params` and the other fields by name."""
        rest = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in (self._used, "batch_stats"):
            del rest[name]
        return self.used_params, {k: v for k, v in rest.items() if v is not None}

    def join(self, params: Any, rest: dict[str, Any]) -> "TrainState":
        """Inverts `split`: returns a state with these parameters and other fields."""
        used, batch_stats = split_params(params)
        return dataclasses.replace(
            self, **{self._used: used}, batch_stats=batch_stats, **rest
        )

    @property
    def _used(self) -> str:
        return "params" if self.ema_params is None else "ema_params"


def create_train_state(
    params: Any, optimizer: optax.GradientTransformation, *, ema: bool = False
) -> TrainState:
    """Creates the state of a run before its first step.

    Args:
        params: initial parameters, statistics included.
        optimizer: optimizer of the run.
        ema: whether to keep a moving average of the parameters.
    """
    params, batch_stats = split_params(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        ema_params=params if ema else None,
        opt_state=optimizer.init(params),
    )
