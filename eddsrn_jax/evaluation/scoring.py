"""Scoring any method on any set of photos.

Each photo is cut to a multiple of the scale, shrunk and blurred. Every method gets the
result in 8 bits. Its 8-bit outputs are scored: "sr" against the photo, "deblurred"
against the rounded small sharp image. Of a pair, the given small photo is the input.
"""

import concurrent.futures
import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from eddsrn_jax.data.progress import Progress
from eddsrn_jax.evaluation.inputs import (
    HEADLINE_SIGMAS,
    RANDOM_SIGMA_RANGE,
    SPOILINGS,
    Spoiling,
    cut_to_scale,
    degrade_photo,
    degrade_photo_by,
    random_sigma,
    spoil,
)
from eddsrn_jax.evaluation.metrics import MAX_PSNR, MIN_SIDE, score
from eddsrn_jax.evaluation.results import Row, before_after
from eddsrn_jax.images import write_image
from eddsrn_jax.machine import machine_memory, usable_cores
from eddsrn_jax.models import SCALE
from eddsrn_jax.paths import below
from eddsrn_jax.restoration.outputs import Restored

_log = logging.getLogger(__name__)

# Maps lr_blur, uint8 [h, w, 3], to uint8 images. It also takes sigma if its attribute
# `takes_sigma` is true. If its attribute `takes_place` is true, it looks up images that
# were made before: it also takes set, degradation and name, such as
# "Set14/sigma_1/baboon", and has no time.
Method = Callable[..., Restored]
# Name and pixels, uint8 [H, W, 3].
Photo = tuple[str, np.ndarray]
# Name, sharp photo as above, and input, uint8 [H // 4, W // 4, 3].
Pair = tuple[str, np.ndarray, np.ndarray]
# Results of a photo that wait for their scores take about this much memory at most.
_MOST_BYTES = 2**30
# Computing the scores of an image takes up to this many bytes for each of its pixels.
_BYTES_PER_PIXEL = 200
# Share of the machine's memory for computing scores in parallel.
_MEMORY_SHARE = 0.25
# A method's name, its time in seconds, and its outputs.
_Result = tuple[str, float, Restored]
# The first fields of a Row: dataset, image, sigma, output, method and seconds.
_Key = tuple[str, str, float | None, str, str, float]


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Which photos of a set are scored, and with which degradations.

    Attributes:
        sigmas: blurs at which every photo is scored; None draws one for each photo.
        own: import path of a degradation that takes the place of the blurs, see
            ops.degradation.degrade_by; "" for none.
        spoilings: degradations after the blur; every photo is scored with each of them.
        seed: seed of drawn sigmas, of noise and of `own`.
        max_photos: maximum number of photos from each set; None for all.
        save_images: whether to write every image.
    """

    sigmas: Sequence[float] | None = HEADLINE_SIGMAS
    own: str = ""
    spoilings: Sequence[Spoiling] = SPOILINGS["paper"]
    seed: int = 0
    max_photos: int | None = None
    save_images: bool = False


# All photos, by the paper's protocol.
PAPER = Scoring()


def evaluate(
    methods: Mapping[str, Method],
    photos: Iterable[Photo | Pair],
    *,
    dataset: str,
    scoring: Scoring = PAPER,
    output_dir: Path | None = None,
    share: tuple[int, int] = (0, 1),
) -> list[Row]:
    """Scores methods on photos; skips those too small for the metrics, with a warning.

    Args:
        methods: methods by name. If one has a method `prepare(height, width)`, as
            Restorer has, that is called first, so that times contain no compilation.
        photos: names and uint8 [H, W, 3]; of a pair also the input. Methods that take
            the true sigma are not scored on pairs and on a user's own degradation,
            where it is unknown.
        dataset: name of the set.
        scoring: which photos are scored, and with which degradations.
        output_dir: folder for files. It gets a before/after picture of the first photo at
            the middle sigma, and, with `save_images`, all images in `images/DATASET`.
            None writes no file.
        share: (i, n) selects photos i, i + n, i + 2 n and so on. The share with i = 0
            writes the before/after picture.

    Returns:
        A row for each output of each method, photo, sigma and spoiling.
    """
    rows: list[Row] = []
    stems: set[str] = set()
    has_example, are_known = share[0] > 0, False
    photos = itertools.islice(photos, scoring.max_photos)
    with Progress(f"scoring {dataset}") as bar:
        for number, (name, photo, *given) in enumerate(photos):
            bar.update()
            stem = new_stem(name, stems)
            if number % share[1] != share[0] or _is_too_small(name, photo):
                continue
            if given and not are_known:
                _warn_of_pairs(dataset, methods, scoring)
                are_known = True
            hr, results, num_bytes = cut_to_scale(photo), [], 0
            if (hr[:, :, :1] == hr).all():
                _log.info("%s: gray photo, scored as three equal channels", name)
            for cell in _cells(scoring, name, hr, *given):
                place = f"{dataset}/{cell.folder}/{stem}"
                found = list(_apply(methods, cell, place))
                results.append((cell, found))
                if output_dir and scoring.save_images:
                    _save_images(below(output_dir, "images", dataset), stem, cell, found)
                if output_dir and cell.is_example and not has_example:
                    _write_example(example_path(output_dir, dataset), cell, found, hr)
                # Scoring waits, so that it does not disturb the methods' times; but not
                # until the results fill the memory.
                num_bytes += _num_bytes(cell, found)
                if num_bytes > _MOST_BYTES:
                    rows += _score(dataset, name, hr, results)
                    results, num_bytes = [], 0
            rows += _score(dataset, name, hr, results)
            has_example = True
    return rows


def _warn_of_pairs(dataset: str, methods: Mapping[str, Method], scoring: Scoring) -> None:
    """Warns of what has no effect on pairs."""
    chosen = (scoring.sigmas, scoring.own, scoring.spoilings)
    without = [] if chosen == (PAPER.sigmas, "", PAPER.spoilings) else ["degradation"]
    without += [name for name, x in methods.items() if getattr(x, "takes_sigma", False)]
    if without:
        _log.warning(
            "%s: these are pairs, whose inputs are scored as they are; their sigma is"
            " unknown. Without effect on them: %s",
            dataset,
            ", ".join(without),
        )


def example_path(output_dir: Path, dataset: str) -> Path:
    """Returns the path of a set's before/after picture."""
    return below(output_dir, f"before_after_{dataset}.png")


@dataclasses.dataclass(frozen=True)
class _Cell:
    """One degradation of a photo: the network's input, and the truth of "deblurred".

    Attributes:
        sigma: blur; None for a pair or a user's own degradation, where it is unknown.
        spoiling: degradation after the blur.
        folder: name of the folder for the cell's images.
        is_example: whether the photo's before/after picture shows this degradation.
    """

    sigma: float | None
    spoiling: Spoiling
    folder: str
    is_example: bool
    input: np.ndarray
    lr_sharp: np.ndarray


def _num_bytes(cell: _Cell, found: Sequence[_Result]) -> int:
    """Returns the size in memory of a cell's input and of all images made from it."""
    outputs = [image for *_, outputs in found for _, image in outputs.items()]
    return sum(image.nbytes for image in (cell.input, cell.lr_sharp, *outputs))


def new_stem(name: str, stems: set[str]) -> str:
    """Returns a name for a photo's images that is not in the set, and adds it.

    That is the photo's name without its extension, or with it, or with a number. Names in
    the set have no case, as some file systems ignore it.
    """
    numbered = (f"{name}-{i}" for i in itertools.count(2))
    candidates = itertools.chain([str(Path(name).with_suffix("")), name], numbered)
    stem = next(candidate for candidate in candidates if candidate.lower() not in stems)
    stems.add(stem.lower())
    return stem


def _is_too_small(name: str, photo: np.ndarray) -> bool:
    """Returns whether a photo is too small for the metrics, and warns if it is."""
    if min(cut_to_scale(photo).shape[:2]) >= SCALE * MIN_SIDE:
        return False
    _log.warning(
        "%s: left out, because %d x %d is smaller than the %d pixels per side that the"
        " metrics need",
        name,
        photo.shape[1],
        photo.shape[0],
        SCALE * MIN_SIDE,
    )
    return True


def _cells(
    scoring: Scoring, name: str, hr: np.ndarray, lr: np.ndarray | None = None
) -> Iterator[_Cell]:
    """Yields a pair's given input, or a photo's inputs for each sigma and spoiling."""
    # One for all photos, because degrade_photo compiles for each value.
    max_sigma = max(scoring.sigmas or RANDOM_SIGMA_RANGE)
    if lr is not None:
        lr_sharp, _ = degrade_photo(hr, 0.0, max_sigma=max_sigma)
        yield _Cell(None, Spoiling(), "pairs", True, lr, lr_sharp)
        return
    seed, sigmas = scoring.seed, scoring.sigmas or (random_sigma(scoring.seed, name),)
    example = (None if scoring.own else middle(sigmas), scoring.spoilings[0])
    for sigma in [None] if scoring.own else sigmas:
        if sigma is None:
            lr_sharp, lr_blur = degrade_photo_by(scoring.own, hr, seed=seed, name=name)
        else:
            lr_sharp, lr_blur = degrade_photo(hr, sigma, max_sigma=max_sigma)
        for spoiling in scoring.spoilings:
            spoiled = spoil(lr_blur, spoiling, seed=seed, name=name)
            folder = _folder_name(sigma, spoiling)
            is_example = (sigma, spoiling) == example
            yield _Cell(sigma, spoiling, folder, is_example, spoiled, lr_sharp)


def _score(
    dataset: str,
    name: str,
    hr: np.ndarray,
    results: Sequence[tuple[_Cell, list[_Result]]],
) -> list[Row]:
    """Scores results of a photo, in parallel; logs which ones are exact."""
    jobs: list[tuple[_Key, concurrent.futures.Future, Spoiling]] = []
    needed = _BYTES_PER_PIXEL * hr.shape[0] * hr.shape[1]
    fitting = int(_MEMORY_SHARE * machine_memory()) // needed
    workers = max(1, min(usable_cores(), fitting))
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for cell, found in results:
            truth = {"sr": hr, "deblurred": cell.lr_sharp}
            for method, seconds, outputs in found:
                for output, image in outputs.items():
                    key = (dataset, name, cell.sigma, output, method, seconds)
                    job = pool.submit(score, image, truth[output])
                    jobs.append((key, job, cell.spoiling))
    rows = [Row(*key, job.result(), x.noise, x.jpeg) for key, job, x in jobs]
    if exact := {r.method: None for r in rows if MAX_PSNR in r.scores.values()}:
        _log.info(
            "%s: restored exactly by %s; a PSNR of %g dB is counted",
            name,
            ", ".join(exact),
            MAX_PSNR,
        )
    return rows


def middle(values: Sequence[float]) -> float:
    """Returns the middle of the sorted values, for which example pictures are made."""
    return sorted(values)[len(values) // 2]


def _apply(methods: Mapping[str, Method], cell: _Cell, place: str) -> Iterator[_Result]:
    lr_blur = cell.input
    for name, method in methods.items():
        if getattr(method, "takes_place", False):
            yield name, math.nan, method(lr_blur, place)
            continue
        takes_sigma = getattr(method, "takes_sigma", False)
        if takes_sigma and cell.sigma is None:
            continue
        if prepare := getattr(method, "prepare", None):
            prepare(*lr_blur.shape[:2])
        start = time.perf_counter()
        told = (cell.sigma,) if takes_sigma else ()
        outputs = method(lr_blur, *told)
        yield name, time.perf_counter() - start, outputs


def _captioned(lr_blur: np.ndarray, results: Sequence[_Result]) -> dict[str, np.ndarray]:
    """Returns the input and every image made from it, by caption."""
    images = {"input": lr_blur}
    for method, _, outputs in results:
        for output, image in outputs.items():
            if image is not lr_blur:
                images[f"{method} {output}"] = image
    return images


def _write_example(
    path: Path, cell: _Cell, results: Sequence[_Result], hr: np.ndarray
) -> None:
    """Writes a picture of a photo's input, every image made from it, and the truth."""
    images = _captioned(cell.input, results)
    title = "input" if cell.sigma is None else f"sigma {cell.sigma:.3g}, input"
    images = {title: images.pop("input"), **images, "truth": hr}
    write_image(path, before_after(images))


def _save_images(
    folder: Path, stem: str, cell: _Cell, results: Sequence[_Result]
) -> None:
    """Writes an input and every image made from it, in a subfolder of its degradation."""
    for caption, image in _captioned(cell.input, results).items():
        name = f"{stem}_{caption.replace(' ', '_')}.png"
        write_image(below(folder / cell.folder, name), image)


def _folder_name(sigma: float | None, spoiling: Spoiling) -> str:
    start = "own_degradation" if sigma is None else f"sigma_{sigma:.4g}"
    suffix = "" if spoiling == Spoiling() else f"_{spoiling}".replace(",", "")
    return f"{start}{suffix.lower().replace(' ', '_')}"
