"""ED-DSRN in JAX: joint deblurring and x4 super-resolution of photographs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eddsrn_jax.restoration import Restorer

__version__ = "0.1.0"
__all__ = ["Restorer", "__version__"]


def __getattr__(name: str) -> Any:
    # Only when it is asked for: the commands' --help needs no JAX.
    if name == "Restorer":
        from eddsrn_jax.restoration import Restorer

        return Restorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
