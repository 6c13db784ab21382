"""Weights as safetensors: flat names such as "trunk/stem/kernel", never pickles."""

import json
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np
import safetensors
import safetensors.numpy

from eddsrn_jax.errors import InputError
from eddsrn_jax.models import EDDSRN, abstract_params


def save_weights(path: Path, params: Any, *, metadata: dict[str, str]) -> None:
    """Writes parameters, with what is to be said of them."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    arrays = {name: np.ascontiguousarray(value) for name, value in flat.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(arrays, path, metadata=metadata)


def load_weights(path: Path, like: Any) -> Any:
    """Reads parameters.

    Args:
        path: a .safetensors file.
        like: a tree with the shapes and dtypes that the network expects.

    Raises:
        InputError: no such file, not safetensors, or a name or shape that differs.
    """
    try:
        arrays = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error})") from error
    check_matches(flax.traverse_util.unflatten_dict(arrays, sep="/"), like, str(path))
    flat = flax.traverse_util.flatten_dict(like, sep="/")
    cast = {name: arrays[name].astype(expected.dtype) for name, expected in flat.items()}
    return flax.traverse_util.unflatten_dict(cast, sep="/")


def read_network(path: Path | str | None = None) -> tuple[EDDSRN, Any]:
    """A network and its parameters.

    Args:
        path: a .safetensors file that has the network's fields as JSON in its metadata,
            under "model"; where None the one that comes with the package.

    Raises:
        InputError: no such file, not safetensors, no or wrong fields, or a name or shape
            that differs from what they say.
    """
    path = Path(path or Path(__file__).with_name("eddsrn_lite.safetensors")).expanduser()
    try:
        with safetensors.safe_open(path, "numpy") as file:
            fields = json.loads((file.metadata() or {}).get("model", "null"))
        # JSON has no tuples, and a module with lists cannot be hashed.
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        model = EDDSRN(**fields)
        like = abstract_params(model)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors ({error})") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: no network's fields in its metadata, under 'model'; expected a file"
            " of python -m eddsrn_jax.export_weights"
        ) from error
    return model, load_weights(path, like)


def check_matches(params: Any, like: Any, origin: str) -> None:
    """Compares names and shapes.

    Raises:
        InputError: names the first difference.
    """
    found = flax.traverse_util.flatten_dict(params, sep="/")
    expected = flax.traverse_util.flatten_dict(like, sep="/")
    for name in [*expected, *found]:
        here = tuple(found[name].shape) if name in found else "nothing"
        wanted = tuple(expected[name].shape) if name in expected else "nothing"
        if here != wanted:
            raise InputError(
                f"{origin} is of another architecture: {name} has {here}, the config's"
                f" model {wanted}"
            )
