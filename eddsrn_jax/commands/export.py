"""Writes a network to a file or a folder: eddsrn export [flags].

A .safetensors file holds the parameters and the description of their network. A folder
has the description in config.json, and a model card, as model hubs expect. restore.py and
evaluate.py take both as --weights, train.py as --config.init_from. An .onnx file holds
the whole computation for ONNX Runtime and other programs.
"""

from pathlib import Path

from absl import flags

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.commands.network_flags import define_network_flags, import_own_networks
from eddsrn_jax.errors import UsageError
from eddsrn_jax.files import make_folder
from eddsrn_jax.paths import local_path, printable, workdir_path

FLAGS = flags.FlagValues()
define_network_flags(FLAGS, default="Either these or --workdir are needed.")
_STEP = flags.DEFINE_integer(
    "step",
    None,
    "Step of the checkpoint to export. Default: the one with the best validation score.",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "File to write, with a name that ends in .safetensors or .onnx. With any other name,"
    " a folder.",
    required=True,
    flag_values=FLAGS,
)
_FORMAT = flags.DEFINE_enum(
    "format",
    "safetensors",
    ["safetensors", "onnx"],
    "Format to write: safetensors, for this project and model hubs; onnx, for programs"
    " without JAX, in float32.",
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
    if bool(FLAGS.workdir) == bool(FLAGS.weights):
        raise UsageError("give either --workdir or --weights")
    if _STEP.value is not None and not FLAGS.workdir:
        raise UsageError(f"--step={_STEP.value} needs --workdir")
    import_own_networks(FLAGS)
    path = local_path(_OUT.value, "--out")
    _check_format(path)
    workdir = workdir_path(FLAGS.workdir) if FLAGS.workdir else None
    # Imported here, so that --help and wrong flags are answered immediately.
    from eddsrn_jax.checkpoints.manager import read_run
    from eddsrn_jax.checkpoints.weights import read_network, write_network
    from eddsrn_jax.models.complexity import count_parameters
    from eddsrn_jax.restoration.onnx_graph import write_onnx

    network = read_run(workdir, _STEP.value) if workdir else read_network(FLAGS.weights)
    make_folder(path.parent, "folder")
    onnx = _FORMAT.value == "onnx"
    if onnx:
        write_onnx(path, network.model, network.params)
    else:
        write_network(path, network, dtype=_DTYPE.value)
    count = count_parameters(network.params)
    files = path.iterdir() if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    dtype = "float32" if onnx else f"{_DTYPE.value} (--dtype sets the type)"
    print(
        f"{printable(path)}: {network.name}, step {network.step}, {size / 1e6:.1f} MB,"
        f" {count:,} parameters in {dtype}"
    )


def _check_format(path: Path) -> None:
    """Raises UsageError if the file's extension or --dtype does not fit --format."""
    onnx = _FORMAT.value == "onnx"
    if onnx != (path.suffix == ".onnx"):
        raise UsageError(
            f"--format={_FORMAT.value} --out={path}: files of the format onnx, and no"
            " others, have names that end in .onnx"
        )
    if onnx and FLAGS["dtype"].present:
        raise UsageError("--dtype cannot be used with --format=onnx, which is float32")


def run() -> None:
    """Runs the command as a process."""
    run_command(main, FLAGS)
