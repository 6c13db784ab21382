"""A run on Weights & Biases, beside the logs in the workdir.

The package wandb sends the values to the server that it is set up for.
"""

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from eddsrn_jax.config_values import Config
from eddsrn_jax.errors import InputError
from eddsrn_jax.files import write_text

_log = logging.getLogger(__name__)

# Function that records values by name for a step.
Record = Callable[[int, Mapping[str, float]], None]


@contextlib.contextmanager
def wandb_run(project: str, workdir: Path, config: Config) -> Iterator[Record]:
    """Starts or resumes the workdir's run on Weights & Biases; ends it after the block.

    Args:
        project: project of the run on Weights & Biases.
        workdir: workdir of the run. A file in it keeps the id, so that a resumed run
            continues the same run there.
        config: config of the run, which is shown there.

    Yields:
        A function that records values.

    Raises:
        ModuleNotFoundError: the package wandb is not installed.
        InputError: the run cannot be started there, such as without a login.
    """
    import wandb  # pyright: ignore[reportMissingImports]

    path = workdir / "wandb-id.txt"
    number = path.read_text().strip() if path.exists() else secrets.token_hex(4)
    write_text(path, f"{number}\n")
    try:
        run = wandb.init(
            project=project,
            id=number,
            resume="allow",
            dir=str(workdir),
            config=config.to_dict(),
            # A resumed run may have other values.
            allow_val_change=True,
        )
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InputError(
            f"--wandb={project}: no run can be started ({reason})"
        ) from error
    _log.info("values go to the project %s of Weights & Biases, run %s", project, number)
    try:
        # Values of one step may come in several calls. wandb ignores those of earlier
        # steps, which a run that resumes after a crash computes again.
        yield lambda step, values: run.log(dict(values), step=step)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish(exit_code=0)
