"""Reads and writes weights as safetensors files, which run no code when they are read.

Parameters have flat names such as "trunk/stem/kernel". The metadata of a file describes
the network. A folder of weights has the description in config.json instead.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from eddsrn_jax.checkpoints.card import make_card
from eddsrn_jax.checkpoints.found_weights import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    find_weights,
)
from eddsrn_jax.checkpoints.parameters import fitted, flat, merge
from eddsrn_jax.errors import InputError
from eddsrn_jax.files import make_folder, write_text, written_beside
from eddsrn_jax.models import (
    NETWORKS,
    abstract_params,
    make_network,
    network_fields,
    network_name,
)
from eddsrn_jax.paths import printable

# Suffix of the name of an 8-bit kernel's scales, one for each output channel.
_SCALE = ":scale"
# Size in bytes above which a config.json is not read.
_LARGEST_CONFIG = 1_000_000
# Errors that malformed files and descriptions cause.
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        model: architecture.
        params: network parameters; only their shapes and dtypes if not read yet.
        name: name of the method in tables.
        step: number of training steps.
        sigma_range: lowest and highest blur that the network was trained for.
    """

    model: nn.Module
    params: Any
    name: str
    step: int
    sigma_range: tuple[float, float]


def write_network(path: Path, network: Network, *, dtype: str = "float16") -> None:
    """Writes a network as one safetensors file, or as a folder of weights.

    A folder gets config.json, model.safetensors, and README.md, a model card. An existing
    card is kept.

    Args:
        path: file to write if its name ends in .safetensors, otherwise folder to write.
        network: network to write.
        dtype: type of the parameters in the file. "int8" stores kernels in 8 bits, with
            a scale for each output channel, and all other parameters in float32.

    Raises:
        InputError: the path cannot be written, the folder holds something else, or a
            parameter is not finite in the dtype; or the network is one of the user's
            that `import_network` has not imported.
    """
    name = network_name(network.model)
    if name not in NETWORKS:
        raise InputError(
            f"{path}: nothing could read the weights of {name}, whose class is not"
            " imported by its path; call import_network first, such as"
            f" import_network('my_networks:{name}')"
        )
    arrays = _arrays_to_write(path, network.params, dtype)
    description = {
        "name": network.name,
        "step": network.step,
        "sigma_range": network.sigma_range,
        "network": name,
        "model": network_fields(network.model),
    }
    if path.suffix == ".safetensors":
        metadata = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in description.items()
        }
        _write_arrays(path, arrays, metadata)
        return
    _check_replaceable(path)
    make_folder(path, "folder")
    try:
        # First, so that the folder is recognised if the work is interrupted.
        write_text(path / CONFIG_FILE, json.dumps(description, indent=2) + "\n")
        _write_arrays(path / WEIGHTS_FILE, arrays, None)
        if not (path / CARD_FILE).exists():
            card = make_card(network.model, network.params, description, dtype=dtype)
            write_text(path / CARD_FILE, card)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error})") from error


def _arrays_to_write(path: Path, params: Any, dtype: str) -> dict[str, np.ndarray]:
    """Returns the arrays that store parameters.

    Raises:
        InputError: a parameter is not finite, or not finite in the dtype.
    """
    arrays = {}
    for name, value in flat(params).items():
        value = np.asarray(value, np.float32)
        if not np.isfinite(value).all():
            raise InputError(f"{path}: {name} is not finite")
        arrays |= _stored(name, value, dtype)
    for name, array in arrays.items():
        if not np.isfinite(array.astype(np.float32)).all():
            raise InputError(f"{path}: {name} is not finite in {dtype}")
    return arrays


def _write_arrays(
    path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None
) -> None:
    try:
        with written_beside(path) as temporary:
            # `save_file` would make a file that only its owner can read.
            content = safetensors.numpy.save(arrays, metadata=metadata)
            temporary.write_bytes(content)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: cannot be written ({error})") from error


def _check_replaceable(folder: Path) -> None:
    """Raises InputError if a folder holds files that `write_network` did not write."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        description = json.loads((folder / CONFIG_FILE).read_text())
        ours = {"model", "sigma_range"} <= description.keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        ours = False
    if not ours:
        raise InputError(
            f"{folder}: this folder holds other files; give a new or empty folder, or a"
            " file whose name ends in .safetensors"
        )


def _stored(name: str, value: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """Returns the arrays that store a parameter: itself, or 8-bit integers and scales."""
    if dtype != "int8":
        # The caller checks for overflow.
        with np.errstate(over="ignore"):
            return {name: np.array(value.astype(jnp.dtype(dtype)), order="C")}
    if value.ndim < 2:
        return {name: value}
    largest = np.abs(value).max(axis=tuple(range(value.ndim - 1)))
    scale = np.where(largest > 0, largest, 1) / 127
    return {name: np.rint(value / scale).astype(np.int8), name + _SCALE: scale}


def load_weights(path: Path, like: Any, *, start: Any = None) -> Any:
    """Reads the parameters in a .safetensors file.

    Args:
        path: file to read.
        like: tree of the expected shapes and dtypes.
        start: parameters to keep where the file has none that fits, see `merge`; None
            if all must fit.

    Returns:
        Parameters as a tree like `like`.

    Raises:
        InputError: the file cannot be read as safetensors, a name or shape differs from
            `like`, or a parameter is not finite; or with `start` none fits.
    """
    params = _read_arrays(path)
    if start is not None:
        return merge(params, start, str(path))
    return fitted(params, like, str(path))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the parameters in a file by their flat names.

    Raises:
        InputError: the file cannot be read as safetensors, or has a scale without a
            kernel.
    """
    try:
        arrays = safetensors.numpy.load_file(path)
    # For types that NumPy lacks, the library raises an AttributeError or TypeError.
    except (OSError, safetensors.SafetensorError, *_MALFORMED) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error})") from error
    scales = {name: arrays.pop(name) for name in [*arrays] if name.endswith(_SCALE)}
    for name, scale in scales.items():
        kernel = name.removesuffix(_SCALE)
        if kernel not in arrays or scale.shape != arrays[kernel].shape[-1:]:
            raise InputError(f"{path}: the scale {name} belongs to no kernel in the file")
        arrays[kernel] = arrays[kernel].astype(np.float32) * scale
    return arrays


def read_network(name: Path | str | None = None) -> Network:
    """Reads a network that `write_network` wrote.

    Args:
        name: see `find_weights`.

    Raises:
        InputError: the file cannot be read as safetensors, or neither its metadata nor
            the config.json beside it describes a network with these parameters.
    """
    path = find_weights(name)
    arrays = _read_arrays(path)
    try:
        values = _read_description(path)
        description = {
            # Old files do not name their network: EDDSRN was the only one.
            "network": values.get("network", "EDDSRN"),
            # JSON has no tuples, and a module with lists cannot be hashed.
            "model": {k: tupled(v) for k, v in values["model"].items()},
            "name": values["name"],
            "step": int(values["step"]),
            "sigma_range": values["sigma_range"],
        }
    except (OSError, *_MALFORMED, RecursionError) as error:
        raise InputError(
            f"{path}: neither its metadata nor a {CONFIG_FILE} beside it has a network;"
            " expected a file or folder written by python -m eddsrn_jax export"
        ) from error
    network = describe_network(description, num_arrays=len(arrays), origin=str(path))
    return with_params(network, arrays, origin=str(path))


def _read_description(path: Path) -> dict[str, Any]:
    """Returns the untrusted description in a file's metadata, or in its config.json.

    Raises:
        OSError, ValueError, RecursionError: the description cannot be read.
    """
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata() or {}
    if "model" in metadata:
        lists = {key: json.loads(metadata[key]) for key in ("model", "sigma_range")}
        return {**metadata, **lists}
    with path.with_name(CONFIG_FILE).open("rb") as file:
        content = file.read(_LARGEST_CONFIG + 1)
    if len(content) > _LARGEST_CONFIG:
        raise ValueError(f"{CONFIG_FILE} has more than {_LARGEST_CONFIG} bytes")
    return json.loads(content)


def describe_network(
    description: Mapping[str, Any], *, num_arrays: int, origin: str
) -> Network:
    """Checks an untrusted description, and returns its network without parameter values.

    Args:
        description: "network" and "model", the arguments of `make_network`; "name",
            "step" and "sigma_range", the fields of Network. Values may be missing or of
            any type.
        num_arrays: number of parameter arrays that come with the description.
        origin: place of the description, for messages.

    Returns:
        A network whose `params` are shapes and dtypes.

    Raises:
        InputError: the description is malformed.
    """
    try:
        model = make_network(
            description["network"], description["model"], num_arrays=num_arrays
        )
        if not jnp.issubdtype(jnp.dtype(model.dtype), jnp.floating):
            raise ValueError(f"dtype={model.dtype}: expected a floating type")
        shapes = abstract_params(model)
        low, high = map(float, description["sigma_range"])
        if not 0 <= low <= high < math.inf:
            raise ValueError(f"sigma_range from {low} to {high}")
        name, step = description["name"], description["step"]
        if not isinstance(name, str):
            raise TypeError(f"name={name!r}: expected text")
    except _MALFORMED as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{origin}: its network cannot be built: {reason}") from error
    # The name goes to terminals and into tables.
    return Network(model, shapes, printable(name).replace("|", " "), step, (low, high))


def with_params(network: Network, params: Any, *, origin: str) -> Network:
    """Gives parameters to a network that `describe_network` returned.

    Args:
        network: network without parameter values.
        params: parameters, as a tree or by flat names.
        origin: place of the parameters, for messages.

    Raises:
        InputError: a name or shape differs, or a parameter is not finite.
    """
    return dataclasses.replace(network, params=fitted(params, network.params, origin))


def tupled(value: Any) -> Any:
    """Converts lists, nested ones too, to tuples; JSON turns tuples into lists."""
    return tuple(map(tupled, value)) if isinstance(value, list) else value
