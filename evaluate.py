"""Scores a network: python evaluate.py --workdir=runs/eddsrn [--dataset=Set14=DIR].

Or many: python evaluate.py --config=configs/table1.py --dataset=Set14=DIR.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from eddsrn_jax.command_line import run_command
from eddsrn_jax.errors import UsageError
from eddsrn_jax.process_flags import connect_by_flags

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of the run to score.")
_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Weights to score: gaussian or eddsrn-lite, which come with the package, or a"
    " .safetensors file. Default: eddsrn-lite.",
)
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Or a table of many systems, such as configs/table1.py.",
    lock_config=True,
)
_STEP = flags.DEFINE_integer("step", None, "Checkpoint; the best one by default.")
_DATASETS = flags.DEFINE_multi_string(
    "dataset", [], "NAME=DIR, a folder of photographs to score; repeatable."
)
_VALIDATION = flags.DEFINE_boolean(
    "validation", True, "Whether to score the run's validation set (DIV2K-val) too."
)
_DEGRADATION = flags.DEFINE_enum(
    "degradation",
    "paper",
    ["paper", "photo"],
    "How test inputs are made. paper: blurred by --sigmas. photo: a grid of blurs, each"
    " without and with noise and JPEG compression, beside the weights gaussian.",
)
_SIGMAS = flags.DEFINE_string(
    "sigmas",
    None,
    "Blurs that every photograph is scored at, or 'random': one drawn for each from"
    " U[1, 2], by --seed and its name. Default: 1,1.25,1.5,1.75,2, and 0,0.5,1,1.5,2,3"
    " for --degradation=photo.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of --sigmas=random and of noise.")
_MAX_PHOTOS = flags.DEFINE_integer(
    "max_photos", None, "Photographs of each set at most.", lower_bound=1
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", "float16"],
    "To compute in; the network's own by default.",
)
_WIENER = flags.DEFINE_boolean(
    "wiener", False, "Score Wiener's filter too, which is told sigma."
)
_PEERS = flags.DEFINE_string(
    "peers",
    None,
    "Folder of others' published weights to score too: vdsr.npz, lapsrn.npz.",
)
_SELF_ENSEMBLE = flags.DEFINE_boolean(
    "self_ensemble", False, "Score the mean of eight turned and mirrored copies too."
)
_FIGURE = flags.DEFINE_string(
    "figure",
    None,
    "With --config: photograph to draw a picture of, with a detail of every result; a"
    " file, or bundled:chelsea.png, bundled:astronaut.png of scikit-image.",
)
_SAVE_IMAGES = flags.DEFINE_boolean("save_images", False, "Write every image as PNG.")
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "For results and images; WORKDIR/evaluation/STEP by default, of"
    " weights evaluation/NAME.",
)

_DEFAULT_SIGMAS = {"paper": "1,1.25,1.5,1.75,2", "photo": "0,0.5,1,1.5,2,3"}


def parse_datasets(values: list[str]) -> dict[str, Path]:
    """Folders by name, from NAME=DIR."""
    datasets = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name and equals and folder):
            raise UsageError(f"--dataset={value}: expected NAME=DIR")
        if "/" in name or name.startswith("."):
            raise UsageError(f"--dataset={value}: {name!r} cannot name files")
        if name in datasets:
            raise UsageError(f"--dataset={value}: a second set named {name}")
        datasets[name] = Path(folder).expanduser()
    return datasets


def parse_sigmas(value: str) -> tuple[float, ...] | None:
    """Numbers between commas; None for 'random'."""
    if value == "random":
        return None
    try:
        sigmas = tuple(float(x) for x in value.split(","))
    except ValueError:
        sigmas = ()
    if not sigmas or not all(0 <= sigma <= 10 for sigma in sigmas):
        raise UsageError(
            f"--sigmas={value}: expected numbers in [0, 10] with commas, or 'random'"
        )
    return sigmas


def _path(flag: flags.FlagHolder[str]) -> Path | None:
    return Path(flag.value).expanduser() if flag.value else None


def main() -> None:
    """Evaluates by the flags."""
    origins = {"--workdir": _WORKDIR, "--weights": _WEIGHTS, "--config": _CONFIG}
    chosen = [name for name, flag in origins.items() if flag.value]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)}: expected one of them")
    if _CONFIG.value and (_WIENER.value or _SELF_ENSEMBLE.value):
        raise UsageError("--wiener, --self_ensemble: not with --config")
    if _FIGURE.value and not _CONFIG.value:
        raise UsageError(f"--figure={_FIGURE.value}: expected a --config with it")
    if _STEP.value is not None and not _WORKDIR.value:
        raise UsageError(f"--step={_STEP.value}: expected a --workdir with it")
    if _CONFIG.value and _DEGRADATION.value != "paper":
        raise UsageError(f"--degradation={_DEGRADATION.value}: not with --config")
    datasets = parse_datasets(_DATASETS.value)
    given = _SIGMAS.value
    sigmas = parse_sigmas(_DEFAULT_SIGMAS[_DEGRADATION.value] if given is None else given)
    connect_by_flags()
    scoring = {
        "datasets": datasets,
        "sigmas": sigmas,
        "seed": _SEED.value,
        "max_photos": _MAX_PHOTOS.value,
        "dtype": _DTYPE.value,
        "peers": _path(_PEERS),
        "save_images": _SAVE_IMAGES.value,
        "output_dir": _path(_OUTPUT_DIR),
    }
    # Here, so that --help and wrong flags answer at once.
    if _CONFIG.value:
        from eddsrn_jax.evaluation.table import compare

        compare(_CONFIG.value, figure=_FIGURE.value, **scoring)
        return
    from eddsrn_jax.evaluation.inputs import SPOILINGS
    from eddsrn_jax.evaluation.network import evaluate_network

    if _DEGRADATION.value == "photo":
        beside = [] if _WEIGHTS.value == "gaussian" else ["gaussian"]
        scoring |= {"spoilings": SPOILINGS["photo"], "beside": beside}
    evaluate_network(
        workdir=_path(_WORKDIR),
        step=_STEP.value,
        weights=_path(_WEIGHTS),
        validation=_VALIDATION.value,
        ensemble=_SELF_ENSEMBLE.value,
        wiener=_WIENER.value,
        **scoring,
    )


if __name__ == "__main__":
    run_command(main)
