"""Explains errors of a training that does not fit in memory."""

import contextlib
from collections.abc import Iterator

import jax

from eddsrn_jax.config_values import Config
from eddsrn_jax.errors import InputError
from eddsrn_jax.machine import is_out_of_memory


@contextlib.contextmanager
def explaining_memory(config: Config) -> Iterator[None]:
    """Turns the memory errors of the block into an error that names remedies.

    Args:
        config: config of the run.

    Raises:
        InputError: the block needs more memory than there is.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        text = str(error) or "MemoryError"
        if isinstance(error, jax.errors.JaxRuntimeError) and not is_out_of_memory(error):
            raise
        device, reason = jax.devices()[0].device_kind, text.splitlines()[0]
        raise InputError(
            f"the training does not fit in the memory of {device} ({reason}); use"
            f" {', '.join(_remedies(config))}"
        ) from error


def _remedies(config: Config) -> list[str]:
    """Returns the config values that lower the memory of a training step."""
    remedies = [
        f"a smaller config.batch_size ({config.batch_size})",
        f"a smaller config.data.hr_patch_size ({config.data.hr_patch_size})",
    ]
    if config.model.get("rematerialize") is False:
        remedies.append("config.model.rematerialize=true")
    if config.model.get("dtype") == "float32":
        remedies.append("config.model.dtype=bfloat16")
    if config.data.pipeline == "resident":
        remedies.append("config.data.pipeline=stream")
    return [*remedies[:-1], f"or {remedies[-1]}"]
