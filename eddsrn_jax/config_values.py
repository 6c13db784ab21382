"""Functions on configs: values by dotted names, restoring from JSON, comparing."""

import json
from pathlib import Path
from typing import Any, TypeAlias

import flax.traverse_util
import ml_collections

from eddsrn_jax.errors import InputError

# An ml_collections.ConfigDict. By its annotations any value may be a number, text, a
# tuple or None, so type checkers would reject config.data.source and the like. As Any,
# configs are exempt from their checks; config_checks.check tests the values when a run
# starts.
Config: TypeAlias = Any

# Values of sections that old configs lack.
_LACKING = (
    ("checkpoint", "keep_every_steps", 0),
    ("optimizer", "name", "adam"),
    ("degradation", "own", ""),
)


def flatten(config: Config) -> dict[str, Any]:
    """Returns the values of a config by their dotted names.

    Lists become tuples, since ml_collections has some as tuples and JSON has only lists.
    """
    values = flax.traverse_util.flatten_dict(config.to_dict(), sep=".")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def text(config: Config, name: str) -> str:
    """Returns a text value of a config that may be untrusted, by its dotted name.

    Raises:
        InputError: the value is missing or is not text.
    """
    values = flatten(config)
    if name not in values:
        raise InputError(f"config.{name} is missing")
    if not isinstance(values[name], str):
        raise InputError(f"config.{name}={values[name]!r}: expected text")
    return values[name]


def from_json(values: dict[str, Any]) -> Config:
    """Restores a locked config from JSON values; JSON turned its tuples into lists."""

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: restore(v) for key, v in value.items()}
        return tuple(restore(v) for v in value) if isinstance(value, list) else value

    # Values that old configs lack. EDDSRN was the only network.
    old = {"network": "EDDSRN", "init_from_partial": False}
    config = ml_collections.ConfigDict({**old, **restore(values)})
    for name, field, value in _LACKING:
        section = config.get(name)
        if isinstance(section, ml_collections.ConfigDict):
            section[field] = section.get(field, value)
    return config.lock()


def read_config(path: Path) -> Config:
    """Reads the config that a run has saved as JSON.

    Raises:
        InputError: the file does not exist or is no config.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        if not isinstance(values, dict):
            raise TypeError(f"{type(values).__name__} instead of an object")
        return from_json(values)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not the config of a run ({error})") from error


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the differing values of two configs, (old, new), by their dotted names."""
    a, b = flatten(old), flatten(new)
    return {k: (a.get(k), b.get(k)) for k in a | b if a.get(k) != b.get(k)}
