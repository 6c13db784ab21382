"""Finds the file of weights that a user names: included, a path, or a repository."""

import os
from collections.abc import Mapping
from pathlib import Path

from eddsrn_jax.checkpoints.hub import download, parse_repository
from eddsrn_jax.errors import InputError
from eddsrn_jax.paths import local_path

# Files of a folder of weights. Model hubs know these names.
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
_FOLDER = Path(__file__).parents[1] / "weights"
# Files of the included weights, by the names that the commands accept.
SHIPPED: Mapping[str, Path] = {
    "photo": _FOLDER / "photo.safetensors",
    "gaussian": _FOLDER / "gaussian.safetensors",
    "eddsrn-lite": _FOLDER / "eddsrn_lite.safetensors",
}
DEFAULT = "photo"
# Purposes of the included weights, as labels in the order of the web page.
PURPOSES: Mapping[str, str] = {
    "photo": "Any photo: blurry or sharp, noisy or compressed",
    "gaussian": "Gaussian blur without noise: this project's own design",
    "eddsrn-lite": "Gaussian blur without noise: the paper's design, lite",
}


def find_weights(name: Path | str | None) -> Path:
    """Returns the path of a weights file, given as a user names it.

    Args:
        name: one of these; None for the default weights. A local path takes precedence
            over a repository.

            - name in SHIPPED
            - path of a .safetensors file
            - path of a folder that holds config.json and model.safetensors
            - repository on a model hub, "org/repo" or "org/repo@revision", which is
              downloaded

    Raises:
        InputError: the name is none of these, or the repository cannot be downloaded.
    """
    name = str(name or DEFAULT)
    if name in SHIPPED:
        return SHIPPED[name]
    path = local_path(name, "--weights")
    if not os.path.lexists(path):
        if repository := parse_repository(name):
            path = download(*repository, files=(CONFIG_FILE, WEIGHTS_FILE))
        elif path.name == name and not path.suffix:
            raise InputError(
                f"no weights {name!r}: expected a .safetensors file, a folder of weights,"
                f" a repository such as org/repo, or one of {', '.join(SHIPPED)}"
            )
    if not path.is_dir():
        return path
    if not (path / WEIGHTS_FILE).is_file():
        raise InputError(
            f"--weights={name}: has no {WEIGHTS_FILE}; the folder of a training run is"
            " given as --workdir, or exported to a file (eddsrn export)"
        )
    return path / WEIGHTS_FILE
