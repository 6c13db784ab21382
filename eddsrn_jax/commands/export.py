"""Writes a run's network to one file: eddsrn export [flags].

The file holds a checkpoint's parameters and the description of its network. restore.py
and evaluate.py take it as --weights, train.py as --config.init_from.
"""

from absl import flags

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.commands.network_flags import (
    define_own_network_flag,
    import_own_networks,
)
from eddsrn_jax.files import make_folder
from eddsrn_jax.paths import local_path, printable, workdir_path

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Workdir of the training run to export.",
    required=True,
    flag_values=FLAGS,
)
define_own_network_flag(FLAGS)
_STEP = flags.DEFINE_integer(
    "step",
    None,
    "Step of the checkpoint to export. Default: the one with the best validation score.",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "File to write, such as mine.safetensors.",
    required=True,
    flag_values=FLAGS,
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "float16",
    ["int8", "float16", "bfloat16", "float32"],
    "Type of the parameters in the file.",
    flag_values=FLAGS,
)


def main() -> None:
    """Exports the network that the flags name."""
    from eddsrn_jax.checkpoints.manager import read_run
    from eddsrn_jax.checkpoints.weights import write_network
    from eddsrn_jax.models.complexity import count_parameters

    import_own_networks(FLAGS)
    path = local_path(_OUT.value, "--out")
    network = read_run(workdir_path(_WORKDIR.value), _STEP.value)
    make_folder(path.parent, "folder")
    write_network(path, network, dtype=_DTYPE.value)
    count = count_parameters(network.params)
    print(
        f"{printable(path)}: {network.name}, step {network.step}, {count:,} parameters in"
        f" {_DTYPE.value}, {path.stat().st_size / 1e6:.1f} MB (--dtype sets the type)"
    )


def run() -> None:
    """Runs the command as a process."""
    run_command(main, FLAGS)
