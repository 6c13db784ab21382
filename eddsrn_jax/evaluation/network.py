"""Evaluation of a trained network: data sets, baselines, tables, result files."""

import dataclasses
import importlib.metadata
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from eddsrn_jax import __version__
from eddsrn_jax.checkpoints.found_weights import find_weights
from eddsrn_jax.checkpoints.manager import Checkpoints
from eddsrn_jax.checkpoints.weights import Network, read_network
from eddsrn_jax.config_values import Config
from eddsrn_jax.data.pairs import PAIRS, pairs_source
from eddsrn_jax.data.photo_record import open_validation, photo_places
from eddsrn_jax.data.sources import Source, folder_source
from eddsrn_jax.distributed import gather, require_equal
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.comparison import BASELINE, Comparison, make_methods
from eddsrn_jax.evaluation.curves import write_score_curves
from eddsrn_jax.evaluation.inputs import Spoiling
from eddsrn_jax.evaluation.results import (
    Row,
    format_gains,
    format_table,
    open_output,
    write_results,
)
from eddsrn_jax.evaluation.scoring import (
    PAPER,
    Method,
    Pair,
    Photo,
    Scoring,
    evaluate,
    example_path,
)
from eddsrn_jax.files import sha256_of
from eddsrn_jax.machine import find_devices
from eddsrn_jax.paths import printable, workdir_path

_log = logging.getLogger(__name__)


# Packages that compute inputs, results or scores; an evaluation records their versions.
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "scikit-image", "pillow")


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A network to evaluate, and its origin.

    Attributes:
        network: model and weights.
        origin: description of the network for the result files.
        title: description of the network to print.
        folder: default folder for its results.
        config: config of its run; None for a weights file.
    """

    network: Network
    origin: dict[str, Any]
    title: str
    folder: Path
    config: Config | None = None


def evaluate_network(
    *,
    workdir: Path | str | None = None,
    step: int | None = None,
    weights: Path | str | None = None,
    datasets: Mapping[str, Path | str] | None = None,
    validation: bool = True,
    validation_set: Source | None = None,
    scoring: Scoring = PAPER,
    comparison: Comparison = BASELINE,
    dtype: str | None = None,
    output_dir: Path | str | None = None,
) -> list[Row]:
    """Scores a network and the baselines; prints and writes the results.

    Args:
        workdir: workdir of the run that trained the network.
        step: step of the checkpoint; None for the one with the best validation score.
        weights: weights as `find_weights` takes them. Default, without workdir:
            "gaussian", made for the paper's degradation.
        datasets: folders of photos to score, by name; or "pairs:LR_DIR,HR_DIR", see
            `pairs_source`, whose small photos are the inputs.
        validation: whether to open the run's own validation set and score it.
        validation_set: validation set of the run that the caller has open.
        scoring: which photos are scored, and with which degradations.
        comparison: methods to score beside the network.
        dtype: computation dtype, such as "bfloat16"; None for the network's own.
        output_dir: folder for results and images. Default: `workdir/evaluation/STEP`, or
            `evaluation/NAME` for weights; if that exists, with `-2`, `-3` or so on.

    Returns:
        The rows of all sets.

    Raises:
        InputError: one of these does not exist, or there is no photo to score.
    """
    find_devices()
    workdir = workdir_path(workdir) if workdir else None
    candidate = _open_run(workdir, step) if workdir else _open_weights(weights)
    sources = open_folders(datasets or {})
    if validation_set:
        sources[:0] = [validation_set]
    elif validation and workdir and candidate.config:
        sources[:0] = _held_out(candidate.config, workdir, required=not sources)
    check_sets(sources)
    methods = make_methods(candidate.network, comparison, dtype=dtype)
    # An unwritable folder should fail here, not after all the scoring.
    output_dir = open_output(output_dir, candidate.folder)
    rows = score_sources(
        methods,
        sources,
        output_dir,
        scoring=scoring,
        origin={
            **candidate.origin,
            "dtype": dtype or candidate.network.model.dtype,
            "datasets": {name: str(path) for name, path in (datasets or {}).items()},
            "weights compared": {
                str(given): sha256_of(find_weights(given)) for given in comparison.weights
            },
            "results": {name: str(path) for name, path in comparison.results.items()},
        },
    )
    if jax.process_index() == 0:
        _print_results(rows, scoring, output_dir, candidate)
    return rows


def _print_results(
    rows: Sequence[Row], scoring: Scoring, output_dir: Path, candidate: _Candidate
) -> None:
    """Prints the table of scores and the paths of the files with results."""
    spoiled = any(spoiling != Spoiling() for spoiling in scoring.spoilings)
    # The table of gains is about x4 images, which not every network makes.
    made = {row.output for row in rows if row.method == candidate.network.name}
    has_gains = "sr" in made
    print(format_gains(rows) if spoiled and has_gains else format_table(rows))
    scores = printable(output_dir / "results.json")
    print(f"\n{printable(candidate.title)}; scores in {scores}")
    for name in dict.fromkeys(row.dataset for row in rows):
        if (example := example_path(output_dir, name)).exists():
            print(f"before/after picture: {printable(example)}")


def open_folders(datasets: Mapping[str, Path | str]) -> list[Source]:
    """Opens folders of photos, or of pairs, as sources; see `evaluate_network`.

    Raises:
        InputError: a folder has no photo, or photos have no partner.
    """
    return [
        pairs_source(str(folder), name)
        if str(folder).startswith(PAIRS)
        else folder_source(folder, name)
        for name, folder in datasets.items()
    ]


def check_sets(sources: Sequence[Source]) -> None:
    """Raises InputError if there is no set to score, or if two have the same name."""
    names = [source.name for source in sources]
    # Some file systems ignore case.
    if len({name.lower() for name in names}) < len(names):
        raise InputError(f"two sets have the same name: {', '.join(names)}")
    if not sources:
        raise InputError("nothing to score: give --dataset=NAME=DIR")


def score_sources(
    methods: Mapping[str, Method],
    sources: Sequence[Source],
    output_dir: Path,
    *,
    scoring: Scoring,
    origin: Mapping[str, Any],
) -> list[Row]:
    """Scores methods on sets; writes the results and an example picture of each set.

    Every process scores its share of the photos. The first process writes the results.

    Args:
        methods: see `scoring.evaluate`.
        sources: sets to score, see `check_sets`.
        output_dir: existing folder for the results.
        scoring: which photos are scored, and with which degradations.
        origin: origin of the methods, for the result files.

    Returns:
        The rows of all sets.

    Raises:
        InputError: there is no photo to score.
    """
    _require_same(methods, sources, scoring, origin)
    share, rows = (jax.process_index(), jax.process_count()), []
    for source in sources:
        found = evaluate(
            methods,
            read_photos(source),
            dataset=source.name,
            scoring=scoring,
            output_dir=output_dir,
            share=share,
        )
        found = _in_turn(gather([dataclasses.asdict(row) for row in found]))
        if not found:
            _log.warning("%s: no photo of this set could be scored", source.name)
        rows.extend(found)
    if not rows:
        names = ", ".join(source.name for source in sources)
        raise InputError(f"no photo could be scored in {names}")
    if share[0] == 0:
        write_results(output_dir, rows, protocol={**origin, **_conditions(scoring)})
        # Drawn sigmas differ from photo to photo, so they have no means. A user's own
        # degradation has no sigma.
        if scoring.sigmas and not scoring.own:
            write_score_curves(output_dir / "curves.svg", rows)
    return rows


def _require_same(
    methods: Iterable[str],
    sources: Sequence[Source],
    scoring: Scoring,
    origin: Mapping[str, Any],
) -> None:
    """Raises InputError if the processes score other methods, photos or weights."""
    values = {
        "methods": [*methods],
        "scoring": repr(scoring),
        **{name: origin.get(name) for name in ("step", "sha256")},
        "weights compared": [*origin.get("weights compared", {}).values()],
        "sets": [source.name for source in sources],
    }
    if jax.process_count() > 1:
        # The folders of the processes may have different paths.
        values |= {
            f"{source.name}: size of {path.name}": path.stat().st_size
            for source in sources
            for path in source.origin
        }
    require_equal(values, "what they score differs")


def _conditions(scoring: Scoring) -> dict[str, Any]:
    """Returns the conditions of an evaluation: its protocol, device and libraries."""
    sigmas = list(scoring.sigmas) if scoring.sigmas else "random"
    return {
        **({"degradation": scoring.own} if scoring.own else {"sigmas": sigmas}),
        "spoilings": [str(spoiling) for spoiling in scoring.spoilings],
        "seed": scoring.seed,
        "max_photos": scoring.max_photos,
        "device": jax.devices()[0].device_kind,
        "versions": {
            "eddsrn_jax": __version__,
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
    }


def _in_turn(shares: Sequence[list[dict[str, Any]]]) -> list[Row]:
    """Merges the rows of all processes; the photos of the processes alternate.

    This is the order of a single process, if every photo can be scored.
    """
    groups = [
        [list(group) for _, group in itertools.groupby(share, lambda row: row["image"])]
        for share in shares
    ]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*groups, fillvalue=[]))
    return [Row(**row) for group in turns for row in group]


def _open_run(workdir: Path, step: int | None) -> _Candidate:
    with Checkpoints(workdir, read_only=True) as checkpoints:
        network, config = checkpoints.restore_network(step)
    return _Candidate(
        network,
        {"workdir": str(workdir), "step": network.step, "config": config.to_dict()},
        f"checkpoint {network.step} of {workdir}",
        workdir / "evaluation" / str(network.step),
        config,
    )


def _open_weights(name: Path | str | None) -> _Candidate:
    name = name or "gaussian"
    path = find_weights(name)
    network = read_network(path)
    return _Candidate(
        network,
        {"weights": str(path), "sha256": sha256_of(path), "step": network.step},
        f"{path}, step {network.step}",
        Path("evaluation", Path(name).name.removesuffix(path.suffix)),
    )


def read_photos(source: Source) -> Iterator[Photo | Pair]:
    """Decodes the photos of a source; skips unusable ones with a warning."""
    for file in source.files():
        try:
            hr, lr = file.read_pair()
        except InputError as error:
            _log.warning("%s; left out", error)
            continue
        yield (file.name, hr) if lr is None else (file.name, hr, lr)


def _held_out(config: Config, workdir: Path, *, required: bool) -> list[Source]:
    try:
        return [open_validation(**photo_places(config), workdir=workdir)]
    # The second one if the photos are those of tensorflow-datasets, and it is missing.
    except (InputError, ModuleNotFoundError) as error:
        if required:
            raise
        _log.warning("the run's validation set is left out: %s", error)
        return []
