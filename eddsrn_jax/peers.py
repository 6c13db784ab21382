"""Other methods' published weights, in PyTorch's layout, as methods to score.

They come as .npz or .safetensors, never as pickles, and with names of their own; what
maps those to this project's is below.
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

from eddsrn_jax.errors import InputError
from eddsrn_jax.models import VDSR, LapSRN, abstract_params
from eddsrn_jax.weights import Network, check_matches


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz or .safetensors file by name.

    Raises:
        InputError: it is neither, or holds something else than arrays.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.numpy.load_file(path)
        # Opened here: NumPy leaves open what it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    # What is not a file of that format fails in many ways.
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
    """Parameters from arrays that PyTorch's layers keep.

    Args:
        arrays: by the names of PyTorch's modules.
        names: regular expressions for those, and this project's names, such as
            "block0_conv/kernel", in which groups may be used. Of several the first.
        like: a tree with the names and shapes that are expected.
        origin: of the arrays, for messages.
        transposed: regular expression for the names of transposed convolutions, whose
            kernels PyTorch keeps as (input, output, height, width), others as (output,
            input, height, width).

    Raises:
        InputError: a name that no expression matches, or a name or shape that differs.
    """
    found = {}
    for name, array in arrays.items():
        matches = ((re.fullmatch(pattern, name), names[pattern]) for pattern in names)
        match, replacement = next((m for m in matches if m[0]), (None, ""))
        if not match:
            raise InputError(f"{origin}: {name} is of no layer known")
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
    """Another's network, and how its published weights are named.

    Attributes:
        name: for tables.
        model: its architecture.
        names, transposed: see import_torch.
    """

    name: str
    model: nn.Module
    names: Mapping[str, str]
    transposed: str = "$^"


# By the stem of the files' names.
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
    """The networks whose weights, such as vdsr.npz, are in a folder, by name.

    Raises:
        InputError: there are none, or they are of another architecture.
    """
    networks = {}
    for stem, peer in PEERS.items():
        for path in (folder / f"{stem}.npz", folder / f"{stem}.safetensors"):
            if path.is_file():
                networks[peer.name] = read_peer(path, peer)
    if not networks:
        expected = " or ".join(f"{stem}.npz" for stem in PEERS)
        raise InputError(f"{folder}: no weights in it, expected {expected}")
    return networks


def read_peer(path: Path, peer: Peer) -> Network:
    """A peer with the weights of its file; raises as `import_torch`."""
    params = import_torch(
        read_arrays(path),
        peer.names,
        abstract_params(peer.model),
        str(path),
        transposed=peer.transposed,
    )
    # They were trained on photographs shrunk without blur.
    return Network(peer.model, params, peer.name, step=0, sigma_range=(0.0, 0.0))
