"""ED-DSRN in JAX: joint deblurring and x4 super-resolution of photos."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eddsrn_jax.restoration.restorer import Restorer

__version__ = "0.2.0"
__all__ = ["Restorer", "__version__"]

# pip checks this too, but not if the package is used from a clone.
if sys.version_info < (3, 11):  # noqa: UP036
    raise ImportError(
        "eddsrn_jax needs Python 3.11 or newer; this is Python"
        f" {sys.version_info[0]}.{sys.version_info[1]}"
    )


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the commands' --help does not load JAX.
    if name == "Restorer":
        from eddsrn_jax.restoration.restorer import Restorer

        return Restorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
