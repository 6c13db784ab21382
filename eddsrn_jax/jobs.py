"""Which files are restored, where their results go, and what became of them."""

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
    """A photograph to restore, and what became of it.

    Attributes:
        path: of the photograph.
        folder: in which it lies within the folder that was given.
        targets: files to write, by output.
        status: "not started", "interrupted", "restored", "skipped" or "failed".
        error: why it failed.
        warnings: what was said of it.
        header: its size and kind.
        sigma: its estimated blur.
        seconds: that it took, reading and writing included.
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
    def pixels(self) -> int:
        """Height times width, once the header is known."""
        return self.header.height * self.header.width

    def target_header(self, output: str) -> Header:
        """Size and kind of an output."""
        size = {
            side: _SCALES[output] * getattr(self.header, side)
            for side in ("height", "width")
        }
        return dataclasses.replace(self.header, **size)

    def warn(self, message: str) -> None:
        """Says something of it, once."""
        if message not in self.warnings:
            self.warnings.append(message)
            _log.warning("%s: %s", self.path, message)

    def fail(self, error: BaseException) -> None:
        """Ends it, and says why."""
        reason = error.strerror if isinstance(error, OSError) else None
        # Devices complain at length.
        reason = reason or " ".join(str(error).split())[:500]
        if not isinstance(error, ValueError | ArithmeticError | OSError):
            reason = f"{type(error).__name__} {reason}".strip()
        # Errors of this package begin with the file's name.
        self.status, self.error = "failed", reason.removeprefix(f"{self.path}: ")
        _log.error("%s: failed: %s", self.path, self.error)

    def entry(self) -> dict[str, Any]:
        """Its entry of a report."""
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
    """Where results go, and what may be there already.

    Attributes:
        outputs: "sr", "deblurred" or both.
        path: of the one result of a single file; None names results after their inputs.
        folder: for all results; None writes them beside their inputs.
        suffix: of the results' names, such as ".png", which says the format.
        overwrite: whether a result may replace the very photograph it is made from.
        skip_existing: whether a result that is there already is not made again.
    """

    outputs: Sequence[str] = ("sr",)
    path: Path | None = None
    folder: Path | None = None
    suffix: str = ".png"
    overwrite: bool = False
    skip_existing: bool = False

    def targets(self, job: Job) -> dict[str, Path]:
        """The files to write, by output."""
        if self.path:
            return {name: self.path for name in self.outputs}
        folder = self.folder / job.folder if self.folder else job.path.parent
        return {
            name: folder / f"{job.path.stem}{_ENDINGS[name]}{self.suffix}"
            for name in self.outputs
        }


@dataclasses.dataclass(frozen=True)
class Limits:
    """Pixels that a photograph may have, and its results together."""

    input_pixels: float = 100_000_000
    output_pixels: float = 1_000_000_000

    def check(self, job: Job) -> None:
        """Raises InputError where a photograph is too large."""
        made = job.pixels * sum(_SCALES[name] ** 2 for name in job.targets)
        for count, limit, kind in (
            (job.pixels, self.input_pixels, "input"),
            (made, self.output_pixels, "output"),
        ):
            if count > limit:
                raise InputError(
                    f"{job.header.width}x{job.header.height} pixels make"
                    f" {count / 1e6:,.4g} megapixels of {kind}, more than"
                    f" --max_{kind}_megapixels={limit / 1e6:g}"
                )


def find_jobs(paths: Sequence[Path], *, recursive: bool) -> Iterator[Job]:
    """The files, and the images of folders, each once.

    Hidden images of folders, and what was made of others in them, are left out. What is
    not there or holds no image has failed already.
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
        _log.info("%s: %d results of earlier calls left out", folder, count)
    return originals


def place(jobs: Sequence[Job], placing: Placing) -> None:
    """Sets the jobs' targets.

    Raises:
        UsageError: one is of two photographs or would replace one, or has no known
            extension.
    """
    if placing.path and len(jobs) * len(placing.outputs) != 1:
        raise UsageError(
            f"--output={placing.path} is one name for {len(jobs)} photographs and"
            f" {len(placing.outputs)} results of each; --output_dir takes several"
        )
    if placing.path and placing.path.suffix.lower() not in EXTENSIONS:
        known = " ".join(EXTENSIONS)
        raise UsageError(f"--output={placing.path}: expected a name in one of {known}")
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
                    f"{other.path} and {job.path} would both be written to {target};"
                    " restore them apart, or rename one"
                )
            replaced = inputs.get(real, job)
            if replaced is not job:
                raise UsageError(
                    f"{job.path} would be written to {target}, which is an input too"
                )
            if real in inputs and not placing.overwrite:
                raise UsageError(f"{target} is the input; --overwrite replaces it")
