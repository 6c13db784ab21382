"""ED-DSRN in JAX: joint deblurring and x4 super-resolution of photos."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eddsrn_jax.restoration.restorer import Restorer

__version__ = "0.1.0"
__all__ = ["Restorer", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that the commands' --help does not load JAX.
    if name == "Restorer":
        from eddsrn_jax.restoration.restorer import Restorer

        return Restorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
