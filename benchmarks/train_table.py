"""Trains the networks of the paper's Table 1: python -m benchmarks.train_table.

    python -m benchmarks.train_table --train=DIR --valid=DIR --dataset=Set14=DIR

The lite networks are trained one after the other with the same recipe and on the same
crops. The folder runs/table1 gets their weights, such as eddsrn-0.safetensors for seed 0,
a subfolder for each run, the scores of all complete runs in scores.json, and the means
over the seeds in a table for each set, such as scores-Set14.md. If the command is stopped
and given again, the interrupted run continues, and runs that have scores are left out.

The repository's own runs are in benchmarks/table1, without their subfolders.
`--folder=benchmarks/table1` adds to them.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from absl import flags

from benchmarks.timing import user_environment
from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.commands.evaluate import parse_datasets
from eddsrn_jax.data.folders import find_photos
from eddsrn_jax.errors import InputError, UsageError
from eddsrn_jax.files import make_folder, to_json, write_text
from eddsrn_jax.paths import local_path

# Its own set of flags, so that another command's module may be imported beside it.
FLAGS = flags.FlagValues()
_TRAIN = flags.DEFINE_string(
    "train", None, "Folder of photos to train on.", required=True, flag_values=FLAGS
)
_VALID = flags.DEFINE_string(
    "valid",
    None,
    "Folder of photos that choose the best checkpoint.",
    required=True,
    flag_values=FLAGS,
)
_DATASET = flags.DEFINE_string(
    "dataset",
    None,
    "Photos to score, as NAME=DIR, such as Set14=DIR.",
    required=True,
    flag_values=FLAGS,
)
_FOLDER = flags.DEFINE_string(
    "folder",
    "runs/table1",
    "Folder for the runs, their weights and scores.",
    flag_values=FLAGS,
)
_CROPS = flags.DEFINE_integer(
    "crops",
    100_000,
    "Crops that each network is trained on.",
    lower_bound=16,
    flag_values=FLAGS,
)
_SEEDS = flags.DEFINE_integer(
    "seeds",
    3,
    "Seeds of the networks that the paper's claim is about.",
    lower_bound=1,
    flag_values=FLAGS,
)
_ONLY = flags.DEFINE_list(
    "only",
    None,
    "Networks to train, with those that they start from. Default: all.",
    flag_values=FLAGS,
)

# A network's name and its seed.
Run: TypeAlias = tuple[str, int]

_BATCH_SIZE = 8
_SCORES = [f"{x}_{y}_crop4" for x in ("psnr", "ssim") for y in ("y", "rgb")]
_BANK = "--config.model.front_end=gaussian-1-084c6179"


@dataclasses.dataclass(frozen=True)
class Network:
    """A network to train.

    Attributes:
        config: its config, without ".py".
        claimed: whether the paper's claim is about it, or about one that starts from it.
        start: name of the network whose weights it starts from; empty for none.
        share: share of the crops that it is trained on.
        flags: further flags of train.py.
    """

    config: str
    claimed: bool = False
    start: str = ""
    share: float = 1.0
    flags: tuple[str, ...] = ()


# By name, in the order of training. A fine-tuned network has seen twice the crops of the
# others, with its training on sharp photos; one that ends in "half" has seen as many. How
# many crops the paper's had seen is not known. "bank" stands for this project's addition,
# the bank of inverse filters.
NETWORKS: Mapping[str, Network] = {
    "eddsrn": Network("eddsrn_lite", claimed=True),
    "edsrn": Network("edsrn:lite", claimed=True),
    "srresnet": Network("srresnet:lite", claimed=True),
    "srresnet_finetuned": Network(
        "srresnet_finetuned:lite", claimed=True, start="srresnet"
    ),
    "lapsrn": Network("lapsrn:lite", claimed=True),
    "lapsrn_finetuned": Network("lapsrn_finetuned:lite", claimed=True, start="lapsrn"),
    "srresnet_half": Network("srresnet:lite", share=0.5),
    "srresnet_finetuned_half": Network(
        "srresnet_finetuned:lite", start="srresnet_half", share=0.5
    ),
    "lapsrn_half": Network("lapsrn:lite", share=0.5),
    "lapsrn_finetuned_half": Network(
        "lapsrn_finetuned:lite", start="lapsrn_half", share=0.5
    ),
    "eddsrn_bank": Network("eddsrn_lite", flags=(_BANK,)),
    "srresnet_bank": Network("srresnet:lite", flags=(_BANK,)),
    "srresnet_finetuned_bank": Network(
        "srresnet_finetuned:lite", start="srresnet_bank", flags=(_BANK,)
    ),
    "deblur_cnn": Network("deblur_cnn:lite"),
    "edsr": Network("edsr:lite"),
    "vdsr": Network("vdsr:lite"),
    "scgan": Network("scgan:lite"),
}


def plan(names: Sequence[str], *, seeds: int) -> Iterator[Run]:
    """Yields (network, seed) of each run, first those of seed 0.

    Args:
        names: networks to train; those that they start from are added.
        seeds: number of seeds of the networks that the paper's claim is about.
    """
    wanted = set(names) | {NETWORKS[name].start for name in names}
    for seed in range(seeds):
        for name, network in NETWORKS.items():
            if name in wanted and (seed == 0 or network.claimed):
                yield name, seed


def runs_to_do(runs: Iterable[Run], scored: Collection[Run], folder: Path) -> list[Run]:
    """Returns the runs without scores, and those whose weights these start from.

    Args:
        runs: all runs that are wanted, see `plan`.
        scored: the runs that have scores.
        folder: folder of all runs.
    """
    runs = list(runs)
    starts = {(NETWORKS[name].start, seed) for name, seed in set(runs) - set(scored)}
    return [
        run
        for run in runs
        if run not in scored or (run in starts and not _weights(folder, *run).exists())
    ]


def _weights(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name}-{seed}.safetensors"


def training_steps(name: str, crops: int) -> int:
    """Returns the steps of a network's training, see `training_flags`."""
    return int(NETWORKS[name].share * crops) // _BATCH_SIZE


def training_flags(name: str, *, seed: int, crops: int, folder: Path) -> list[str]:
    """Returns the flags of train.py for one run, without its photos.

    Args:
        name: one of NETWORKS.
        seed: seed of the weights and the crops.
        crops: crops of a network whose share is 1.
        folder: folder of all runs.
    """
    network = NETWORKS[name]
    config, colon, size = network.config.partition(":")
    given = [
        f"--config=configs/{config}.py{colon}{size}",
        f"--workdir={folder / f'{name}-{seed}'}",
        f"--config.seed={seed}",
        f"--config.total_steps={training_steps(name, crops)}",
        f"--config.batch_size={_BATCH_SIZE}",
        *network.flags,
    ]
    if network.start:
        given.append(f"--config.init_from={_weights(folder, network.start, seed)}")
    return given


def train_all(
    names: Sequence[str],
    *,
    seeds: int,
    crops: int,
    photos: Sequence[str],
    dataset: str,
    folder: Path,
    run: Callable[..., None],
) -> Path:
    """Trains and scores networks, and writes the scores of all runs in the folder.

    Args:
        names: networks to train; those that they start from are added.
        seeds: see `plan`.
        crops: see `training_flags`.
        photos: flags of train.py that name the photos.
        dataset: photos to score, as NAME=DIR.
        folder: folder for the runs, their weights and scores.
        run: runs Python with the arguments that it is given.

    Returns:
        The table of scores, a Markdown file.
    """
    set_name = dataset.partition("=")[0]
    table, scores = folder / f"scores-{set_name}.md", folder / "scores.json"
    found = _saved_scores(scores)
    scored = {
        (row["network"], row["seed"]) for row in found if row["dataset"] == set_name
    }
    for name, seed in runs_to_do(plan(names, seeds=seeds), scored, folder):
        workdir, weights = folder / f"{name}-{seed}", _weights(folder, name, seed)
        if not weights.exists():
            given = training_flags(name, seed=seed, crops=crops, folder=folder)
            run("train.py", *given, *photos)
            # A run that is told to stop saves its state and ends without an error.
            last = training_steps(name, crops)
            if not (workdir / "checkpoints" / str(last)).is_dir():
                raise InputError(f"{workdir}: this run was stopped before step {last}")
            exported = (f"--workdir={workdir}", f"--out={weights}")
            run("-m", "eddsrn_jax", "export", *exported)
        evaluation = workdir / f"scores-{set_name}"
        if not (evaluation / "results.json").exists():
            scored_with = (f"--dataset={dataset}", f"--output_dir={evaluation}")
            run("evaluate.py", f"--weights={weights}", *scored_with)
        # After each run, so that its scores are kept if the command is stopped. Another
        # command may have added runs in the meantime.
        own = {"network": name, "seed": seed, "dataset": set_name}
        found = [row for row in _saved_scores(scores) if own.items() - row.items()]
        found += [own | row for row in read_scores(evaluation / "results.json")]
        found.sort(key=_order)
        write_text(scores, to_json(found, indent=1) + "\n")
        write_text(table, format_scores(found, set_name))
    write_text(table, format_scores(found, set_name))
    return table


def _saved_scores(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else []


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["dataset"], [*NETWORKS].index(row["network"]), row["seed"], row["output"]


def record_settings(folder: Path, settings: Mapping[str, str]) -> None:
    """Records the flags of the runs in a folder, which must not differ between commands.

    Args:
        folder: folder of all runs.
        settings: values by the names of the flags.

    Raises:
        InputError: an earlier command had another value.
    """
    path = folder / "settings.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    for name, value in settings.items():
        if saved.get(name, value) != value:
            raise InputError(
                f"--{name}={value}: {path} has --{name}={saved[name]}; give that value"
                " or another --folder"
            )
    write_text(path, to_json({**saved, **settings}, indent=1) + "\n")


def read_scores(results: Path) -> list[dict[str, Any]]:
    """Returns the mean scores of the network that evaluate.py has scored.

    Each has the name of the output ("sr" or "deblurred"), and scores named as in
    `eddsrn_jax.evaluation.results`.

    Args:
        results: results.json of the evaluation.
    """
    return [
        {key: mean[key] for key in ("output", *_SCORES)}
        for mean in json.loads(results.read_text())["means"]
        if mean["method"] not in ("bicubic", "blurred input")
    ]


def format_scores(found: Sequence[Mapping[str, Any]], set_name: str) -> str:
    """Returns a Markdown table: the mean of the seeds, and their range.

    Args:
        found: scores of the runs, see `read_scores`, with "network", "seed" and
            "dataset".
        set_name: the set whose scores are shown.
    """
    found = [row for row in found if row["dataset"] == set_name]
    lines = [
        f"{set_name}, luminance PSNR in dB, border 4: mean over the seeds, and highest"
        " minus lowest.",
        "",
        "| network | seeds | x4 SR | range | deblurred | range |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys(row["network"] for row in found):
        own = [row for row in found if row["network"] == name]
        cells = []
        for output in ("sr", "deblurred"):
            psnrs = [row["psnr_y_crop4"] for row in own if row["output"] == output]
            ranged = f"{max(psnrs) - min(psnrs):.2f}" if len(psnrs) > 1 else ""
            cells += [f"{statistics.mean(psnrs):.2f}" if psnrs else "", ranged]
        seeds = len({row["seed"] for row in own})
        lines.append(f"| {name} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _run_python(*arguments: str) -> None:
    command = [sys.executable, *arguments]
    process = subprocess.Popen(command, env=user_environment())
    try:
        code = process.wait()
    finally:
        # A run that is told to stop saves its state first.
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code:
        raise InputError(f"{' '.join(command)}: failed with exit code {code}")


def main() -> None:
    """Trains and scores the networks that the flags name."""
    names = _ONLY.value or list(NETWORKS)
    for name in names:
        if name not in NETWORKS:
            raise UsageError(f"--only={name}: expected names from {', '.join(NETWORKS)}")
    # A folder that is missing must not be recorded as the one of the runs, or be noticed
    # after the first training.
    (scored,) = parse_datasets([_DATASET.value]).values()
    if isinstance(scored, str):
        raise UsageError(f"--dataset={_DATASET.value}: expected NAME=DIR")
    for flag in (_TRAIN, _VALID):
        find_photos(local_path(flag.value, f"--{flag.name}"))
    find_photos(scored)
    folder = local_path(_FOLDER.value, "--folder")
    make_folder(folder, "--folder")
    name, _, photos = _DATASET.value.partition("=")
    record_settings(
        folder,
        {
            **{"train": _TRAIN.value, "valid": _VALID.value},
            **{"crops": str(_CROPS.value), f"dataset={name}": photos},
        },
    )
    table = train_all(
        names,
        seeds=_SEEDS.value,
        crops=_CROPS.value,
        photos=(
            f"--config.data.source=folder:{_TRAIN.value}",
            f"--config.data.validation_source=folder:{_VALID.value}",
        ),
        dataset=_DATASET.value,
        folder=folder,
        run=_run_python,
    )
    print(f"{table.read_text()}\nsaved in {table}")


if __name__ == "__main__":
    run_command(main, FLAGS)
