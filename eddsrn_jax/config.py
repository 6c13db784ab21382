"""What is done with configs as such: checking, comparing, reading them back."""

from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections

from eddsrn_jax.errors import InputError
from eddsrn_jax.losses import LOSSES
from eddsrn_jax.models import NETWORKS, SCALE

_AT_LEAST_ONE = (
    "batch_size",
    "log_every_steps",
    "steps_per_dispatch",
    "data.crops_per_image",
    "data.hr_patch_size",
    "pipeline.num_threads",
    "pipeline.prefetch",
    "validation.every_steps",
    "validation.max_photos",
    "checkpoint.every_steps",
    "optimizer.halve_every_epochs",
    "adversarial.features",
    "adversarial.num_layers",
)
_AT_LEAST_ZERO = (
    "seed",
    "total_steps",
    "loss.alpha",
    "adversarial.weight",
    "adversarial.feature_weight",
    "optimizer.clip_norm",
    "optimizer.warmup_steps",
)


# Whose width of 0 leaves a part of a network out.
_NONE_IS_ZERO = ("model.deblur_features",)


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The values of a config by their dotted names."""
    return flax.traverse_util.flatten_dict(config.to_dict(), sep=".")


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses values that no run can have.

    Raises:
        InputError: names the value.
    """

    def require(name: str, holds: bool, expected: str) -> None:
        if not holds:
            value = flatten(config)[name]
            raise InputError(f"config.{name}={value!r}: expected {expected}")

    for name in _AT_LEAST_ONE:
        require(name, flatten(config)[name] >= 1, "1 or more")
    for name in _AT_LEAST_ZERO:
        require(name, flatten(config)[name] >= 0, "0 or more")
    for name in ("optimizer.learning_rate", "loss.eps"):
        require(name, flatten(config)[name] > 0, "more than 0")
    steps = "total_steps" if config.total_steps else "num_epochs"
    require(steps, config[steps] >= 1, "1 or more")
    together = config.steps_per_dispatch
    holds = together == 1 or jax.default_backend() != "cpu"
    require(
        "steps_per_dispatch",
        holds,
        "1 on CPUs, whose convolutions take tens of times as long within a loop",
    )
    for name in ("log_every_steps", "validation.every_steps", "checkpoint.every_steps"):
        holds = flatten(config)[name] % together == 0
        require(name, holds, f"a multiple of config.steps_per_dispatch={together}")
    side = config.data.hr_patch_size
    require("data.hr_patch_size", side % SCALE == 0, f"a multiple of {SCALE}")
    for name in ("loss.sr", "loss.deblurred"):
        require(name, flatten(config)[name] in LOSSES, f"one of {', '.join(LOSSES)}")
    require("ema_decay", 0 <= config.ema_decay < 1, "0 or more and less than 1")
    require("on_bad_step", config.on_bad_step in ("stop", "skip"), "'stop' or 'skip'")
    holds = config.data.on_error in ("skip", "raise")
    require("data.on_error", holds, "'skip' or 'raise'")
    holds = config.data.pipeline in ("stream", "resident")
    require("data.pipeline", holds, "'stream' or 'resident'")
    sigmas = config.degradation.sigma_range
    holds = len(sigmas) == 2 and _are_sigmas(sigmas) and sigmas[0] <= sigmas[1]
    require("degradation.sigma_range", holds, "two sigmas in [0, 10], low and high")
    holds = _are_sigmas(config.validation.sigmas)
    require("validation.sigmas", holds, "sigmas in [0, 10]")
    require("network", config.network in NETWORKS, f"one of {', '.join(NETWORKS)}")
    for name, value in flatten(config).items():
        if name.startswith("model.") and type(value) is int:
            least = int(name not in _NONE_IS_ZERO)
            require(name, value >= least, f"{least} or more")
    if config.network == "EDDSRN":
        for name, count in (("features", 4), ("sr_features", 3)):
            holds = len(config.model[name]) == count and _are_widths(config.model[name])
            require(f"model.{name}", holds, f"{count} widths of 1 or more")
    try:
        floating = jnp.issubdtype(jnp.dtype(config.model.dtype), jnp.floating)
    except TypeError:
        floating = False
    require("model.dtype", floating, "a floating type such as 'float32' or 'bfloat16'")


def _are_sigmas(values: tuple) -> bool:
    return bool(values) and all(
        isinstance(v, float | int) and 0 <= v <= 10 for v in values
    )


def _are_widths(values: tuple) -> bool:
    return all(isinstance(v, int) and v >= 1 for v in values)


def from_json(values: dict[str, Any]) -> ml_collections.ConfigDict:
    """A locked config from what JSON made of it: its lists were tuples."""

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: restore(v) for key, v in value.items()}
        return tuple(restore(v) for v in value) if isinstance(value, list) else value

    # Before there were others it was left unsaid.
    return ml_collections.ConfigDict({"network": "EDDSRN", **restore(values)}).lock()


def differences(
    old: ml_collections.ConfigDict, new: ml_collections.ConfigDict
) -> dict[str, tuple[Any, Any]]:
    """The values that differ between two configs, old and new, by their dotted names."""
    a, b = flatten(old), flatten(new)
    return {k: (a.get(k), b.get(k)) for k in a | b if a.get(k) != b.get(k)}
