"""Restores photographs: python restore.py [flags] FILE or FOLDER ...

Of photo.jpg it writes photo_x4.png, deblurred and of four times its side, with
--outputs=sr,deblurred also photo_deblurred.png. Folders are searched for images. The exit
code is 1 where a file failed, 2 where flags or arguments are wrong, else 0.
"""

from pathlib import Path

from absl import flags

from eddsrn_jax.command_line import run_command
from eddsrn_jax.errors import UsageError

_OUTPUTS = flags.DEFINE_list("outputs", ["sr"], "sr, deblurred or both, with a comma.")
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Folder for all results, subfolders as in the input; beside each file by default.",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "File for the one result of one photograph; says the format too."
)
_FORMAT = flags.DEFINE_enum(
    "format",
    "png",
    ["png", "jpg", "tif", "webp", "bmp"],
    "Of the results. All that was in the input fits into png and tif.",
)
_RECURSIVE = flags.DEFINE_boolean("recursive", False, "Take subfolders of folders too.")
_SKIP_EXISTING = flags.DEFINE_boolean(
    "skip_existing",
    False,
    "Do not make again what is there; earlier results are replaced without it.",
)
_OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Let --output replace the photograph that it is made from."
)
_REPORT = flags.DEFINE_string("report", None, "JSON file, what became of every file.")
_STRENGTH = flags.DEFINE_float(
    "strength",
    1.0,
    "1 for all that the network does, 0 for plain enlarging; between them a mix.",
    lower_bound=0,
    upper_bound=1,
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run of train.py to take weights from.")
_WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Weights: gaussian or eddsrn-lite, which come with the package, or a .safetensors"
    " file. Default: eddsrn-lite.",
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", "float16"],
    "To compute in; bfloat16 is fast on GPUs and TPUs. The network's own by default.",
)
_LARGEST_WINDOW = flags.DEFINE_integer(
    "largest_window",
    None,
    "Side of the largest part that is restored at once, a multiple of 8: less takes less"
    " memory and more time. As large as pays and fits by default.",
)
_MAX_INPUT = flags.DEFINE_float(
    "max_input_megapixels", 100, "Larger photographs are refused.", lower_bound=0
)
_MAX_OUTPUT = flags.DEFINE_float(
    "max_output_megapixels", 1000, "So are larger results of one.", lower_bound=0
)


def parse_outputs(values: list[str]) -> tuple[str, ...]:
    """Names of outputs, each once."""
    outputs = tuple(dict.fromkeys(values))
    if not outputs or not set(outputs) <= {"sr", "deblurred"}:
        raise UsageError(
            f"--outputs={','.join(values)}: expected sr, deblurred or sr,deblurred"
        )
    return outputs


def main(arguments: list[str]) -> int:
    """Restores by the flags; 1 where a file failed, else 0."""
    outputs = parse_outputs(_OUTPUTS.value)
    # An empty name is a shell's variable that is not set, not this folder.
    if not all(arguments or [""]):
        raise UsageError("no photographs: expected files or folders, see --help")
    if _WORKDIR.value and _WEIGHTS.value:
        raise UsageError("--workdir and --weights: expected one of them")
    if _OUTPUT.value and _OUTPUT_DIR.value:
        raise UsageError("--output and --output_dir: expected one of them")
    # Here, so that --help and wrong flags answer at once.
    from eddsrn_jax.restoration.batch import restore_files
    from eddsrn_jax.restoration.jobs import Limits, Placing
    from eddsrn_jax.restoration.restorer import Restorer

    jobs = restore_files(
        [Path(argument).expanduser() for argument in arguments],
        lambda: Restorer.from_pretrained(
            weights=_WEIGHTS.value,
            workdir=_WORKDIR.value,
            dtype=_DTYPE.value,
            outputs=outputs,
            largest_window=_LARGEST_WINDOW.value,
        ),
        placing=Placing(
            outputs=outputs,
            path=_path(_OUTPUT),
            folder=_path(_OUTPUT_DIR),
            suffix=f".{_FORMAT.value}",
            overwrite=_OVERWRITE.value,
            skip_existing=_SKIP_EXISTING.value,
        ),
        limits=Limits(1e6 * _MAX_INPUT.value, 1e6 * _MAX_OUTPUT.value),
        recursive=_RECURSIVE.value,
        strength=_STRENGTH.value,
        report=_path(_REPORT),
    )
    return int(any(job.status == "failed" for job in jobs))


def _path(flag: flags.FlagHolder[str]) -> Path | None:
    return Path(flag.value).expanduser() if flag.value else None


if __name__ == "__main__":
    run_command(main, takes_arguments=True)
