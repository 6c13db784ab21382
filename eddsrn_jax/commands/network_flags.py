"""Flags that choose the network that restores photos."""

from absl import flags


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
        "Weights to use: photo, gaussian or eddsrn-lite, which are included, or a"
        " .safetensors file. Default: photo.",
        flag_values=flag_values,
    )
