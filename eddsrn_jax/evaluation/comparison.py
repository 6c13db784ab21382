"""The methods that are scored beside a network."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from eddsrn_jax.checkpoints.torch_weights import read_peers
from eddsrn_jax.checkpoints.weights import Network
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.baselines.bicubic import bicubic, untouched
from eddsrn_jax.evaluation.baselines.ensemble import SelfEnsemble
from eddsrn_jax.evaluation.baselines.saved_results import SavedResults
from eddsrn_jax.evaluation.scoring import Method
from eddsrn_jax.models import abstract_outputs
from eddsrn_jax.paths import local_path, printable
from eddsrn_jax.restoration.restorer import Restorer


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Methods to score beside a network and its baseline, bicubic interpolation.

    Attributes:
        weights: further weights, as `find_weights` takes them.
        peers: folder with published weights of other networks, see `read_peers`.
        ensemble: whether to score the network's self-ensemble.
        wiener: whether to score the Wiener filter, which takes the true sigma.
        results: folders of images that other programs have made, by name, see
            SavedResults.
    """

    weights: Sequence[str] = ()
    peers: Path | str | None = None
    ensemble: bool = False
    wiener: bool = False
    results: Mapping[str, Path] = dataclasses.field(default_factory=dict)


# Bicubic interpolation alone.
BASELINE = Comparison()


def make_methods(
    network: Network, comparison: Comparison, *, dtype: str | None
) -> dict[str, Method]:
    """Returns the methods to score by name: baselines, the network, the others."""
    model = network.model.clone(dtype=dtype) if dtype else network.model
    restorer = Restorer(model, network.params)
    methods: list[tuple[str, Method]] = []
    if "deblurred" in abstract_outputs(model):
        methods.append(("blurred input", untouched))
    methods += [("bicubic", bicubic), (network.name, restorer)]
    if comparison.ensemble:
        methods.append((f"{network.name}, x8 ensemble", SelfEnsemble(restorer)))
    if comparison.wiener:
        # Importing SciPy's transforms takes a while.
        from eddsrn_jax.evaluation.baselines.wiener import Wiener

        methods.append(("Wiener, told sigma", Wiener()))
    for given in comparison.weights:
        other = Restorer.from_pretrained(weights=given, dtype=dtype)
        methods.append((f"weights {printable(given).replace('|', ' ')}", other))
    if comparison.peers:
        for name, peer in read_peers(local_path(comparison.peers, "--peers")).items():
            other = peer.model.clone(dtype=dtype) if dtype else peer.model
            methods.append((f"{name}, published weights", Restorer(other, peer.params)))
    for name, folder in comparison.results.items():
        methods.append((name, SavedResults(folder, f"--results={name}")))
    names = [name for name, _ in methods]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"two methods to score have the name {name!r}: the network's name is that"
                " of its config, and --compare and --results give others"
            )
    return dict(methods)
