"""Scoring any method on any set of photographs.

A photograph is cut to a multiple of the scale, shrunk and blurred, handed to every
method as 8 bits, and what comes back is scored as 8 bits: "sr" against the photograph,
"deblurred" against the rounded small sharp image.
"""

import concurrent.futures
import importlib.metadata
import itertools
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np
from tqdm import tqdm

from eddsrn_jax.checkpoint import Checkpoints
from eddsrn_jax.data.sources import Source, folder_source, open_split
from eddsrn_jax.errors import InputError
from eddsrn_jax.images import read_image, write_image
from eddsrn_jax.metrics import MIN_SIDE, psnr_y, score
from eddsrn_jax.models import EDDSRN, SCALE
from eddsrn_jax.protocol import (
    HEADLINE_SIGMAS,
    RANDOM_SIGMA_RANGE,
    bicubic,
    cut_to_scale,
    degrade_photo,
    random_sigma,
    untouched,
)
from eddsrn_jax.restoration import Restored, Restorer
from eddsrn_jax.results import Row, before_after, format_table, write_results
from eddsrn_jax.runtime import make_folder

_log = logging.getLogger(__name__)

# lr_blur, uint8 [h, w, 3], to uint8 images.
Method = Callable[[np.ndarray], Restored]
# A name and uint8 [H, W, 3].
Photo = tuple[str, np.ndarray]


def evaluate(
    methods: Mapping[str, Method],
    photos: Iterable[Photo],
    *,
    dataset: str,
    sigmas: Sequence[float] | None = HEADLINE_SIGMAS,
    seed: int = 0,
    save_dir: Path | None = None,
    example_path: Path | None = None,
) -> list[Row]:
    """Scores methods on photographs.

    Photographs too small for the metrics are left out with a warning.

    Args:
        methods: by name. One that has a method `prepare(height, width)`, as Restorer
            has, is told the size first, so that its times contain no compilation.
        photos: names and uint8 [H, W, 3].
        dataset: name of the set.
        sigmas: blurs to score every photograph at; None draws one for each.
        seed: of those drawn.
        save_dir: where to write all images; None writes none.
        example_path: where to write a picture of the first photograph's images at the
            middle sigma; None writes none.
    """
    rows: list[Row] = []
    stems: set[str] = set()
    max_sigma = max(sigmas or RANDOM_SIGMA_RANGE)
    bar = tqdm(
        photos, dataset, unit="photo", disable=not sys.stderr.isatty(), leave=False
    )
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, photo in bar:
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
            for sigma in sigmas or (random_sigma(seed, name),):
                lr_sharp, lr_blur = degrade_photo(hr, sigma, max_sigma=max_sigma)
                found = list(_apply(methods, lr_blur))
                results.append((sigma, lr_sharp, found))
                images = _captioned(lr_blur, found)
                if save_dir:
                    # Without its extension, unless another file has that name.
                    stem = str(Path(name).with_suffix(""))
                    stem = name if stem in stems else stem
                    _save(save_dir / f"sigma_{sigma:.4g}", stem, images)
                if example_path and not rows and sigma == _middle(sigmas or (sigma,)):
                    images = {f"sigma {sigma:.3g}, input": images.pop("input"), **images}
                    write_image(example_path, before_after({**images, "truth": hr}))
            stems.add(str(Path(name).with_suffix("")))
            # Scored only now: methods are timed on a quiet machine.
            jobs = []
            for sigma, lr_sharp, found in results:
                truth = {"sr": hr, "deblurred": lr_sharp}
                for method, seconds, outputs in found:
                    for output, image in outputs.items():
                        key = (dataset, name, sigma, output, method, seconds)
                        jobs.append((key, pool.submit(score, image, truth[output])))
            rows.extend(Row(*key, job.result()) for key, job in jobs)
    return rows


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


# A method's name, the seconds it took, and what it returned.
_Result = tuple[str, float, Restored]


def _apply(methods: Mapping[str, Method], lr_blur: np.ndarray) -> Iterator[_Result]:
    for name, method in methods.items():
        if prepare := getattr(method, "prepare", None):
            prepare(*lr_blur.shape[:2])
        start = time.perf_counter()
        outputs = method(lr_blur)
        yield name, time.perf_counter() - start, outputs


def _captioned(lr_blur: np.ndarray, results: Sequence[_Result]) -> dict[str, np.ndarray]:
    """The input and every image made from it, by caption."""
    images = {"input": lr_blur}
    for method, _, outputs in results:
        for output, image in outputs.items():
            if image is not lr_blur:
                images[f"{method} {output}"] = image
    return images


def _save(folder: Path, stem: str, images: Mapping[str, np.ndarray]) -> None:
    for caption, image in images.items():
        write_image(folder / f"{stem}_{caption.replace(' ', '_')}.png", image)


def validate(
    method: Method,
    photos: Sequence[Photo],
    *,
    sigmas: Sequence[float],
    num_examples: int = 0,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Mean luminance PSNR at border 4; a short form of `evaluate` for training.

    Args:
        method: to score.
        photos: names and uint8 [H, W, 3].
        sigmas: blurs that the photographs have in turn; where there are fewer
            photographs than sigmas, these come in turn too.
        num_examples: that many of the first photographs are pictured.

    Returns:
        "psnr_y_crop4" of "sr" and, where there is that output, "deblurred_psnr_y_crop4";
        and pictures of input, outputs and truth side by side, by photograph.
    """
    examples: dict[str, np.ndarray] = {}
    values: dict[str, list[float]] = defaultdict(list)
    for i in range(max(len(photos), len(sigmas))):
        name, photo = photos[i % len(photos)]
        hr = cut_to_scale(photo)
        sigma = sigmas[i % len(sigmas)]
        lr_sharp, lr_blur = degrade_photo(hr, sigma, max_sigma=max(sigmas))
        outputs = method(lr_blur)
        values["psnr_y_crop4"].append(psnr_y(outputs.sr, hr, border=4))
        if outputs.deblurred is not None:
            values["deblurred_psnr_y_crop4"].append(
                psnr_y(outputs.deblurred, lr_sharp, border=4)
            )
        if i < min(num_examples, len(photos)):
            panels = {"input": lr_blur, **dict(outputs.items()), "truth": hr}
            examples[Path(name).stem] = before_after(panels)
    return {name: float(np.mean(value)) for name, value in values.items()}, examples


def evaluate_run(
    workdir: Path,
    *,
    step: int | None = None,
    datasets: Mapping[str, Path] | None = None,
    validation: bool = True,
    sigmas: Sequence[float] | None = HEADLINE_SIGMAS,
    seed: int = 0,
    max_photos: int | None = None,
    save_images: bool = False,
    output_dir: Path | None = None,
) -> list[Row]:
    """Scores a checkpoint of a run beside the baselines; prints and writes the results.

    Args:
        workdir: of the run.
        step: of the checkpoint; None for the best, by its validation.
        datasets: folders of photographs to score, by name.
        validation: whether to score the run's own validation set.
        sigmas: see `evaluate`.
        seed: of random sigmas.
        max_photos: that many of each set at most.
        save_images: whether to write every image.
        output_dir: for results and images; where None the first of
            `workdir/evaluation/STEP`, `STEP-2` .. that is not there yet.

    Returns:
        The rows of all sets; none in other processes than the first, which only take
        part in reading the checkpoint.

    Raises:
        InputError: no such checkpoint, folder or validation set, or no photograph.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step, config, params = checkpoints.restore_params(step)
    if jax.process_index() > 0:
        return []
    restorer = Restorer(EDDSRN(**config.model), params)
    methods = {"bicubic": bicubic, config.name: restorer}
    if config.model.deblur_features:
        methods = {"blurred input": untouched, **methods}
    sources = [folder_source(folder, name) for name, folder in (datasets or {}).items()]
    if validation:
        sources[:0] = _validation_source(config, required=not sources)
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise InputError(f"two sets of the same name among {', '.join(names)}")
    # Now, rather than when everything is scored and cannot be written.
    output_dir = output_dir or _free_folder(workdir / "evaluation" / str(step))
    make_folder(output_dir, "--output_dir")

    rows, examples = [], []
    for source in sources:
        example = output_dir / f"before_after_{source.name}.png"
        found = evaluate(
            methods,
            itertools.islice(read_photos(source), max_photos),
            dataset=source.name,
            sigmas=sigmas,
            seed=seed,
            save_dir=output_dir / "images" / source.name if save_images else None,
            example_path=example,
        )
        if found:
            examples.append(example)
            rows.extend(found)
        else:
            _log.warning("%s: no photograph in it could be scored", source.name)
    if not rows:
        raise InputError(
            f"nothing to score in {', '.join(names)}"
            if names
            else "nothing to score: neither --validation nor a --dataset=NAME=DIR"
        )
    protocol = {
        "workdir": str(workdir),
        "step": step,
        "sigmas": list(sigmas) if sigmas else "random",
        "seed": seed,
        "max_photos": max_photos,
        "datasets": {name: str(folder) for name, folder in (datasets or {}).items()},
        "config": config.to_dict(),
        "device": jax.devices()[0].device_kind,
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("jax", "jaxlib", "flax", "numpy", "scikit-image")
        },
    }
    write_results(output_dir, rows, protocol=protocol)
    print(format_table(rows))
    print(f"\ncheckpoint {step} of {workdir}; scores in {output_dir / 'results.json'}")
    for path in examples:
        print(f"before and after: {path}")
    return rows


def _free_folder(folder: Path) -> Path:
    """The folder, or the first of its name with a number that does not exist yet."""
    numbered = (f"{folder.name}-{i}" for i in itertools.count(2))
    candidates = map(folder.with_name, itertools.chain([folder.name], numbered))
    return next(path for path in candidates if not path.exists())


def read_photos(source: Source) -> Iterator[Photo]:
    """Decodes the photographs of a source; names and leaves out those that cannot be."""
    for file in source.files():
        try:
            yield file.name, read_image(file.content, file.place)
        except InputError as error:
            _log.warning("%s; left out", error)


def _validation_source(
    config: ml_collections.ConfigDict, *, required: bool
) -> list[Source]:
    try:
        return [
            open_split(
                config.data.source,
                validation_source=config.data.validation_source,
                tfds_data_dir=config.data.tfds_data_dir,
            ).validation
        ]
    except InputError as error:
        if required:
            raise
        _log.warning("the run's validation set is left out: %s", error)
        return []
