"""Networks by name, and the functions that work with any network."""

import dataclasses
import functools
import json
from collections.abc import Mapping, MutableMapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax

from eddsrn_jax.errors import InputError
from eddsrn_jax.models.deblur_cnn import DeblurCNN
from eddsrn_jax.models.eddsrn import EDDSRN, STRIDE
from eddsrn_jax.models.edsr import EDSR
from eddsrn_jax.models.front_end import find_bank
from eddsrn_jax.models.half_size import HalfSizeEDDSRN
from eddsrn_jax.models.lapsrn import LapSRN
from eddsrn_jax.models.scgan import SCGAN
from eddsrn_jax.models.srresnet import SRResNet
from eddsrn_jax.models.vdsr import VDSR
from eddsrn_jax.own_code import import_object, is_import_path

NETWORKS: MutableMapping[str, type[nn.Module]] = {
    network.__name__: network
    for network in (
        *(EDDSRN, HalfSizeEDDSRN, SRResNet, LapSRN, VDSR, EDSR, DeblurCNN, SCGAN),
    )
}
# Attributes that the project uses of every network, see eddsrn_jax.models.
_ATTRIBUTES = ("dtype", "stride", "receptive_radius")
# Names of batch norm's running statistics. No trained parameter has these names.
_STATISTICS = ("mean", "var")


def import_network(path: str) -> None:
    """Adds a user's own network to NETWORKS, under its import path.

    Args:
        path: import path that the user has named, see `import_object`.

    Raises:
        InputError: the path cannot be imported, or is not that of a Flax module.
    """
    network = import_object(path)
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise InputError(f"{path}: expected a class derived from flax.linen.Module")
    NETWORKS[path] = network


def network_name(model: nn.Module) -> str:
    """Returns the name that `make_network` takes for a network like this one."""
    names = [name for name, network in NETWORKS.items() if network is type(model)]
    return (names or [type(model).__name__])[0]


def network_fields(model: nn.Module) -> dict[str, Any]:
    """Returns the keyword arguments that make a network like this one."""
    return {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        # Flax adds these two fields to every module.
        if field.name not in ("parent", "name")
    }


def make_network(
    name: str, fields: Mapping[str, Any], *, num_arrays: int | None = None
) -> nn.Module:
    """Builds the network that a config or a weights file describes.

    Args:
        name: one of NETWORKS. No module is imported, because the name may come from an
            untrusted file.
        fields: keyword arguments of the network.
        num_arrays: number of parameter arrays in an untrusted file. No field that counts
            layers, and no length of a tuple, may exceed it; tracing a larger network
            would never end.

    Raises:
        InputError: unknown network, field or front end, too few arrays, or a network
            that lacks a needed attribute, or has a stride or a field that the project
            cannot use.
    """
    if is_import_path(name) and name not in NETWORKS:
        raise InputError(
            f"the network {name} is not imported, because a file that names it may be"
            f" untrusted; if you trust this module, name it too: --network={name}, or in"
            f" Python import_network({name!r})"
        )
    if name not in NETWORKS:
        raise InputError(f"no network {name!r}, only {', '.join(NETWORKS)}")
    try:
        if num_arrays is not None:
            _check_counts(name, fields, num_arrays)
        if front_end := fields.get("front_end"):
            find_bank(front_end)
        model = NETWORKS[name](**fields)
    except TypeError as error:
        raise InputError(f"{name}: {error}") from error
    _check_usable(name, model)
    return model


def _check_counts(name: str, fields: Mapping[str, Any], num_arrays: int) -> None:
    """Raises InputError if fields ask for more layers than there are arrays."""
    for field, value in fields.items():
        several = isinstance(value, tuple | list)
        counts = [len(value)] if several else []
        if field.startswith("num_"):
            counts += value if several else [value]
        if max(counts, default=0) > num_arrays:
            raise InputError(
                f"{name}: {field}={value!s:.100}, but there are only {num_arrays} arrays"
                " of parameters; a tuple may be no longer, and a field whose name begins"
                " with num_ no larger, since such fields count layers"
            )


def _check_usable(name: str, model: nn.Module) -> None:
    """Raises InputError if the rest of the project cannot work with a network."""
    for attribute in _ATTRIBUTES:
        if not hasattr(model, attribute):
            raise InputError(
                f"{name} has no attribute {attribute!r}; a network needs"
                f" {', '.join(_ATTRIBUTES)}"
            )
    # Windows of large photos begin at multiples of STRIDE.
    stride: Any = model.stride  # pyright: ignore[reportAttributeAccessIssue]
    if stride not in [n for n in range(1, STRIDE + 1) if STRIDE % n == 0]:
        raise InputError(f"{name}: stride={stride!r}: expected a divisor of {STRIDE}")
    for field, value in network_fields(model).items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{name}: {field}={value!r}: expected text, a number or a tuple of"
                " such values, which checkpoints can hold"
            ) from error


def init_params(model: nn.Module, key: jax.Array) -> Any:
    """Returns initial parameters, without running the network.

    The function is not jitted, because compiling it takes several times as long.
    """
    image = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), "float32")
    variables = model.lazy_init(key, image)
    return join_params(variables["params"], variables.get("batch_stats", {}))


@functools.lru_cache(64)
def abstract_params(model: nn.Module) -> Any:
    """Returns names, shapes and dtypes of the parameters, on the first device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes
    )


def apply(model: nn.Module, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Applies a network to a batch, with batch norm's running statistics."""
    trained, statistics = split_params(params)
    variables = {"params": trained, "batch_stats": statistics}
    # Flax returns a pair only if a collection is mutable.
    return model.apply(variables, images)  # pyright: ignore[reportReturnType]


@functools.lru_cache(64)
def abstract_outputs(model: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns names, shapes and dtypes of a network's outputs for one small image."""
    image = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), "float32")
    return jax.eval_shape(functools.partial(apply, model), abstract_params(model), image)


def split_params(params: Any) -> tuple[Any, Any]:
    """Splits a network's arrays into trained parameters and batch norm's statistics."""
    flat = flax.traverse_util.flatten_dict(params)
    statistics = {path: flat.pop(path) for path in [*flat] if path[-1] in _STATISTICS}
    return tuple(map(flax.traverse_util.unflatten_dict, (flat, statistics)))


def join_params(trained: Any, statistics: Any) -> Any:
    """Joins what `split_params` splits."""
    trees = map(flax.traverse_util.flatten_dict, (trained, statistics))
    flat = {path: leaf for tree in trees for path, leaf in tree.items()}
    return flax.traverse_util.unflatten_dict(flat)
