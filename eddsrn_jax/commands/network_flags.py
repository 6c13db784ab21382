"""Flags that choose the network of a command."""

from absl import flags

# Values of --weights, for its help texts.
WEIGHTS = (
    "photo, gaussian or eddsrn-lite, which are included; a .safetensors file; a folder"
    " with config.json and model.safetensors; or a repository on a model hub, such as"
    " org/repo"
)


def define_network_flags(
    flag_values: flags.FlagValues, *, default: str = "Default: photo."
) -> None:
    """Adds --workdir and --weights; a command takes one of them.

    Args:
        flag_values: flags of the command.
        default: sentence of the help text on what happens without both.
    """
    flags.DEFINE_string(
        "workdir",
        None,
        "Workdir of a training run whose best weights are used.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "weights",
        None,
        f"Weights to use: {WEIGHTS}. {default}",
        flag_values=flag_values,
    )
    define_own_network_flag(flag_values)


def define_own_network_flag(flag_values: flags.FlagValues) -> None:
    """Adds --network, which `import_own_networks` reads."""
    flags.DEFINE_multi_string(
        "network",
        [],
        "Import path of a network of your own, such as mypackage.networks:Shallow, if the"
        " run or the weights need it. Its module is installed or in the current folder,"
        " and its code is run. Repeatable.",
        flag_values=flag_values,
    )


def import_own_networks(flag_values: flags.FlagValues) -> None:
    """Imports the networks that --network names.

    Raises:
        InputError: see `import_network`.
    """
    if not flag_values.network:
        return
    # Imported here, so that --help and wrong flags are answered immediately.
    from eddsrn_jax.models import import_network

    for path in flag_values.network:
        import_network(path)
