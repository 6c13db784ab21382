"""Scoring any method on any set of photographs.

A photograph is cut to a multiple of the scale, shrunk and blurred, handed to every
method as 8 bits, and what comes back is scored as 8 bits: "sr" against the photograph,
"deblurred" against the rounded small sharp image.
"""

import concurrent.futures
import itertools
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eddsrn_jax.files import below
from eddsrn_jax.images import write_image
from eddsrn_jax.metrics import MIN_SIDE, psnr_y, score
from eddsrn_jax.models import SCALE
from eddsrn_jax.protocol import (
    HEADLINE_SIGMAS,
    RANDOM_SIGMA_RANGE,
    SPOILINGS,
    Spoiling,
    cut_to_scale,
    degrade_photo,
    random_sigma,
    spoil,
)
from eddsrn_jax.restoration import Restored
from eddsrn_jax.results import Row, before_after

_log = logging.getLogger(__name__)

# lr_blur, uint8 [h, w, 3], to uint8 images; and sigma too, where `takes_sigma` is set.
Method = Callable[..., Restored]
# A name and uint8 [H, W, 3].
Photo = tuple[str, np.ndarray]


def evaluate(
    methods: Mapping[str, Method],
    photos: Iterable[Photo],
    *,
    dataset: str,
    sigmas: Sequence[float] | None = HEADLINE_SIGMAS,
    spoilings: Sequence[Spoiling] = SPOILINGS["paper"],
    seed: int = 0,
    save_dir: Path | None = None,
    example_path: Path | None = None,
    share: tuple[int, int] = (0, 1),
) -> list[Row]:
    """Scores methods on photographs.

    Photographs too small for the metrics are left out with a warning.

    Args:
        methods: by name. One that has a method `prepare(height, width)`, as Restorer
            has, is told the size first, so that its times contain no compilation.
        photos: names and uint8 [H, W, 3].
        dataset: name of the set.
        sigmas: blurs to score every photograph at; None draws one for each.
        spoilings: what to do to every blurred photograph; each is scored.
        seed: of sigmas that are drawn, and of noise.
        save_dir: where to write all images; None writes none.
        example_path: where to write a picture of the first photograph's images at the
            middle sigma; None writes none.
        share: (i, n) for the photographs i, i + n, i + 2 n .. of all.
    """
    rows: list[Row] = []
    stems: set[str] = set()
    max_sigma = max(sigmas or RANDOM_SIGMA_RANGE)
    bar = tqdm(
        photos, dataset, unit="photo", disable=not sys.stderr.isatty(), leave=False
    )
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, (name, photo) in enumerate(bar):
            if number % share[1] != share[0]:
                stems.add(str(Path(name).with_suffix("")))
                continue
            hr = cut_to_scale(photo)
            if min(hr.shape[:2]) < SCALE * MIN_SIDE:
                _log.warning(
                    "%s: left out, %d x %d is smaller than the %d pixels a side that"
                    " the metrics need",
                    *(name, photo.shape[1], photo.shape[0], SCALE * MIN_SIDE),
                )
                continue
            if (hr[:, :, :1] == hr).all():
                _log.info("%s: gray, scored as three equal channels", name)
            results = []
            drawn = sigmas or (random_sigma(seed, name),)
            for sigma, spoiling in itertools.product(drawn, spoilings):
                lr_sharp, lr_blur = degrade_photo(hr, sigma, max_sigma=max_sigma)
                lr_blur = spoil(lr_blur, spoiling, seed=seed, name=name)
                found = list(_apply(methods, lr_blur, sigma))
                results.append((sigma, spoiling, lr_sharp, found))
                images = _captioned(lr_blur, found)
                if save_dir:
                    # Without its extension, unless another file has that name.
                    stem = str(Path(name).with_suffix(""))
                    stem = name if stem in stems else stem
                    _save(save_dir / _folder_name(sigma, spoiling), stem, images)
                first = not rows and spoiling == spoilings[0]
                if example_path and first and sigma == middle(drawn):
                    images = {f"sigma {sigma:.3g}, input": images.pop("input"), **images}
                    write_image(example_path, before_after({**images, "truth": hr}))
            stems.add(str(Path(name).with_suffix("")))
            # Scored only now: methods are timed on a quiet machine.
            jobs = []
            for sigma, spoiling, lr_sharp, found in results:
                truth = {"sr": hr, "deblurred": lr_sharp}
                for method, seconds, outputs in found:
                    for output, image in outputs.items():
                        key = (dataset, name, sigma, output, method, seconds)
                        job = pool.submit(score, image, truth[output])
                        jobs.append((key, job, spoiling))
            rows.extend(
                Row(*key, job.result(), spoiling.noise, spoiling.jpeg)
                for key, job, spoiling in jobs
            )
    return rows


def middle(values: Sequence[float]) -> float:
    """The one that a picture is made for."""
    return sorted(values)[len(values) // 2]


# A method's name, the seconds it took, and what it returned.
_Result = tuple[str, float, Restored]


def _apply(
    methods: Mapping[str, Method], lr_blur: np.ndarray, sigma: float
) -> Iterator[_Result]:
    for name, method in methods.items():
        if prepare := getattr(method, "prepare", None):
            prepare(*lr_blur.shape[:2])
        start = time.perf_counter()
        told = (sigma,) if getattr(method, "takes_sigma", False) else ()
        outputs = method(lr_blur, *told)
        yield name, time.perf_counter() - start, outputs


def _captioned(lr_blur: np.ndarray, results: Sequence[_Result]) -> dict[str, np.ndarray]:
    """The input and every image made from it, by caption."""
    images = {"input": lr_blur}
    for method, _, outputs in results:
        for output, image in outputs.items():
            if image is not lr_blur:
                images[f"{method} {output}"] = image
    return images


def _folder_name(sigma: float, spoiling: Spoiling) -> str:
    suffix = "" if spoiling == Spoiling() else f"_{spoiling}".replace(",", "")
    return f"sigma_{sigma:.4g}{suffix.lower().replace(' ', '_')}"


def _save(folder: Path, stem: str, images: Mapping[str, np.ndarray]) -> None:
    for caption, image in images.items():
        name = f"{stem}_{caption.replace(' ', '_')}.png"
        write_image(below(folder, name), image)


def validate(
    method: Method,
    photos: Sequence[Photo],
    *,
    sigmas: Sequence[float],
    spoilings: Sequence[Spoiling] = SPOILINGS["paper"],
    num_examples: int = 0,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Mean luminance PSNR at border 4; a short form of `evaluate` for training.

    Args:
        method: to score.
        photos: names and uint8 [H, W, 3].
        sigmas, spoilings: every pair of them is a degradation; the photographs have these
            in turn. Where there are fewer photographs, these come in turn too.
        num_examples: that many of the first photographs are pictured.

    Returns:
        "psnr_y_crop4" of "sr" and "deblurred_psnr_y_crop4", of the outputs there are; and
        pictures of input, outputs and truth side by side, by photograph.
    """
    examples: dict[str, np.ndarray] = {}
    values: dict[str, list[float]] = defaultdict(list)
    degradations = list(itertools.product(spoilings, sigmas))
    for i in range(max(len(photos), len(degradations))):
        name, photo = photos[i % len(photos)]
        hr = cut_to_scale(photo)
        spoiling, sigma = degradations[i % len(degradations)]
        lr_sharp, lr_blur = degrade_photo(hr, sigma, max_sigma=max(sigmas))
        lr_blur = spoil(lr_blur, spoiling, seed=0, name=name)
        outputs = method(lr_blur)
        if outputs.sr is not None:
            values["psnr_y_crop4"].append(psnr_y(outputs.sr, hr, border=4))
        if outputs.deblurred is not None:
            values["deblurred_psnr_y_crop4"].append(
                psnr_y(outputs.deblurred, lr_sharp, border=4)
            )
        if i < min(num_examples, len(photos)):
            panels = {"input": lr_blur, **dict(outputs.items()), "truth": hr}
            examples[Path(name).stem] = before_after(panels)
    return {name: float(np.mean(value)) for name, value in values.items()}, examples
