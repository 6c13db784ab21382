"""Checks every value of a config before a run starts."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from eddsrn_jax.config_values import Config, flatten
from eddsrn_jax.data.pairs import PAIRS
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.inputs import SPOILINGS
from eddsrn_jax.machine import find_devices
from eddsrn_jax.models import (
    NETWORKS,
    SCALE,
    STRIDE,
    abstract_outputs,
    abstract_params,
    import_network,
    make_network,
    network_fields,
)
from eddsrn_jax.ops.degradation import (
    OWN_DEGRADATIONS,
    degrade_by,
    import_degradation,
)
from eddsrn_jax.own_code import explaining, is_import_path
from eddsrn_jax.paths import printable
from eddsrn_jax.training.losses import LOSSES, import_loss
from eddsrn_jax.training.optimizer import (
    MAX_COUNT,
    OPTIMIZERS,
    SCHEDULES,
    import_optimizer,
    make_optimizer,
)


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _are_sigmas(values: Any) -> bool:
    return isinstance(values, tuple | list) and all(
        _is_number(v) and v <= 10 for v in values
    )


def _are_counts(values: Any, count: int) -> bool:
    return len(values) == count and all(_is_whole(v) and v > 0 for v in values)


def _one_of(names: Collection[str]) -> tuple[Callable[[Any], bool], str]:
    """Accepts the names in a collection, also those that are added to it later."""
    *most, last = map(repr, names)
    expected = f"{', '.join(most)} or {last}"
    return lambda value: isinstance(value, str) and value in names, expected


def _one_or_own(names: Collection[str]) -> tuple[Callable[[Any], bool], str]:
    """Accepts the same as `_one_of`; the message says that users add their own."""
    holds, expected = _one_of(names)
    return holds, f"{expected}, or the import path of your own, MODULE:NAME"


_TEXT = (lambda value: isinstance(value, str), "text")
_TITLE = (
    lambda value: isinstance(value, str) and printable(value) == value,
    "text of printable characters",
)
_SWITCH = (lambda value: isinstance(value, bool), "True or False")
_WHOLE = (_is_whole, f"a whole number, 0 or more, up to {MAX_COUNT}")
_COUNT = (
    lambda value: _is_whole(value) and value > 0,
    f"a whole number, 1 or more, up to {MAX_COUNT}",
)
# Larger seeds would give the initial weights of smaller ones.
_SEED = (
    lambda value: type(value) is int and 0 <= value < 2**32,
    f"a whole number, 0 or more, up to {2**32 - 1}",
)
# In float16 the gradients of errors below 0.1 would be 0.
_DTYPES = ("float32", "bfloat16")
_NUMBER = (_is_number, "a number, 0 or more")
_POSITIVE = (lambda value: _is_number(value) and value > 0, "a number, more than 0")
_SHARE = (lambda value: _is_number(value) and value < 1, "0 or more and less than 1")
_PROBABILITY = (lambda value: _is_number(value) and value <= 1, "0 to 1")
_SIGMAS = (lambda value: _are_sigmas(value) and len(value) > 0, "sigmas in [0, 10]")
_SIGMA_RANGE = (
    lambda v: _are_sigmas(v) and len(v) == 2 and v[0] <= v[1],
    "two sigmas in [0, 10], low and high",
)
_QUALITIES = (
    lambda v: isinstance(v, tuple | list) and _are_counts(v, 2) and v[0] <= v[1] <= 100,
    "two whole numbers in [1, 100], low and high",
)
_OWN_DEGRADATION = (
    lambda v: v == "" or (isinstance(v, str) and v in OWN_DEGRADATIONS),
    "'', or the import path of your own, MODULE:NAME",
)
# The values of every config, except those of "model": a test of each, and for errors a
# description of valid values.
_VALUES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": _TITLE,
    "seed": _SEED,
    "batch_size": _COUNT,
    "num_epochs": _WHOLE,
    "total_steps": _WHOLE,
    "init_from": _TEXT,
    "init_from_partial": _SWITCH,
    "ema_decay": _SHARE,
    "on_bad_step": _one_of(("stop", "skip")),
    "log_every_steps": _COUNT,
    "network": _one_or_own(NETWORKS),
    "data.source": _TEXT,
    "data.validation_source": _TEXT,
    "data.tfds_data_dir": _TEXT,
    "data.tfds_download": _SWITCH,
    "data.on_error": _one_of(("skip", "raise")),
    "data.cache_dir": _TEXT,
    "data.pipeline": _one_of(("stream", "resident")),
    "data.hr_patch_size": _COUNT,
    "data.crops_per_image": _COUNT,
    "pipeline.num_threads": _COUNT,
    "pipeline.prefetch": _COUNT,
    "degradation.sigma_range": _SIGMA_RANGE,
    "degradation.sharp_share": _PROBABILITY,
    "degradation.anisotropic_share": _PROBABILITY,
    "degradation.noise_share": _PROBABILITY,
    "degradation.max_noise": _NUMBER,
    "degradation.jpeg_share": _PROBABILITY,
    "degradation.jpeg_quality": _QUALITIES,
    "degradation.own": _OWN_DEGRADATION,
    "loss.sr": _one_or_own(LOSSES),
    "loss.deblurred": _one_or_own(LOSSES),
    "loss.alpha": _NUMBER,
    "loss.eps": _POSITIVE,
    "adversarial.weight": _NUMBER,
    "adversarial.feature_weight": _NUMBER,
    "adversarial.features": _COUNT,
    "adversarial.num_layers": _COUNT,
    "optimizer.name": _one_or_own(OPTIMIZERS),
    "optimizer.schedule": _one_of(SCHEDULES),
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.halve_every_epochs": _COUNT,
    "optimizer.warmup_steps": _WHOLE,
    "optimizer.decay_steps": _WHOLE,
    "optimizer.b2": _SHARE,
    "optimizer.clip_norm": _NUMBER,
    "validation.every_steps": _COUNT,
    "validation.sigmas": _SIGMAS,
    "validation.degradation": _one_of(SPOILINGS),
    "validation.max_photos": _COUNT,
    "checkpoint.every_steps": _COUNT,
    "checkpoint.keep_every_steps": _WHOLE,
}
# Values that may be import paths, and the functions that import them.
OWN_CODE: Mapping[str, Callable[[str], None]] = {
    "network": import_network,
    "loss.sr": import_loss,
    "loss.deblurred": import_loss,
    "degradation.own": import_degradation,
    "optimizer.name": import_optimizer,
}
# Integer fields of networks that may be 0; 0 leaves out their layers.
_NONE_IS_ZERO = ("deblur_features", "detail_features")


def check(config: Config) -> None:
    """Checks that a run can use this config.

    Raises:
        InputError: a value is missing, unknown or invalid; the message names it.
    """
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(f"--config: {config!r} is not an ml_collections.ConfigDict")
    values = flatten(config)
    if "rows" in config and "network" not in config:
        raise InputError(
            "--config: this config is a table of systems, which evaluate.py takes; a"
            " training config, such as configs/eddsrn.py, describes a network"
        )
    if "model" not in config:
        raise InputError("config.model is missing")
    model = {name for name in values if name.startswith("model.")}
    for name, (holds, expected) in _VALUES.items():
        if name not in values:
            raise InputError(f"config.{name} is missing")
        if not holds(values[name]):
            if name in OWN_CODE and is_import_path(values[name]):
                expected = (
                    "an imported name. A saved config may be untrusted; if you trust its"
                    f" module, name that too: --config.{name}={values[name]}"
                )
            raise InputError(f"config.{name}={values[name]!r}: expected {expected}")
    for name in sorted(values.keys() - _VALUES.keys() - model):
        raise InputError(f"config.{name}={values[name]!r}: unknown config value")

    def require(name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise InputError(f"config.{name}={values[name]!r}: expected {expected}")

    steps = "total_steps" if values["total_steps"] else "num_epochs"
    require(steps, values[steps] >= 1, "1 or more")
    has_weights = bool(values["init_from"]) or not values["init_from_partial"]
    require("init_from_partial", has_weights, "False, because config.init_from is empty")
    streamed = values["data.pipeline"] == "stream"
    of_pairs = values["data.source"].startswith(PAIRS)
    require("data.pipeline", streamed or not of_pairs, "'stream', since it reads pairs")
    side = values["data.hr_patch_size"]
    require("data.hr_patch_size", side % SCALE == 0, f"a multiple of {SCALE}")
    _check_model(config, require)
    outputs = _output_shapes(config)
    fits = not config.adversarial.weight or "sr" in outputs
    require("adversarial.weight", fits, "0, because the network has no sr")
    if own := config.degradation.own:
        is_round = not values["degradation.anisotropic_share"]
        expected = "0, because config.degradation.own takes the place of the blur"
        require("degradation.anisotropic_share", is_round, expected)
        # Traced alone, so that its errors come before any photo is read.
        crop = jnp.zeros((side // SCALE, side // SCALE, 3))
        jax.eval_shape(lambda: degrade_by(own, jax.random.key(0), crop))
    # Files of weights are read with this limit, which must not come as a surprise then.
    network = make_network(config.network, config.model)
    params = abstract_params(network)
    count = len(jax.tree.leaves(params))
    make_network(config.network, network_fields(network), num_arrays=count)
    if is_import_path(config.optimizer.name):
        _check_optimizer(config, params)


def _output_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the network's outputs for a small image, by name.

    Raises:
        InputError: there is no device, the network cannot be traced, or an output has an
            unexpected shape.
    """
    # Tracing places shapes on a device, whose absence is no fault of the network.
    find_devices()
    model = make_network(config.network, config.model)
    with explaining(
        f"config.model: {config.network} cannot be computed with these values"
    ):
        shapes = {name: x.shape for name, x in abstract_outputs(model).items()}
    expected = {
        "sr": (1, SCALE * STRIDE, SCALE * STRIDE, 3),
        "deblurred": (1, STRIDE, STRIDE, 3),
    }
    if not shapes.keys() & expected.keys():
        raise InputError(
            f"config.network={config.network}: its outputs are {', '.join(shapes)};"
            f" expected {' or '.join(expected)}"
        )
    for name in shapes.keys() & expected.keys():
        if shapes[name] != expected[name]:
            raise InputError(
                f"config.network={config.network}: its output {name!r} has the shape"
                f" {shapes[name]} for an image of {STRIDE} x {STRIDE} pixels, expected"
                f" {expected[name]}"
            )
    return shapes


def _check_optimizer(config: Config, params: Any) -> None:
    """Raises InputError if a user's own optimizer cannot update the parameters."""
    optimizer, _ = make_optimizer(**config.optimizer, steps_per_epoch=1, total_steps=1)
    with explaining(f"{config.optimizer.name}: cannot update the network's parameters"):
        updates, _ = jax.eval_shape(
            lambda x: optimizer.update(x, optimizer.init(x), x), params
        )
        jax.eval_shape(optax.apply_updates, params, updates)


def _check_model(config: Config, require: Callable[[str, bool, str], None]) -> None:
    model = config.model
    defaults = make_network(config.network, {})
    # Raises InputError for fields that the network does not have.
    make_network(config.network, model)
    for name, value in model.items():
        default = getattr(defaults, name)
        kind = type(default)
        expected = f"a value like {default!r}, of type {kind.__name__}"
        require(f"model.{name}", type(value) is kind, expected)
        if kind is int:
            least = int(name not in _NONE_IS_ZERO)
            require(f"model.{name}", value >= least, f"{least} or more")
        if kind is tuple and all(type(x) is int for x in default):
            count = len(default)
            holds = _are_counts(value, count)
            require(f"model.{name}", holds, f"{count} whole numbers of 1 or more")
    if "dtype" in model:
        # JAX would compute in float32 instead of float64, and only warn.
        expected = "a type to train in: 'float32' or 'bfloat16'"
        require("model.dtype", model.dtype in _DTYPES, expected)
