"""Finds the files to restore, places their results, and records their status."""

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eddsrn_jax.errors import InputError, UsageError
from eddsrn_jax.images import list_images
from eddsrn_jax.images.decoding import EXTENSIONS, READ_EXTENSIONS, Header
from eddsrn_jax.images.files import RESULT_ENDING
from eddsrn_jax.models import SCALE
from eddsrn_jax.paths import file_key

_log = logging.getLogger(__name__)

_SCALES = {"sr": SCALE, "deblurred": 1}


@dataclasses.dataclass(eq=False)
class Job:
    """A photo to restore, its targets and its status.

    Attributes:
        path: file of the photo.
        folder: subfolder of the searched folder in which the photo lies; empty for a
            photo that was named itself.
        targets: files to write, by output.
        status: "not started", "interrupted", "restored", "skipped" or "failed".
        error: reason of a failure.
        warnings: messages that were logged about the photo.
        header: size, channels and dtype of the photo, once read.
        reduced: height and width to which the sr result is reduced; None keeps x4.
        sigma: estimated blur, in pixels of the photo.
        seconds: time for reading, restoring and writing.
    """

    path: Path
    folder: Path = Path()
    targets: dict[str, Path] = dataclasses.field(default_factory=dict)
    status: str = "not started"
    error: str | None = None
    warnings: list[str] = dataclasses.field(default_factory=list)
    header: Header | None = None
    reduced: tuple[int, int] | None = None
    sigma: float | None = None
    seconds: float | None = None

    @property
    def known_header(self) -> Header:
        """The header, once read."""
        assert self.header is not None, "the header is not read yet"
        return self.header

    @property
    def pixels(self) -> int:
        """Height times width, once the header is known."""
        return self.known_header.height * self.known_header.width

    def target_header(self, output: str) -> Header:
        """Returns the size, channels and dtype of an output's file."""
        header = self.computed_header(output)
        if output == "sr" and self.reduced:
            height, width = self.reduced
            return dataclasses.replace(header, height=height, width=width)
        return header

    def computed_header(self, output: str) -> Header:
        """Returns the size, channels and dtype of an output before it is reduced."""
        header, scale = self.known_header, _SCALES[output]
        return dataclasses.replace(
            header, height=scale * header.height, width=scale * header.width
        )

    def warn(self, message: str) -> None:
        """Logs and records a warning about the photo, each message only once."""
        if message not in self.warnings:
            self.warnings.append(message)
            _log.warning("%s: %s", self.path, message)

    def fail(self, error: BaseException) -> None:
        """Marks the job as failed, and logs the reason."""
        reason = error.strerror if isinstance(error, OSError) else None
        # Error messages of devices can be long.
        reason = reason or " ".join(str(error).split())[:500]
        if not isinstance(error, ValueError | ArithmeticError | OSError):
            reason = f"{type(error).__name__} {reason}".strip()
        # Errors of this package begin with the file's name.
        self.status, self.error = "failed", reason.removeprefix(f"{self.path}: ")
        _log.error("%s: failed: %s", self.path, self.error)

    def entry(self) -> dict[str, Any]:
        """Returns the job's entry in the report, ready for JSON."""
        return {
            "input": str(self.path),
            "status": self.status,
            "error": self.error,
            "warnings": self.warnings,
            "width": self.header and self.header.width,
            "height": self.header and self.header.height,
            "estimated_sigma": self.sigma and round(self.sigma, 2),
            "seconds": self.seconds and round(self.seconds, 3),
            "outputs": {name: str(path) for name, path in self.targets.items()}
            if self.status != "failed"
            else {},
        }


@dataclasses.dataclass(frozen=True)
class Placing:
    """Options for where results go and which existing files they may replace.

    Attributes:
        outputs: "sr", "deblurred" or both.
        path: file for the one result of a single photo; None names results after their
            inputs.
        folder: folder for all results; None writes them beside their inputs.
        suffix: extension of the results, such as ".png", which decides the format.
        overwrite: whether a result may replace its own input.
        skip_existing: whether to keep existing results and make only missing ones.
        scale: size of the sr result relative to the photo: 2, 3 or 4. Smaller ones than
            4 are reduced from it.
        width: width of the sr result in pixels, instead of a scale.
        quality: quality of JPEG and WebP results, 1 to 100; None takes the default.
    """

    outputs: Sequence[str] = ("sr",)
    path: Path | None = None
    folder: Path | None = None
    suffix: str = ".png"
    overwrite: bool = False
    skip_existing: bool = False
    scale: int = SCALE
    width: int | None = None
    quality: int | None = None

    def targets(self, job: Job, *, full_name: bool = False) -> dict[str, Path]:
        """Returns the files to write for a job, by output.

        Args:
            job: photo to restore.
            full_name: whether results are named after the photo's name with its
                extension, such as a.jpg_x4.png.
        """
        if self.path:
            return {name: self.path for name in self.outputs}
        folder = self.folder / job.folder if self.folder else job.path.parent
        stem = job.path.name if full_name else job.path.stem
        return {
            name: folder / f"{stem}_{self._ending(name)}{self.suffix}"
            for name in self.outputs
        }

    def _ending(self, output: str) -> str:
        if output != "sr":
            return output
        return f"w{self.width}" if self.width else f"x{self.scale}"

    def reduced_size(self, header: Header) -> tuple[int, int] | None:
        """Returns the height and width that the x4 result is reduced to; None for x4.

        Raises:
            InputError: the width is more than four times that of the photo.
        """
        if self.width:
            if self.width > SCALE * header.width:
                raise InputError(
                    f"--width={self.width} is more than {SCALE} times the photo's width"
                    f" of {header.width} pixels"
                )
            return max(1, round(header.height * self.width / header.width)), self.width
        if self.scale == SCALE:
            return None
        return self.scale * header.height, self.scale * header.width


@dataclasses.dataclass(frozen=True)
class Limits:
    """The largest pixel counts allowed for a photo and for all its results together.

    A result that is reduced from x4 counts with its pixels at x4, which take memory.
    """

    input_pixels: float = 100_000_000
    output_pixels: float = 1_000_000_000

    def check(self, job: Job) -> None:
        """Raises InputError if a photo or the sum of its results is too large."""
        made = job.pixels * sum(_SCALES[name] ** 2 for name in job.targets)
        header = job.known_header
        for count, limit, kind in (
            (job.pixels, self.input_pixels, "input"),
            (made, self.output_pixels, "output"),
        ):
            if count > limit:
                raise InputError(
                    f"{header.width}x{header.height} pixels make"
                    f" {count / 1e6:,.4g} megapixels of {kind}, more than"
                    f" --max_{kind}_megapixels={limit / 1e6:g}"
                )


def find_jobs(
    paths: Sequence[Path],
    *,
    recursive: bool,
    results: Path | None = None,
    left_out: dict[Path, str] | None = None,
) -> Iterator[Job]:
    """Yields a job for each file and for each image in the folders, without duplicates.

    In folders, hidden images are left out, and so are results of other images there. A
    path that does not exist, or a folder without images, yields one job that has failed.

    Args:
        paths: files and folders.
        recursive: whether to search subfolders too.
        results: folder for results. If it lies inside a searched folder, or is one of
            several, its images are left out, too.
        left_out: dict to which the files that are left out are added, with the reasons.
    """
    seen: dict[str, Path] = {}
    left_out = {} if left_out is None else left_out
    for path in paths:
        try:
            is_folder = path.is_dir()
            files = _photographs(path, recursive, left_out) if is_folder else [path]
            if not is_folder and not path.exists():
                raise InputError("no such file or folder")
        except (InputError, OSError) as error:
            job = Job(path)
            job.fail(error)
            yield job
            continue
        if is_folder and results:
            files = _outside(files, path, results, left_out, alone=len(paths) == 1)
        for file in files:
            if (other := seen.setdefault(file_key(file), file)) is not file:
                if other != file:
                    left_out[file] = f"the same file as {other}"
                continue
            yield Job(file, file.parent.relative_to(path) if is_folder else Path())


def _photographs(folder: Path, recursive: bool, left_out: dict[Path, str]) -> list[Path]:
    found = list_images(
        folder, recursive=recursive, extensions=READ_EXTENSIONS, left_out=left_out
    )
    # Results are named after a photo with or without its extension.
    owners = {name: path for path in found for name in (path, path.with_suffix(""))}
    results = {}
    for path in found:
        owner = owners.get(path.with_name(RESULT_ENDING.sub("", path.stem)))
        if owner and RESULT_ENDING.search(path.stem):
            results[path] = f"by its name it is a result of {owner.name}"
    if results:
        first = next(iter(results)).name
        message = "%s: images left out that by their names are results: %s%s"
        more = f" and {len(results) - 1} more" if len(results) > 1 else ""
        _log.info(message, folder, first, more)
        left_out |= results
    return [path for path in found if path not in results]


def _outside(
    files: list[Path],
    folder: Path,
    results: Path,
    left_out: dict[Path, str],
    *,
    alone: bool,
) -> list[Path]:
    """Returns the files of a searched folder that are not in the folder of results.

    If both are the same folder and no other path is given, all are returned: results are
    then recognised by their names.
    """
    real_results = Path(os.path.realpath(results))
    real_folder = Path(os.path.realpath(folder))
    if real_results == real_folder and alone:
        return files
    inside = {x for x in files if Path(os.path.realpath(x)).is_relative_to(real_results)}
    if inside:
        left_out |= dict.fromkeys(inside, "it lies in the folder of the results")
        message = "%s: images left out, because they lie in the folder of results: %d"
        _log.info(message, folder, len(inside))
    return [file for file in files if file not in inside]


def place(jobs: Sequence[Job], placing: Placing) -> None:
    """Sets the jobs' targets.

    Photos that differ only in their extensions get results with full names. A job fails
    if its result would still replace another result, or a photo other than its own.

    Raises:
        UsageError: `placing.path` has an unknown extension, would hold several results,
            or is an input and `placing.overwrite` is not set.
    """
    if placing.path:
        _check_single_target(jobs, placing, placing.path)
    waiting = [job for job in jobs if job.status != "failed"]
    for job in waiting:
        job.targets = placing.targets(job)
    for job in _sharing_a_target(waiting):
        job.targets = placing.targets(job, full_name=True)
    for job, other in _sharing_a_target(waiting).items():
        target = next(iter(job.targets.values()))
        job.fail(
            InputError(
                f"the result would be written to {target}, as that of {other.path}"
            )
        )
    inputs = {file_key(job.path): job for job in jobs}
    for job in waiting:
        for target in job.targets.values() if job.status != "failed" else ():
            replaced = inputs.get(file_key(target), job)
            if replaced is not job:
                job.fail(
                    InputError(
                        f"the result would be written to {target}, which is an input too"
                    )
                )
                break


def _check_single_target(jobs: Sequence[Job], placing: Placing, path: Path) -> None:
    if len(jobs) * len(placing.outputs) != 1:
        raise UsageError(
            f"--output={path} names one file, but there are {len(jobs)} photos"
            f" with {len(placing.outputs)} results each; use --output_dir"
        )
    if path.suffix.lower() not in EXTENSIONS:
        known = " ".join(EXTENSIONS)
        raise UsageError(f"--output={path}: expected a name that ends in one of {known}")
    key = file_key(path)
    if not placing.overwrite and any(key == file_key(x.path) for x in jobs):
        raise UsageError(f"{path} is the input; use --overwrite to replace it")


def _sharing_a_target(jobs: Sequence[Job]) -> dict[Job, Job]:
    """Maps each job whose target another job has too to one of those others."""
    owners: dict[str, list[Job]] = {}
    for job in jobs:
        for target in job.targets.values():
            owners.setdefault(file_key(target), []).append(job)
    shared = [jobs for jobs in owners.values() if len(jobs) > 1]
    return {job: jobs[job is jobs[0]] for jobs in shared for job in jobs}
