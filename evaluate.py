"""Scores a run: python evaluate.py --workdir=runs/eddsrn [--dataset=Set14=DIR]."""

from pathlib import Path

from absl import flags

from eddsrn_jax.errors import InputError
from eddsrn_jax.runtime import run_command

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of the run to score.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint; the best one by default.")
_DATASETS = flags.DEFINE_multi_string(
    "dataset", [], "NAME=DIR, a folder of photographs to score; repeatable."
)
_VALIDATION = flags.DEFINE_boolean(
    "validation", True, "Whether to score the run's validation set (DIV2K-val) too."
)
_SIGMAS = flags.DEFINE_string(
    "sigmas",
    "1,1.25,1.5,1.75,2",
    "Blurs that every photograph is scored at, or 'random': one drawn for each from"
    " U[1, 2], by --seed and its name.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of --sigmas=random.")
_MAX_PHOTOS = flags.DEFINE_integer(
    "max_photos", None, "Photographs of each set at most.", lower_bound=1
)
_SAVE_IMAGES = flags.DEFINE_boolean("save_images", False, "Write every image as PNG.")
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "For results and images; WORKDIR/evaluation/STEP by default."
)


def parse_datasets(values: list[str]) -> dict[str, Path]:
    """Folders by name, from NAME=DIR."""
    datasets = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--dataset={value}: expected NAME=DIR")
        if "/" in name or name.startswith("."):
            raise InputError(f"--dataset={value}: {name!r} cannot name files")
        if name in datasets:
            raise InputError(f"--dataset={value}: a second set named {name}")
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
    if not sigmas or not all(0 < sigma <= 10 for sigma in sigmas):
        raise InputError(
            f"--sigmas={value}: expected numbers in (0, 10] with commas, or 'random'"
        )
    return sigmas


def main() -> None:
    """Evaluates by the flags."""
    # Here, so that --help and wrong flags answer at once.
    from eddsrn_jax.evaluation import evaluate_run

    evaluate_run(
        Path(_WORKDIR.value).expanduser(),
        step=_STEP.value,
        datasets=parse_datasets(_DATASETS.value),
        validation=_VALIDATION.value,
        sigmas=parse_sigmas(_SIGMAS.value),
        seed=_SEED.value,
        max_photos=_MAX_PHOTOS.value,
        save_images=_SAVE_IMAGES.value,
        output_dir=Path(_OUTPUT_DIR.value).expanduser() if _OUTPUT_DIR.value else None,
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    run_command(main)
