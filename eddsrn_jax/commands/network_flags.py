"""Flags that choose the network that restores photos."""

from absl import flags

# Values of --weights, for its help texts.
WEIGHTS = (
    "photo, gaussian or eddsrn-lite, which are included; a .safetensors file; a folder"
    " with config.json and model.safetensors; or a repository on a model hub, such as"
    " org/repo"
)


def define_network_flags(flag_values: flags.FlagValues) -> None:
    """Adds --workdir and --weights; a command takes one of them."""
    flags.DEFINE_string(
        "workdir",
        None,
        "Workdir of a training run whose best weights are used.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "weights",
        None,
        f"Weights to use: {WEIGHTS}. Default: photo.",
        flag_values=flag_values,
    )
