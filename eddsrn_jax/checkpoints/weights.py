"""Weights as safetensors: flat names such as "trunk/stem/kernel", never pickles."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from eddsrn_jax.errors import InputError
from eddsrn_jax.files import written_beside
from eddsrn_jax.models import abstract_params, make_network

# After the name of a kernel stored in 8 bits: what its output channels are multiplied by.
_SCALE = ":scale"
# What reading something else than was meant ends in.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_FOLDER = Path(__file__).parents[1] / "weights"
# Weights that come with the package, by the names that commands take.
SHIPPED: Mapping[str, Path] = {
    "gaussian": _FOLDER / "gaussian.safetensors",
    "eddsrn-lite": _FOLDER / "eddsrn_lite.safetensors",
}
DEFAULT = "eddsrn-lite"


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        model: its architecture.
        params: of the model.
        name: for tables.
        step: of its training.
        sigma_range: lowest and highest blur that it was trained for.
    """

    model: nn.Module
    params: Any
    name: str
    step: int
    sigma_range: tuple[float, float]


def write_network(path: Path, network: Network, *, dtype: str = "float16") -> None:
    """Writes a network as safetensors, all but its parameters as metadata.

    Args:
        path: ends in .safetensors.
        network: to write.
        dtype: that the parameters are stored in; "int8" stores kernels so, with a scale
            for each output channel, and the rest in float32.

    Raises:
        InputError: another extension, the file cannot be written, or a parameter is not
            finite in the dtype.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: expected a name that ends in .safetensors")
    arrays = {}
    for name, value in _flat(network.params).items():
        value = np.asarray(value, np.float32)
        if not np.isfinite(value).all():
            raise InputError(f"{path}: {name} is not finite")
        arrays |= _stored(name, value, dtype)
    for name, array in arrays.items():
        if not np.isfinite(array.astype(np.float32)).all():
            raise InputError(f"{path}: {name} is not finite in {dtype}")
    fields = {
        field.name: getattr(network.model, field.name)
        for field in dataclasses.fields(network.model)
        # Flax's own.
        if field.name not in ("parent", "name")
    }
    metadata = {
        "name": network.name,
        "step": str(network.step),
        "sigma_range": json.dumps(network.sigma_range),
        "network": type(network.model).__name__,
        "model": json.dumps(fields),
    }
    try:
        with written_beside(path) as temporary:
            # `save_file` would make a file that only its owner can read.
            content = safetensors.numpy.save(arrays, metadata=metadata)
            temporary.write_bytes(content)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: cannot be written ({error})") from error


def _stored(name: str, value: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """What a parameter is in a file: itself, or whole numbers and their scales."""
    if dtype != "int8":
        # An overflow is the caller's to see.
        with np.errstate(over="ignore"):
            return {name: np.array(value.astype(jnp.dtype(dtype)), order="C")}
    if value.ndim < 2:
        return {name: value}
    largest = np.abs(value).max(axis=tuple(range(value.ndim - 1)))
    scale = np.where(largest > 0, largest, 1) / 127
    return {name: np.rint(value / scale).astype(np.int8), name + _SCALE: scale}


def load_weights(path: Path, like: Any) -> Any:
    """Reads parameters.

    Args:
        path: a .safetensors file.
        like: a tree with the shapes and dtypes that the network expects.

    Raises:
        InputError: no such file, not safetensors, a name or shape that differs, or a
            parameter that is not finite.
    """
    return _fitted(_read_arrays(path), like, str(path))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The parameters in a file by their flat names; InputError where it has none."""
    try:
        arrays = safetensors.numpy.load_file(path)
    # Of types that NumPy lacks it says no more than that.
    except (OSError, safetensors.SafetensorError, *_MALFORMED) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error})") from error
    scales = {name: arrays.pop(name) for name in [*arrays] if name.endswith(_SCALE)}
    for name, scale in scales.items():
        kernel = name.removesuffix(_SCALE)
        if kernel not in arrays or scale.shape != arrays[kernel].shape[-1:]:
            raise InputError(f"{path}: {name} is of no kernel in it")
        arrays[kernel] = arrays[kernel].astype(np.float32) * scale
    return arrays


def _fitted(params: Any, like: Any, origin: str) -> Any:
    """Parameters as a tree of the dtypes of `like`; InputError where they do not fit."""
    check_matches(params, like, origin)
    flat = _flat(params)
    cast = {name: flat[name].astype(x.dtype) for name, x in _flat(like).items()}
    for name, array in cast.items():
        if not np.isfinite(array).all():
            raise InputError(f"{origin}: {name} is not finite")
    return flax.traverse_util.unflatten_dict(cast, sep="/")


def find_weights(name: Path | str | None) -> Path:
    """The file of weights that a user means.

    Args:
        name: a name in SHIPPED, or the path of a file; None for the default weights.

    Raises:
        InputError: neither a name that is known nor a file.
    """
    name = str(name or DEFAULT)
    if name in SHIPPED:
        return SHIPPED[name]
    path = Path(name).expanduser()
    if path.name == name and not path.suffix and not path.exists():
        raise InputError(
            f"no weights {name!r}: expected a .safetensors file, or one of"
            f" {', '.join(SHIPPED)}"
        )
    return path


def read_network(name: Path | str | None = None) -> Network:
    """Reads what `write_network` wrote.

    Args:
        name: see `find_weights`.

    Raises:
        InputError: no such file, not safetensors, or what `describe_network` and
            `with_params` raise.
    """
    path = find_weights(name)
    arrays = _read_arrays(path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
        description = {
            # Before there were others it was left unsaid.
            "network": metadata.get("network", "EDDSRN"),
            # JSON has no tuples, and a module with lists cannot be hashed.
            "model": {k: tupled(v) for k, v in json.loads(metadata["model"]).items()},
            "name": metadata["name"],
            "step": int(metadata["step"]),
            "sigma_range": json.loads(metadata["sigma_range"]),
        }
    except (*_MALFORMED, RecursionError) as error:
        raise InputError(
            f"{path}: no network in its metadata; expected a file of"
            " python -m eddsrn_jax.export_weights"
        ) from error
    network = describe_network(description, num_arrays=len(arrays), origin=str(path))
    return with_params(network, arrays, origin=str(path))


def describe_network(
    description: Mapping[str, Any], *, num_arrays: int, origin: str
) -> Network:
    """A network with shapes for parameters, checked: what it is of may be a stranger's.

    Args:
        description: "network" and "model", see `make_network`, and what else a Network
            has; any of it may be missing or of any type.
        num_arrays: that its parameters are.
        origin: of the description, for errors.

    Raises:
        InputError: no network can be like that.
    """
    try:
        model = make_network(
            *(description["network"], description["model"]), num_arrays=num_arrays
        )
        if not jnp.issubdtype(jnp.dtype(model.dtype), jnp.floating):
            raise ValueError(f"computes in {model.dtype}")
        shapes = abstract_params(model)
        low, high = map(float, description["sigma_range"])
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"sigma from {low} to {high}")
        name, step = description["name"], description["step"]
        if not isinstance(name, str):
            raise TypeError(f"its name is {name!r}")
    except _MALFORMED as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{origin}: its network cannot be made: {reason}") from error
    return Network(model, shapes, name, step, (low, high))


def with_params(network: Network, params: Any, *, origin: str) -> Network:
    """A network of `describe_network` with its parameters, a tree or by flat names.

    Raises:
        InputError: they are another network's, or not finite.
    """
    return dataclasses.replace(network, params=_fitted(params, network.params, origin))


def tupled(value: Any) -> Any:
    """What was a tuple before it became a list of JSON, nested ones too."""
    return tuple(map(tupled, value)) if isinstance(value, list) else value


def check_matches(params: Any, like: Any, origin: str) -> None:
    """Compares names and shapes.

    Raises:
        InputError: names the first difference.
    """
    found, expected = _flat(params), _flat(like)
    for name in [*expected, *found]:
        here = tuple(found[name].shape) if name in found else "nothing"
        wanted = tuple(expected[name].shape) if name in expected else "nothing"
        if here != wanted:
            raise InputError(
                f"{origin} is of another architecture: {name} has {here}, the config's"
                f" model {wanted}"
            )


def _flat(tree: Any) -> dict[str, Any]:
    """Leaves by names such as "trunk/stem/kernel"."""
    return flax.traverse_util.flatten_dict(tree, sep="/")
