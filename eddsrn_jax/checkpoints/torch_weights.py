"""Reads the published PyTorch weights of other methods, so that they can be scored.

The weights come as .npz or .safetensors files, never as pickles. Each method has a
mapping from PyTorch's names to this project's.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import numpy as np
import safetensors.numpy

from eddsrn_jax.checkpoints.parameters import check_matches
from eddsrn_jax.checkpoints.weights import Network
from eddsrn_jax.errors import InputError
from eddsrn_jax.models import VDSR, LapSRN, abstract_params


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz or .safetensors file by name.

    Raises:
        InputError: the file has another format, or holds anything but arrays.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        # Opened here because NumPy does not close a file that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    # Files of another format raise errors of many types.
    except Exception as error:
        raise InputError(f"{path}: cannot be read as arrays ({error})") from error


def import_torch(
    arrays: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    like: Any,
    origin: str,
    *,
    transposed: str = "$^",
) -> Any:
    """Converts the arrays of PyTorch layers to a tree of parameters.

    Args:
        arrays: arrays by the names of PyTorch's modules.
        names: regular expressions for those names, each with this project's name, such
            as "block0_conv/kernel", which may refer to groups. The first match counts.
        like: tree with the expected names and shapes.
        origin: place of the arrays, for messages.
        transposed: regular expression for the names of transposed convolutions. PyTorch
            keeps their kernels as (input, output, height, width), those of other
            convolutions as (output, input, height, width).

    Returns:
        float32 parameters with the names and shapes of `like`.

    Raises:
        InputError: no expression matches a name, or a name or shape differs from `like`.
    """
    found = {}
    for name, array in arrays.items():
        matches = ((re.fullmatch(pattern, name), names[pattern]) for pattern in names)
        match, replacement = next((m for m in matches if m[0]), (None, ""))
        if not match:
            raise InputError(f"{origin}: {name} belongs to no known layer")
        if array.ndim == 4:
            order = (2, 3, 0, 1) if re.fullmatch(transposed, name) else (2, 3, 1, 0)
            array = array.transpose(order)
        elif array.ndim == 2:
            array = array.T
        found[match.expand(replacement)] = array.astype(np.float32)
    params = flax.traverse_util.unflatten_dict(found, sep="/")
    check_matches(params, like, origin)
    return params


@dataclasses.dataclass(frozen=True)
class Peer:
    """A network of other authors, and the names of its published weights.

    Attributes:
        name: name in tables.
        model: architecture.
        names, transposed: see `import_torch`.
    """

    name: str
    model: nn.Module
    names: Mapping[str, str]
    transposed: str = "$^"


# Keys are the stems of the weight files' names.
PEERS = {
    "vdsr": Peer(
        "VDSR",
        VDSR(),
        {
            r"input\.weight": "stem/kernel",
            r"residual_layer\.(\d+)\.conv\.weight": r"conv\1/kernel",
            r"output\.weight": "residual/kernel",
        },
    ),
    "lapsrn": Peer(
        "LapSRN",
        LapSRN(),
        {
            r"conv_input\.weight": "stem/kernel",
            r"convt_F(\d)\.0\.cov_block\.(\d+)\.weight": r"level\1_layer\2/kernel",
            r"convt_I(\d)\.weight": r"level\1_image/kernel",
            r"convt_R(\d)\.weight": r"level\1_residual/kernel",
        },
        transposed=r"convt_I\d\.weight|convt_F\d\.0\.cov_block\.20\.weight",
    ),
}


def read_peers(folder: Path) -> dict[str, Network]:
    """Reads all published weights in a folder, such as vdsr.npz.

    Returns:
        The networks by name.

    Raises:
        InputError: the folder has no such file, or the weights in a file cannot be used.
    """
    networks = {}
    for stem, peer in PEERS.items():
        for path in (folder / f"{stem}.npz", folder / f"{stem}.safetensors"):
            if path.is_file():
                networks[peer.name] = read_peer(path, peer)
    if not networks:
        expected = " or ".join(f"{stem}.npz" for stem in PEERS)
        raise InputError(f"{folder}: no weights found, expected {expected}")
    return networks


def read_peer(path: Path, peer: Peer) -> Network:
    """Reads the weights of one network from a file.

    Raises:
        InputError: see `read_arrays` and `import_torch`.
    """
    params = import_torch(
        read_arrays(path),
        peer.names,
        abstract_params(peer.model),
        str(path),
        transposed=peer.transposed,
    )
    # These networks were trained on photos that were downscaled without blur.
    return Network(peer.model, params, peer.name, step=0, sigma_range=(0.0, 0.0))
