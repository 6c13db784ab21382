"""Runs a command: python -m eddsrn_jax restore photo.jpg."""

import sys

from eddsrn_jax import __version__
from eddsrn_jax.commands.signals import interruptible

_USAGE = """python -m eddsrn_jax COMMAND [flags]

Commands (COMMAND --help lists the flags):
  restore   restores photos
  train     trains a network
  evaluate  scores networks
  export    writes a run's network to one file
  demo      serves a web page that restores photos
"""


def main() -> None:
    """Runs the command that the first argument names, with the other arguments."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_USAGE, end="")
        return
    if name == "--version":
        print(__version__)
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
        case _:
            print(f"error: unknown command {name!r}\n\n{_USAGE}", file=sys.stderr)
            sys.exit(2)
    run()


if __name__ == "__main__":
    main()
