"""Restores untrusted image files one after the other.

A file that fails is logged with the reason and never stops the others. Outputs are
written atomically: to a temporary file beside the target, which is then renamed. Inputs
are not changed unless the user allows a result to replace its own input.
"""

import contextlib
import dataclasses
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from eddsrn_jax.errors import InputError, UsageError
from eddsrn_jax.files import make_folder, written_beside
from eddsrn_jax.images.decoding import Header
from eddsrn_jax.images.pictures import (
    fit_to_format,
    read_header,
    read_picture,
    write_picture,
)
from eddsrn_jax.images.pixels import MODES, convert, to_pillow
from eddsrn_jax.models import SCALE
from eddsrn_jax.paths import file_key, printable
from eddsrn_jax.restoration.blur_estimate import estimate_sigma, outside_trained_range
from eddsrn_jax.restoration.claims import claimed
from eddsrn_jax.restoration.jobs import Job, Limits, Placing, find_jobs, place
from eddsrn_jax.restoration.resizing import reduced
from eddsrn_jax.restoration.restorer import Restorer
from eddsrn_jax.restoration.transparency import fill_hidden

_log = logging.getLogger(__name__)

# The longest file name, in bytes, on common file systems.
_LONGEST_NAME = 255


def restore_files(
    paths: Sequence[Path],
    make_restorer: Callable[[], Restorer],
    *,
    placing: Placing,
    limits: Limits,
    recursive: bool = False,
    strength: float = 1.0,
    damaged: str = "fail",
    report: Path | None = None,
) -> list[Job]:
    """Restores photos.

    Args:
        paths: files, and folders of images.
        make_restorer: function that makes the Restorer; not called if there is no photo
            to restore.
        placing: location of the results, see `Placing`.
        limits: largest sizes; photos beyond them fail before they are decoded.
        recursive: whether to search subfolders too.
        strength: see `Restorer.__call__`.
        damaged: whether photos with damaged image data fail or are restored with a
            warning, see `read_picture`.
        report: JSON file for the status of every photo, also written when the work ends
            early; None writes none.

    Returns:
        One job for each photo or unusable path, with its status.

    Raises:
        UsageError: the report would replace a photo or a result, or the one target is
            wrong, see `place`. It is raised before any work.
        InputError: the output folder, the weights or the report cannot be used.
    """
    left_out: dict[Path, str] = {}
    found = find_jobs(
        paths, recursive=recursive, results=placing.folder, left_out=left_out
    )
    jobs = list(found)
    place(jobs, placing)
    if placing.folder:
        make_folder(placing.folder, "--output_dir")
    start = time.perf_counter()
    with _reporting(report, jobs, left_out):
        try:
            problems: dict[Path, str | None] = {}
            for job in jobs:
                if job.status == "not started":
                    _prepare(job, limits, placing)
                    _check_folders(job, problems)
            waiting = [job for job in jobs if job.status == "not started"]
            if waiting:
                restorer = make_restorer()
                headers = [job.known_header for job in waiting]
                restorer.expect((x.height, x.width) for x in headers)
                _restore_all(waiting, restorer, Options(strength, damaged, placing))
        finally:
            _log.info("%s", _summary(jobs, time.perf_counter() - start))
    return jobs


@contextlib.contextmanager
def _reporting(
    path: Path | None, jobs: Sequence[Job], left_out: Mapping[Path, str]
) -> Iterator[None]:
    """Writes the report after the block, and once before it to find errors early."""
    if not path:
        yield
        return

    # Such as /dev/stdout or a named pipe, which no file may replace.
    is_stream = path.exists() and not path.is_file() and not path.is_dir()

    def write() -> None:
        entries = [{"input": str(x), "reason": why} for x, why in left_out.items()]
        files = [job.entry() for job in jobs]
        text = json.dumps({"files": files, "left_out": entries}, indent=1)
        try:
            if is_stream:
                path.write_text(text + "\n")
                return
            with written_beside(path) as temporary:
                temporary.write_text(text + "\n")
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            raise InputError(f"--report={path}: {reason}") from error

    files = [file for job in jobs for file in (job.path, *job.targets.values())]
    if file_key(path) in map(file_key, files):
        raise UsageError(f"--report={path} would replace a photo or a result")
    if not is_stream:
        write()
    try:
        yield
    finally:
        write()


class _Collector(logging.Handler):
    """A log handler that records the package's warnings in a job."""

    def __init__(self, job: Job):
        super().__init__(logging.WARNING)
        self._job = job

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().removeprefix(f"{self._job.path}: ")
        if record.levelno == logging.WARNING and message not in self._job.warnings:
            self._job.warnings.append(message)


@contextlib.contextmanager
def _working_on(job: Job) -> Iterator[None]:
    """Records failures, interruptions and warnings of the block in the job."""
    collector, logger = _Collector(job), logging.getLogger("eddsrn_jax")
    logger.addHandler(collector)
    try:
        yield
    # Decoders and devices raise exceptions of any type, and other files still wait.
    except Exception as error:
        job.fail(error)
    except BaseException:
        job.status = "interrupted"
        raise
    finally:
        logger.removeHandler(collector)


def _prepare(job: Job, limits: Limits, placing: Placing) -> None:
    """Reads the header; records the errors and losses that are known before decoding."""
    with _working_on(job):
        if placing.skip_existing and not _lacks_results(job):
            return
        job.header = read_header(job.path)
        limits.check(job)
        job.reduced = placing.reduced_size(job.header)
        for output, target in job.targets.items():
            *_, losses = fit_to_format(target.suffix, job.target_header(output))
            for loss in losses:
                job.warn(loss)
            if (length := len(os.fsencode(target.name))) > _LONGEST_NAME:
                raise InputError(
                    f"the result's name would have {length} bytes, more than"
                    f" {_LONGEST_NAME}; choose another name with --output"
                )
            if target.is_dir():
                raise InputError(f"the result cannot be written: {target} is a folder")


def _check_folders(job: Job, problems: dict[Path, str | None]) -> None:
    """Fails a job whose folder of results cannot be written, before it is computed.

    Args:
        job: photo whose header has been read.
        problems: reason by folder, or None if it can be written; folders are added.
    """
    if job.status != "not started":
        return
    for target in job.targets.values():
        folder = target.parent
        if folder not in problems:
            problems[folder] = _writing_problem(folder)
        if problem := problems[folder]:
            job.fail(InputError(f"the result cannot be written to {folder}: {problem}"))
            return


def _writing_problem(folder: Path) -> str | None:
    """Returns why no file can be written to a folder, which need not exist yet."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        # The permissions alone do not tell: a file system may be read-only.
        with tempfile.TemporaryFile(prefix=".eddsrn-", dir=folder):
            return None
    except OSError as error:
        return error.strerror


@dataclasses.dataclass(frozen=True)
class Options:
    """How photos are restored; see `restore_files`."""

    strength: float
    damaged: str
    placing: Placing


def _restore_all(jobs: Sequence[Job], restorer: Restorer, options: Options) -> None:
    """Restores all jobs, with one progress bar that counts the photos' pixels."""
    total, done = sum(job.pixels for job in jobs), 0
    with tqdm(total=total, unit="P", unit_scale=True, disable=None) as bar:
        for job in _in_turn(jobs, options.placing):
            bar.set_description(printable(job.path.name)[:30])
            with _working_on(job):
                start = time.perf_counter()
                for pixels in _restore(job, restorer, options):
                    bar.update(done + pixels - bar.n)
                job.seconds = time.perf_counter() - start
                job.status = "restored"
                names = ", ".join(str(target) for target in job.targets.values())
                _log.info("%s: %s (%.1f s)", job.path, names, job.seconds)
            done += job.pixels
            bar.update(done - bar.n)


def _in_turn(jobs: Sequence[Job], placing: Placing) -> Iterator[Job]:
    """Yields the jobs to restore; another process may skip existing results, too.

    Photos that another process is restoring come last. They are yielded only if they
    still lack results then.
    """
    if not placing.skip_existing:
        yield from jobs
        return
    busy = []
    for wait, some in ((False, jobs), (True, busy)):
        for job in some:
            with contextlib.ExitStack() as stack:
                mine = lacking = False
                with _working_on(job):
                    mine = stack.enter_context(claimed(job.path, wait=wait))
                    lacking = mine and _lacks_results(job)
                if lacking:
                    yield job
                elif not mine and job.status != "failed":
                    busy.append(job)


def _lacks_results(job: Job) -> bool:
    """Drops the targets that exist; a job without others is marked as skipped."""
    missing = {n: path for n, path in job.targets.items() if not path.exists()}
    if not missing:
        job.status = "skipped"
        return False
    job.targets = missing
    return True


def _restore(job: Job, restorer: Restorer, options: Options) -> Iterator[int]:
    """Restores one file; yields the number of its pixels that are done so far."""
    strength = options.strength
    pixels, metadata = read_picture(job.path, damaged=options.damaged)
    height, width, channels = pixels.shape
    if Header(height, width, channels, pixels.dtype) != job.header:
        raise InputError("the file was replaced by another one since it was found")
    # The blur is estimated without hidden colours, too.
    pixels = fill_hidden(pixels)
    job.sigma = estimate_sigma(_colour(pixels))
    if strength:
        _warn_of_blur(job, restorer.sigma_range)
    canvases = {
        output: _Canvas(job, output, target.suffix)
        for output, target in job.targets.items()
    }
    for block in restorer.blocks(pixels, strength=strength):
        parts = dict(block.items())
        for output, canvas in canvases.items():
            scale = SCALE if output == "sr" else 1
            canvas.paste(parts[output], scale * block.top, scale * block.left)
        # Blocks come row by row.
        yield block.top * pixels.shape[1] + block.height * (block.left + block.width)
    del pixels
    for output, target in job.targets.items():
        make_folder(target.parent, "folder")
        picture = canvases.pop(output).picture
        if output == "sr" and job.reduced:
            picture = _reduced(picture, job.reduced)
        quality = options.placing.quality
        extra = {"quality": quality} if quality else {}
        with written_beside(target) as temporary:
            messages = write_picture(temporary, picture, metadata, **extra)
        for message in messages:
            job.warn(message)


def _reduced(
    picture: Image.Image | np.ndarray, size: tuple[int, int]
) -> Image.Image | np.ndarray:
    """Shrinks a result to (height, width); a Pillow image stays one."""
    pixels = np.asarray(picture)
    result = reduced(pixels.reshape(*pixels.shape[:2], -1), *size)
    return to_pillow(result) if isinstance(picture, Image.Image) else result


def _colour(pixels: np.ndarray) -> np.ndarray:
    """Returns pixels [h, w, C] without alpha, as gray [h, w] or RGB [h, w, 3]."""
    return pixels[:, :, 0] if pixels.shape[2] < 3 else pixels[:, :, :3]


def _warn_of_blur(job: Job, trained: tuple[float, float]) -> None:
    """Warns of a photo whose blur is outside the range that the weights suit."""
    side = outside_trained_range(job.sigma, trained)
    if side:
        harm = {
            "sharper": "the result may be oversharpened (a lower --strength helps)",
            "blurrier": "some blur will remain (less if the photo is reduced first)",
        }
        low, high = trained
        job.warn(
            f"the photo is {side} than the training photos of the weights: its blur is"
            f" about sigma {job.sigma:.1f}, theirs {low:g} to {high:g} pixels;"
            f" {harm[side]}"
        )


class _Canvas:
    """An output image assembled from parts, with the channels its format can hold."""

    def __init__(self, job: Job, output: str, suffix: str):
        header = job.computed_header(output)
        # The file will have its size after the reduction.
        self._channels, self._dtype, _ = fit_to_format(suffix, job.target_header(output))
        if self._dtype == np.uint8:
            # Pillow writes its own images without a copy.
            size = (header.width, header.height)
            self.picture = Image.new(MODES[self._channels], size)
        else:
            shape = (header.height, header.width, self._channels)
            self.picture = np.zeros(shape, self._dtype)

    def paste(self, part: np.ndarray, top: int, left: int) -> None:
        part = convert(part, self._channels, self._dtype)
        if isinstance(self.picture, Image.Image):
            self.picture.paste(to_pillow(part), (left, top))
        else:
            height, width, _ = part.shape
            self.picture[top : top + height, left : left + width] = part


def _summary(jobs: Sequence[Job], seconds: float) -> str:
    """Returns one line with the number of jobs of each status, and their speed.

    `seconds` is the duration of the whole command.
    """
    parts = []
    for status in ("restored", "skipped", "failed", "interrupted", "not started"):
        if count := sum(job.status == status for job in jobs):
            parts.append(f"{count} {status}")
    done = [job for job in jobs if job.status == "restored"]
    if done:
        megapixels = sum(job.pixels for job in done) / 1e6
        rate = megapixels / sum(job.seconds for job in done if job.seconds)
        parts.append(f"{megapixels:.3g} megapixels at {rate:.3g} per second")
    return ", ".join(parts) + f" ({seconds:.1f} s)"
