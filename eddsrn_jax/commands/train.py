"""Trains a network: eddsrn train --config=eddsrn --workdir=runs/eddsrn.

In a clone, python train.py --config=configs/eddsrn.py is the same command.
"""

import math
import signal
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from eddsrn_jax import config_values
from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.commands.config_flag import (
    ResumableFlags,
    config_name,
    define_config_flag,
    why_no_config,
)
from eddsrn_jax.commands.process_flags import connect_by_flags, define_process_flags
from eddsrn_jax.config_values import Config
from eddsrn_jax.errors import UsageError
from eddsrn_jax.paths import workdir_path

FLAGS = ResumableFlags()
define_process_flags(FLAGS)
_CONFIG = define_config_flag(
    FLAGS,
    "Config of the run: an included one, such as eddsrn_lite, or a file. Default: the"
    " config that the run in --workdir has saved. --config.NAME=VALUE changes a value.",
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
    "Save and end the run after this many minutes, which include packing and compiling."
    " It can be resumed.",
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
_WANDB = flags.DEFINE_string(
    "wandb",
    None,
    "Project on Weights & Biases that gets the values of metrics.jsonl too. A resumed run"
    " continues its run there. The package wandb sends them to its server.",
    flag_values=FLAGS,
)
_DRY_RUN = flags.DEFINE_boolean(
    "dry_run",
    False,
    "Only print what the run would cost: parameters, shapes, memory, time per step. No"
    " photo is read and no file is written.",
    flag_values=FLAGS,
)


def _config_and_workdir() -> tuple[Config, Path]:
    """Returns the config and the workdir that the flags name."""
    if _CONFIG.value is None:
        workdir = workdir_path(_WORKDIR.value) if _WORKDIR.value else None
        raise UsageError(why_no_config(workdir))
    workdir = _WORKDIR.value or Path("runs", config_name(FLAGS))
    return _CONFIG.value, workdir_path(workdir)


def _import_own_code(config: Config) -> None:
    """Imports the user's own code that the config names by path, see OWN_CODE.

    A saved config may be untrusted, so of its paths only those in flags are imported.
    """
    from eddsrn_jax.own_code import is_import_path
    from eddsrn_jax.training.config_checks import OWN_CODE

    if not isinstance(config, ml_collections.ConfigDict):
        # The run's checks refuse it.
        return
    flag = FLAGS["config"]
    given, values = config_flags.get_override_values(flag), config_values.flatten(config)
    saved = config_flags.get_config_filename(flag).endswith(".json")
    for name, import_path in OWN_CODE.items():
        if is_import_path(values.get(name)) and (name in given or not saved):
            import_path(values[name])


def main() -> int:
    """Trains as the flags say; returns 130 after Ctrl-C, else 0."""
    # Imported here, so that --help and wrong flags are answered immediately.
    from eddsrn_jax.training.dry_run import dry_run
    from eddsrn_jax.training.loop import train_and_evaluate

    config, workdir = _config_and_workdir()
    _import_own_code(config)
    connect_by_flags(FLAGS)
    if _DRY_RUN.value:
        for line in dry_run(config):
            print(line, flush=True)
        return 0
    stopped = train_and_evaluate(
        config,
        workdir,
        max_minutes=_MAX_MINUTES.value,
        profile_steps=_PROFILE.value,
        wandb_project=_WANDB.value,
    )
    return 128 + stopped if stopped == signal.SIGINT else 0


def run() -> None:
    """Runs the command as a process."""
    run_command(main, FLAGS, reserves_memory=True)
