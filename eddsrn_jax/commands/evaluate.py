"""Scores a network: eddsrn evaluate --workdir=runs/eddsrn [--dataset=Set14=DIR].

In a clone, python evaluate.py is the same command. There it also scores many systems:
python evaluate.py --config=configs/table1.py --dataset=Set14=DIR.
"""

from pathlib import Path

from absl import flags

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.commands.config_flag import define_config_flag
from eddsrn_jax.commands.network_flags import (
    WEIGHTS,
    define_own_network_flag,
    import_own_networks,
)
from eddsrn_jax.commands.process_flags import connect_by_flags, define_process_flags
from eddsrn_jax.errors import UsageError
from eddsrn_jax.own_code import is_import_path
from eddsrn_jax.paths import local_path, printable

FLAGS = flags.FlagValues()
define_process_flags(FLAGS)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Workdir of the run to score.", flag_values=FLAGS
)
_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    f"Weights to score: {WEIGHTS}. Default, without --workdir and --config: gaussian,"
    " because the default degradation is the paper's.",
    flag_values=FLAGS,
)
define_own_network_flag(FLAGS)
_CONFIG = define_config_flag(
    FLAGS,
    "Config of a table of systems to score: the included table1, or a file.",
)
_STEP = flags.DEFINE_integer(
    "step",
    None,
    "Step of the checkpoint to score. Default: the one with the best validation score.",
    flag_values=FLAGS,
)
_DATASETS = flags.DEFINE_multi_string(
    "dataset",
    [],
    "Name and folder of a set of photos to score, as NAME=DIR; repeatable."
    " NAME=pairs:LR_DIR,HR_DIR scores pairs of your own: inputs in the first folder,"
    " sharp photos of the same names, four times as large, in the second.",
    flag_values=FLAGS,
)
_VALIDATION = flags.DEFINE_boolean(
    "validation",
    True,
    "Score the run's own validation set (such as DIV2K-val) too.",
    flag_values=FLAGS,
)
_DEGRADATION = flags.DEFINE_string(
    "degradation",
    "paper",
    "Degradation of the test inputs. paper: blur alone. photo: blur without and with"
    " noise and JPEG compression; the weights gaussian are scored too, for comparison."
    " Or the import path of your own, such as mypackage.degradations:defocus, whose code"
    " is run.",
    flag_values=FLAGS,
)
_SIGMAS = flags.DEFINE_string(
    "sigmas",
    None,
    "Standard deviations of the blur, separated by commas. Every photo is scored with all"
    " of them. Or 'random': one for each photo, drawn from U[1, 2] by --seed and the"
    " photo's name. Default: 1,1.25,1.5,1.75,2, or 0,0.5,1,1.5,2,3 with"
    " --degradation=photo.",
    flag_values=FLAGS,
)
_SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Seed of --sigmas=random, of the noise and of a degradation of your own.",
    lower_bound=0,
    flag_values=FLAGS,
)
_MAX_PHOTOS = flags.DEFINE_integer(
    "max_photos",
    None,
    "Score at most this many photos of each set. Default: all.",
    lower_bound=1,
    flag_values=FLAGS,
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", "float16"],
    "Type to compute in. Default: the network's own.",
    flag_values=FLAGS,
)
_WIENER = flags.DEFINE_boolean(
    "wiener",
    False,
    "Score Wiener's filter too, which gets the true sigma.",
    flag_values=FLAGS,
)
_PEERS = flags.DEFINE_string(
    "peers",
    None,
    "Folder with published weights of other projects to score too: vdsr.npz, lapsrn.npz.",
    flag_values=FLAGS,
)
_COMPARE = flags.DEFINE_multi_string(
    "compare",
    [],
    "Further weights to score, of the same kinds as --weights; repeatable.",
    flag_values=FLAGS,
)
_RESULTS = flags.DEFINE_multi_string(
    "results",
    [],
    "Name and folder of images that another program has restored, as NAME=DIR, to score"
    " too; repeatable. DIR has the subfolders and names of the inputs that --save_images"
    " writes, such as DIR/Set14/sigma_1/baboon_input.png.",
    flag_values=FLAGS,
)
_SELF_ENSEMBLE = flags.DEFINE_boolean(
    "self_ensemble",
    False,
    "Score the network's mean over eight rotated and mirrored copies of each photo too.",
    flag_values=FLAGS,
)
_FIGURE = flags.DEFINE_string(
    "figure",
    None,
    "With --config: photo for a picture that shows a detail of every result. Either a"
    " file, or one of scikit-image's: bundled:chelsea.png, bundled:astronaut.png.",
    flag_values=FLAGS,
)
_SAVE_IMAGES = flags.DEFINE_boolean(
    "save_images",
    False,
    "Write every input and every output as a PNG file.",
    flag_values=FLAGS,
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Folder for results and images, which replace those of the same name. Default:"
    " WORKDIR/evaluation/STEP, or evaluation/NAME for weights and tables, followed by -2,"
    " -3 and so on if that folder exists.",
    flag_values=FLAGS,
)

_DEFAULT_SIGMAS = {"paper": "1,1.25,1.5,1.75,2", "photo": "0,0.5,1,1.5,2,3"}


def parse_datasets(values: list[str]) -> dict[str, Path | str]:
    """Parses values of the form NAME=DIR; returns the folders, or pairs, by name."""
    datasets: dict[str, Path | str] = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name and equals and folder):
            raise UsageError(f"--dataset={value}: expected NAME=DIR")
        if printable(name) != name:
            raise UsageError(f"--dataset={printable(value)}: the name must be UTF-8")
        if any(x in name for x in "/\\:") or name.startswith("."):
            raise UsageError(f"--dataset={value}: {name!r} cannot be a file name")
        # Some file systems ignore case.
        for other in datasets:
            if name.lower() == other.lower():
                raise UsageError(f"--dataset={value}: another set is named {other}")
        pairs = folder.startswith("pairs:")
        datasets[name] = folder if pairs else local_path(folder, f"--dataset={name}")
    return datasets


def parse_results(values: list[str]) -> dict[str, Path]:
    """Parses values of the form NAME=DIR; returns the folders by name."""
    results: dict[str, Path] = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name and equals and folder) or printable(name) != name:
            raise UsageError(f"--results={printable(value)}: expected NAME=DIR")
        if any(x in name for x in "/\\|"):
            raise UsageError(f"--results={value}: {name!r} is used in tables and files")
        if name in results:
            raise UsageError(f"--results={value}: other results are named {name}")
        results[name] = local_path(folder, f"--results={name}")
    return results


def parse_sigmas(value: str) -> tuple[float, ...] | None:
    """Parses numbers separated by commas; returns None for 'random'."""
    if value == "random":
        return None
    try:
        sigmas = tuple(float(x) for x in value.split(","))
    except ValueError:
        sigmas = ()
    if not sigmas or not all(0 <= sigma <= 10 for sigma in sigmas):
        raise UsageError(
            f"--sigmas={value}: expected numbers in [0, 10], separated by commas, or"
            " 'random'"
        )
    return sigmas


def _own_degradation() -> str:
    """Returns the import path in --degradation, or "" if it has a name instead."""
    value = _DEGRADATION.value
    if value in _DEFAULT_SIGMAS:
        return ""
    if not is_import_path(value):
        raise UsageError(
            f"--degradation={value}: expected paper, photo, or the import path of your"
            " own, MODULE:NAME"
        )
    if _SIGMAS.value is not None:
        raise UsageError(
            f"--sigmas={_SIGMAS.value} cannot be used with --degradation={value}, which"
            " takes the place of the blur"
        )
    if _WIENER.value:
        raise UsageError(
            f"--wiener cannot be used with --degradation={value}, whose sigma is unknown"
        )
    return value


def _path(flag: flags.FlagHolder[str | None]) -> Path | None:
    return local_path(flag.value, f"--{flag.name}") if flag.value else None


def main() -> None:
    """Scores the networks that the flags name."""
    origins = {"--workdir": _WORKDIR, "--weights": _WEIGHTS, "--config": _CONFIG}
    chosen = [name for name, flag in origins.items() if flag.value]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)}: give only one of them")
    for flag in (_WIENER, _SELF_ENSEMBLE, _COMPARE, _RESULTS):
        if _CONFIG.value and flag.value:
            raise UsageError(f"--{flag.name} cannot be used with --config")
    if _FIGURE.value and not _CONFIG.value:
        raise UsageError(f"--figure={_FIGURE.value} needs --config")
    if _STEP.value is not None and not _WORKDIR.value:
        raise UsageError(f"--step={_STEP.value} needs --workdir")
    if _CONFIG.value and _DEGRADATION.value != "paper":
        raise UsageError(
            f"--degradation={_DEGRADATION.value} cannot be used with --config"
        )
    datasets = parse_datasets(_DATASETS.value)
    results = parse_results(_RESULTS.value)
    own = _own_degradation()
    name = "paper" if own else _DEGRADATION.value
    given = _SIGMAS.value
    sigmas = parse_sigmas(_DEFAULT_SIGMAS[name] if given is None else given)
    connect_by_flags(FLAGS)
    import_own_networks(FLAGS)
    # Imported here, so that --help and wrong flags are answered immediately.
    from eddsrn_jax.evaluation.comparison import Comparison
    from eddsrn_jax.evaluation.inputs import SPOILINGS
    from eddsrn_jax.evaluation.network import evaluate_network
    from eddsrn_jax.evaluation.scoring import Scoring
    from eddsrn_jax.evaluation.table import compare
    from eddsrn_jax.ops.degradation import import_degradation

    if own:
        import_degradation(own)
    options = {
        "datasets": datasets,
        "scoring": Scoring(
            sigmas=sigmas,
            own=own,
            spoilings=SPOILINGS[name],
            seed=_SEED.value,
            max_photos=_MAX_PHOTOS.value,
            save_images=_SAVE_IMAGES.value,
        ),
        "dtype": _DTYPE.value,
        "output_dir": _path(_OUTPUT_DIR),
    }
    if _CONFIG.value:
        compare(_CONFIG.value, figure=_FIGURE.value, peers=_path(_PEERS), **options)
        return
    compared = list(_COMPARE.value)
    scored = [_WORKDIR.value or _WEIGHTS.value or "gaussian", *compared]
    if name == "photo" and "gaussian" not in scored:
        compared.append("gaussian")
    evaluate_network(
        workdir=_path(_WORKDIR),
        step=_STEP.value,
        weights=_WEIGHTS.value,
        validation=_VALIDATION.value,
        comparison=Comparison(
            weights=compared,
            peers=_path(_PEERS),
            ensemble=_SELF_ENSEMBLE.value,
            wiener=_WIENER.value,
            results=results,
        ),
        **options,
    )


def run() -> None:
    """Runs the command as a process."""
    run_command(main, FLAGS)
