"""Restores photos: eddsrn restore [flags] FILE or FOLDER ...

In a clone, python restore.py is the same command.

For photo.jpg it writes photo_x4.png, a sharp version that is four times as large. With
--outputs=sr,deblurred it also writes photo_deblurred.png, a deblurred version of the same
size. In a folder it restores all images. "-" restores standard input to standard output.
The exit code is 1 if a file failed, 2 if flags or arguments are wrong, else 0.
"""

import sys
import tempfile
from pathlib import Path

from absl import flags

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.commands.network_flags import define_network_flags, import_own_networks
from eddsrn_jax.commands.signals import interruptible
from eddsrn_jax.errors import UsageError
from eddsrn_jax.paths import expand_home, local_path

FLAGS = flags.FlagValues()
define_network_flags(FLAGS)
_OUTPUTS = flags.DEFINE_list(
    "outputs",
    ["sr"],
    "Results to write: sr, deblurred, or sr,deblurred for both.",
    flag_values=FLAGS,
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Folder for all results, with the same subfolders as the input. Default: each result"
    " is written beside its photo.",
    flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "File for the result of a single photo. Its extension sets the format.",
    flag_values=FLAGS,
)
_FORMAT = flags.DEFINE_enum(
    "format",
    "png",
    ["png", "jpg", "tif", "webp", "bmp"],
    "Format of the results. PNG and TIFF keep bit depth, transparency, profile and EXIF;"
    " PNG keeps texts too. Messages name what is lost.",
    flag_values=FLAGS,
)
_RECURSIVE = flags.DEFINE_boolean(
    "recursive", False, "Restore the images in subfolders too.", flag_values=FLAGS
)
_SKIP_EXISTING = flags.DEFINE_boolean(
    "skip_existing",
    False,
    "Skip results that exist already. Without this flag they are replaced.",
    flag_values=FLAGS,
)
_OVERWRITE = flags.DEFINE_boolean(
    "overwrite",
    False,
    "Allow --output to replace the input photo itself.",
    flag_values=FLAGS,
)
_SCALE = flags.DEFINE_enum(
    "scale",
    "4",
    ["2", "3", "4"],
    "Size of the sharp result relative to the photo. 2 and 3 are made by shrinking the"
    " result of 4, so they take as much time.",
    flag_values=FLAGS,
)
_WIDTH = flags.DEFINE_integer(
    "width",
    None,
    "Width of the sharp result in pixels, instead of --scale; at most four times that of"
    " the photo.",
    lower_bound=1,
    flag_values=FLAGS,
)
_QUALITY = flags.DEFINE_integer(
    "quality",
    None,
    "Quality of JPEG and WebP results, 1 to 100. Default: 95.",
    lower_bound=1,
    upper_bound=100,
    flag_values=FLAGS,
)
_DAMAGED = flags.DEFINE_enum(
    "damaged",
    "fail",
    ["fail", "restore"],
    "What to do with photos whose image data is truncated or damaged. fail: report an"
    " error. restore: restore what can be decoded, with a warning.",
    flag_values=FLAGS,
)
_REPORT = flags.DEFINE_string(
    "report",
    None,
    "JSON file for a report with the status of every photo.",
    flag_values=FLAGS,
)
_STRENGTH = flags.DEFINE_float(
    "strength",
    1.0,
    "Strength of the restoration. 1: the network's result. 0: the photo, only enlarged."
    " Values between mix the two.",
    lower_bound=0,
    upper_bound=1,
    flag_values=FLAGS,
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16", "float16"],
    "Type to compute in. bfloat16 is made for GPUs, TPUs, and CPUs with AMX or"
    " AVX-512 BF16. Default: the network's own.",
    flag_values=FLAGS,
)
_LARGEST_WINDOW = flags.DEFINE_integer(
    "largest_window",
    None,
    "Side of the largest window that is restored at once, a multiple of 8. Smaller"
    " windows take less memory and more time. Default: the largest useful size that fits"
    " the memory.",
    flag_values=FLAGS,
)
_MAX_INPUT = flags.DEFINE_float(
    "max_input_megapixels",
    100,
    "Refuse photos of more than this many megapixels.",
    lower_bound=0,
    flag_values=FLAGS,
)
_MAX_OUTPUT = flags.DEFINE_float(
    "max_output_megapixels",
    1000,
    "Refuse photos whose results together have more than this many megapixels, before"
    " --scale or --width reduces them.",
    lower_bound=0,
    flag_values=FLAGS,
)


def parse_outputs(values: list[str]) -> tuple[str, ...]:
    """Checks the names of outputs, and returns each one once."""
    outputs = tuple(dict.fromkeys(values))
    if not outputs or not set(outputs) <= {"sr", "deblurred"}:
        raise UsageError(
            f"--outputs={','.join(values)}: expected sr, deblurred or sr,deblurred"
        )
    return outputs


def main(arguments: list[str]) -> int:
    """Restores the given files and folders; returns 1 if a file failed, else 0."""
    outputs = parse_outputs(_OUTPUTS.value)
    # An empty name comes from an unset shell variable and does not mean this folder.
    if not all(arguments or [""]):
        raise UsageError("no photos: expected files or folders, see --help")
    if FLAGS.workdir and FLAGS.weights:
        raise UsageError("--workdir and --weights: give only one of them")
    if _OUTPUT.value and _OUTPUT_DIR.value:
        raise UsageError("--output and --output_dir: give only one of them")
    if _WIDTH.value and FLAGS["scale"].present:
        raise UsageError("--scale and --width: give only one of them")
    if (_WIDTH.value or _SCALE.value != "4") and "sr" not in outputs:
        raise UsageError("--scale and --width need the output sr")
    import_own_networks(FLAGS)
    # Before a file is written: Ctrl-C during imports ends the process at once.
    with interruptible():
        import eddsrn_jax.restoration.batch  # noqa: F401
    if arguments == ["-"]:
        return _restore_stream(outputs)
    paths = [expand_home(argument) for argument in arguments]
    return _restore(paths, outputs, _path(_OUTPUT))


def _restore_stream(outputs: tuple[str, ...]) -> int:
    """Restores a photo from standard input.

    The result is written to standard output, unless --output names a file.
    """
    if _OUTPUT_DIR.value or len(outputs) > 1:
        raise UsageError(
            "-: standard output takes one result; give one output and no --output_dir"
        )
    # A shell closes them with <&- and >&-.
    if sys.stdin is None or (sys.stdout is None and not _OUTPUT.value):
        raise UsageError("-: standard input and standard output must be open")
    with tempfile.TemporaryDirectory(prefix="eddsrn-") as folder:
        photo = Path(folder, "standard input")
        photo.write_bytes(sys.stdin.buffer.read())
        result = Path(folder, f"result.{_FORMAT.value}")
        code = _restore([photo], outputs, _path(_OUTPUT) or result)
        if result.exists() and sys.stdout:
            sys.stdout.buffer.write(result.read_bytes())
            sys.stdout.buffer.flush()
    return code


def _restore(paths: list[Path], outputs: tuple[str, ...], output: Path | None) -> int:
    # Imported here, so that --help and wrong flags are answered immediately.
    from eddsrn_jax.restoration.batch import restore_files
    from eddsrn_jax.restoration.jobs import Limits, Placing
    from eddsrn_jax.restoration.restorer import Restorer

    jobs = restore_files(
        paths,
        lambda: Restorer.from_pretrained(
            weights=FLAGS.weights,
            workdir=FLAGS.workdir,
            dtype=_DTYPE.value,
            outputs=outputs,
            largest_window=_LARGEST_WINDOW.value,
        ),
        placing=Placing(
            outputs=outputs,
            path=output,
            folder=_path(_OUTPUT_DIR),
            suffix=f".{_FORMAT.value}",
            overwrite=_OVERWRITE.value,
            skip_existing=_SKIP_EXISTING.value,
            scale=int(_SCALE.value),
            width=_WIDTH.value,
            quality=_QUALITY.value,
        ),
        limits=Limits(1e6 * _MAX_INPUT.value, 1e6 * _MAX_OUTPUT.value),
        recursive=_RECURSIVE.value,
        strength=_STRENGTH.value,
        damaged=_DAMAGED.value,
        report=_path(_REPORT),
    )
    return int(any(job.status == "failed" for job in jobs))


def _path(flag: flags.FlagHolder[str | None]) -> Path | None:
    return local_path(flag.value, f"--{flag.name}") if flag.value else None


def run() -> None:
    """Runs the command as a process."""
    run_command(main, FLAGS, takes_arguments=True)
