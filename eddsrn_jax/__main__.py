"""Runs a command: eddsrn restore photo.jpg, or python -m eddsrn_jax restore photo.jpg."""

import sys

from eddsrn_jax import __version__
from eddsrn_jax.commands.signals import interruptible
from eddsrn_jax.commands.streams import while_read

_USAGE = """eddsrn COMMAND [flags]      (or: python -m eddsrn_jax COMMAND [flags])

Commands:
  restore   deblurs photos, and enlarges them four times: eddsrn restore photo.jpg
  demo      serves a web page that restores photos: eddsrn demo --open
  train     trains a network: eddsrn train --config=eddsrn_lite
            --config.data.source=folder:DIR
  evaluate  scores networks: eddsrn evaluate --weights=gaussian --dataset=Set14=DIR
  export    writes a network to a file or a folder: eddsrn export --workdir=RUN
            --out=mine.safetensors
  doctor    checks the installation: versions, devices, missing packages

  eddsrn COMMAND --help lists the flags of a command.
  eddsrn --version prints the version."""


def main() -> None:
    """Runs the command that the first argument names, with the other arguments."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name == "help":
        # `eddsrn help restore` is the same as `eddsrn restore --help`.
        name, *arguments = [*arguments, "--help"]
    if name in ("-h", "--help", "--version"):
        with while_read():
            print(__version__ if name == "--version" else _USAGE)
        return
    sys.argv = [name, *arguments]
    # Only the command's own module is imported, so that it starts quickly.
    match name:
        case "restore":
            with interruptible():
                from eddsrn_jax.commands.restore import run
        case "train":
            from eddsrn_jax.commands.train import run
        case "evaluate":
            from eddsrn_jax.commands.evaluate import run
        case "export":
            from eddsrn_jax.commands.export import run
        case "demo":
            from eddsrn_jax.commands.demo import run
        case "doctor":
            from eddsrn_jax.commands.doctor import run
        case _:
            print(f"error: unknown command {name!r}\n\n{_USAGE}", file=sys.stderr)
            sys.exit(2)
    run()


if __name__ == "__main__":
    main()
