"""Finds the files to restore, places their results, and records their status."""

import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eddsrn_jax.errors import InputError, UsageError
from eddsrn_jax.images import list_images
from eddsrn_jax.images.decoding import EXTENSIONS, Header
from eddsrn_jax.models import SCALE

_log = logging.getLogger(__name__)

_ENDINGS = {"sr": "_x4", "deblurred": "_deblurred"}
_SCALES = {"sr": SCALE, "deblurred": 1}


@dataclasses.dataclass
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
        """Returns the size, channels and dtype of an output."""
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
            "outputs": {name: str(path) for name, path in self.targets.items()},
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
    """

    outputs: Sequence[str] = ("sr",)
    path: Path | None = None
    folder: Path | None = None
    suffix: str = ".png"
    overwrite: bool = False
    skip_existing: bool = False

    def targets(self, job: Job) -> dict[str, Path]:
        """Returns the files to write for a job, by output."""
        if self.path:
            return {name: self.path for name in self.outputs}
        folder = self.folder / job.folder if self.folder else job.path.parent
        return {
            name: folder / f"{job.path.stem}{_ENDINGS[name]}{self.suffix}"
            for name in self.outputs
        }


@dataclasses.dataclass(frozen=True)
class Limits:
    """The largest pixel counts allowed for a photo and for all its results together."""

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


def find_jobs(paths: Sequence[Path], *, recursive: bool) -> Iterator[Job]:
    """Yields a job for each file and for each image in the folders, without duplicates.

    In folders, hidden images are left out, and so are results of other images there. A
    path that does not exist, or a folder without images, yields one job that has failed.

    Args:
        paths: files and folders.
        recursive: whether to search subfolders too.
    """
    seen = set()
    for path in paths:
        try:
            is_folder = path.is_dir()
            files = _photographs(path, recursive) if is_folder else [path]
            if not is_folder and not path.exists():
                raise InputError("no such file or folder")
        except (InputError, OSError) as error:
            job = Job(path)
            job.fail(error)
            yield job
            continue
        for file in files:
            if (real := os.path.realpath(file)) not in seen:
                seen.add(real)
                yield Job(file, file.parent.relative_to(path) if is_folder else Path())


def _photographs(folder: Path, recursive: bool) -> list[Path]:
    found = list_images(folder, recursive=recursive)
    stems = {path.with_suffix("") for path in found}
    originals = [
        path
        for path in found
        if not any(
            path.stem.endswith(ending)
            and path.with_name(path.stem.removesuffix(ending)) in stems
            for ending in _ENDINGS.values()
        )
    ]
    if len(originals) < len(found):
        count = len(found) - len(originals)
        _log.info("%s: %d results of earlier runs left out", folder, count)
    return originals


def place(jobs: Sequence[Job], placing: Placing) -> None:
    """Sets the jobs' targets.

    Raises:
        UsageError: two photos have the same target; a target is an input, other than its
            own with `placing.overwrite`; or `placing.path` has an unknown extension or
            would hold several results.
    """
    if placing.path and len(jobs) * len(placing.outputs) != 1:
        raise UsageError(
            f"--output={placing.path} names one file, but there are {len(jobs)} photos"
            f" with {len(placing.outputs)} results each; use --output_dir"
        )
    if placing.path and placing.path.suffix.lower() not in EXTENSIONS:
        known = " ".join(EXTENSIONS)
        raise UsageError(
            f"--output={placing.path}: expected a name that ends in one of {known}"
        )
    inputs = {os.path.realpath(job.path): job for job in jobs}
    taken: dict[str, Job] = {}
    for job in jobs:
        if job.status == "failed":
            continue
        job.targets = placing.targets(job)
        for target in job.targets.values():
            real = os.path.realpath(target)
            if (other := taken.setdefault(real, job)) is not job:
                raise UsageError(
                    f"the results of {other.path} and {job.path} would both be written to"
                    f" {target}; restore the photos separately, or rename one"
                )
            replaced = inputs.get(real, job)
            if replaced is not job:
                raise UsageError(
                    f"the result of {job.path} would be written to {target}, which is an"
                    " input too"
                )
            if real in inputs and not placing.overwrite:
                raise UsageError(f"{target} is the input; use --overwrite to replace it")
