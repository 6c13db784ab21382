"""Compares and combines trees of parameters, such as read and expected ones."""

import logging
from collections.abc import Collection
from typing import Any

import flax.traverse_util
import numpy as np

from eddsrn_jax.errors import InputError

_log = logging.getLogger(__name__)


def check_matches(params: Any, like: Any, origin: str) -> None:
    """Checks that parameters have the expected names and shapes.

    Args:
        params: parameters, as a tree or by flat names.
        like: tree of the expected shapes.
        origin: place of the parameters, for messages.

    Raises:
        InputError: a name or shape differs; the message names the first difference.
    """
    found, expected = flat(params), flat(like)
    for name in [*expected, *found]:
        here = tuple(found[name].shape) if name in found else "nothing"
        wanted = tuple(expected[name].shape) if name in expected else "nothing"
        if here != wanted:
            raise InputError(
                f"{origin} has another architecture: {name} has {here}, expected {wanted}"
            )


def fitted(params: Any, like: Any, origin: str) -> Any:
    """Returns parameters as a tree with the dtypes of `like`.

    Args:
        params, like, origin: see `check_matches`.

    Raises:
        InputError: a name or shape differs from `like`, or a parameter is not finite.
    """
    check_matches(params, like, origin)
    values = flat(params)
    cast = {name: values[name].astype(x.dtype) for name, x in flat(like).items()}
    for name, array in cast.items():
        if not np.isfinite(array).all():
            raise InputError(f"{origin}: {name} is not finite")
    return flax.traverse_util.unflatten_dict(cast, sep="/")


def merge(params: Any, start: Any, origin: str) -> Any:
    """Replaces parameters by those with the same name and shape; logs which are kept.

    Args:
        params: new parameters, as a tree or by flat names.
        start: tree of parameters to replace.
        origin: place of the new parameters, for messages.

    Returns:
        A tree with the names, shapes and dtypes of `start`.

    Raises:
        InputError: no parameter fits, or one that does is not finite.
    """
    new, old = flat(params), flat(start)
    fitting = {
        name: value
        for name, value in old.items()
        if name in new and new[name].shape == value.shape
    }
    if not fitting:
        raise InputError(
            f"{origin}: none of its {len(new)} parameters has the name and shape of one"
            f" of the network's {len(old)}"
        )
    taken = fitted({name: new[name] for name in fitting}, fitting, origin)
    kept = old.keys() - fitting.keys()
    _log.info(
        "%s: %d of the network's %d parameters are taken; %s",
        origin,
        len(fitting),
        len(old),
        f"random are {', '.join(_groups(kept, old))}" if kept else "none is random",
    )
    return flax.traverse_util.unflatten_dict({**old, **flat(taken)}, sep="/")


def _groups(names: Collection[str], all_names: Collection[str]) -> list[str]:
    """Names parameters, and a module once instead of all its parameters."""
    others = [f"{name}/" for name in all_names if name not in names]
    groups: dict[str, None] = {}
    for name in sorted(names):
        parts = name.split("/")
        modules = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        # The largest module without a parameter of the others, or the parameter itself.
        alone = (x for x in modules if not any(y.startswith(f"{x}/") for y in others))
        groups[next(alone)] = None
    return [*groups]


def flat(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by flat names such as "trunk/stem/kernel"."""
    return flax.traverse_util.flatten_dict(tree, sep="/")
