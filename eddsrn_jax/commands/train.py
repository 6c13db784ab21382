"""Trains a network: python train.py --config=configs/eddsrn.py --workdir=runs/eddsrn."""

import math
import signal
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.commands.process_flags import connect_by_flags, define_process_flags
from eddsrn_jax.config_values import Config, read_config
from eddsrn_jax.errors import UsageError
from eddsrn_jax.files import workdir_path

FLAGS = flags.FlagValues()
define_process_flags(FLAGS)
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file of the run, such as configs/eddsrn.py. Default: the config that the run"
    " in --workdir has saved.",
    lock_config=True,
    flag_values=FLAGS,
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder for checkpoints, logs and results. If it holds a run, that run is resumed."
    " Default: runs/NAME, where NAME is the config file's name, followed by its size if"
    " one is given.",
    flag_values=FLAGS,
)
_MAX_MINUTES = flags.DEFINE_float(
    "max_minutes",
    math.inf,
    "Save and end the run after this many minutes. It can be resumed.",
    lower_bound=0,
    flag_values=FLAGS,
)
_PROFILE = flags.DEFINE_integer(
    "profile",
    0,
    "Number of steps to trace with JAX's profiler, into WORKDIR/profile.",
    lower_bound=0,
    flag_values=FLAGS,
)


def _config_and_workdir() -> tuple[Config, Path]:
    """Returns the config and the workdir that the flags name."""
    if _CONFIG.value is None:
        if not _WORKDIR.value:
            raise UsageError(
                "give --config for a new run, or the --workdir of a run to resume"
            )
        workdir = workdir_path(_WORKDIR.value)
        if not (workdir / "config.json").is_file():
            raise UsageError(
                f"--workdir={workdir}: no run to resume (it has no config.json); give"
                " --config for a new run"
            )
        return read_config(workdir / "config.json"), workdir
    # Some config files take a size, as in configs/srresnet.py:lite.
    given = config_flags.get_config_filename(FLAGS["config"])
    config_file, _, size = given.partition(":")
    if not Path(config_file).is_file():
        raise UsageError(f"--config={config_file}: no such file")
    name = "-".join(filter(None, [Path(config_file).stem, size]))
    return _CONFIG.value, workdir_path(_WORKDIR.value or Path("runs", name))


def main() -> int:
    """Trains as the flags say; returns 130 after Ctrl-C, else 0."""
    # Imported here, so that --help and wrong flags are answered immediately.
    from eddsrn_jax.training.loop import train_and_evaluate

    config, workdir = _config_and_workdir()
    connect_by_flags(FLAGS)
    stopped = train_and_evaluate(
        config,
        workdir,
        max_minutes=_MAX_MINUTES.value,
        profile_steps=_PROFILE.value,
    )
    return 128 + stopped if stopped == signal.SIGINT else 0


def run() -> None:
    """Runs the command as a process."""
    run_command(main, FLAGS)
