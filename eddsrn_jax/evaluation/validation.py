"""Scores for validation in training: a short form of `evaluation.scoring`."""

import itertools
import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from eddsrn_jax.evaluation.inputs import (
    SPOILINGS,
    Spoiling,
    cut_to_scale,
    degrade_photo,
    degrade_photo_by,
    spoil,
)
from eddsrn_jax.evaluation.metrics import MAX_PSNR, psnr_y
from eddsrn_jax.evaluation.results import before_after
from eddsrn_jax.evaluation.scoring import Method, Pair, Photo, new_stem

_log = logging.getLogger(__name__)


def validate(
    method: Method,
    photos: Sequence[Photo | Pair],
    *,
    sigmas: Sequence[float],
    own: str = "",
    spoilings: Sequence[Spoiling] = SPOILINGS["paper"],
    num_examples: int = 0,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Returns a method's mean luminance PSNR at border 4, for validation in training.

    Args:
        method: method to score.
        photos: names and uint8 [H, W, 3]; of a pair also the input.
        sigmas, own, spoilings: see Scoring. Every combination of them is one
            degradation. Photos and degradations are matched in order; the shorter list
            repeats until the longer one ends. Pairs are scored once each, without
            degradation.
        num_examples: number of photos, from the first on, to return pictures of.

    Returns:
        Mean scores by name, and pictures by photo. The scores are "psnr_y_crop4" if the
        method returns "sr", and "deblurred_psnr_y_crop4" if it returns "deblurred". Each
        picture shows input, outputs and truth side by side.
    """
    examples: dict[str, np.ndarray] = {}
    stems: set[str] = set()
    values: dict[str, list[float]] = defaultdict(list)
    exact: dict[str, None] = {}
    # A user's own degradation takes the place of all sigmas.
    degradations = list(itertools.product(spoilings, sigmas[:1] if own else sigmas))
    are_pairs = len(photos[0]) > 2
    count = len(photos) if are_pairs else max(len(photos), len(degradations))
    for i in range(count):
        name, photo, *given = photos[i % len(photos)]
        hr = cut_to_scale(photo)
        spoiling, sigma = degradations[i % len(degradations)]
        if own and not given:
            lr_sharp, lr_blur = degrade_photo_by(own, hr, seed=0, name=name)
        else:
            lr_sharp, lr_blur = degrade_photo(hr, sigma, max_sigma=max(sigmas))
        lr_blur = given[0] if given else spoil(lr_blur, spoiling, seed=0, name=name)
        outputs = method(lr_blur)
        scores = {}
        if outputs.sr is not None:
            scores["psnr_y_crop4"] = psnr_y(outputs.sr, hr, border=4)
        if outputs.deblurred is not None:
            scores["deblurred_psnr_y_crop4"] = psnr_y(
                outputs.deblurred, lr_sharp, border=4
            )
        for key, value in scores.items():
            values[key].append(value)
        if MAX_PSNR in scores.values():
            exact[name] = None
        if i < min(num_examples, len(photos)):
            panels = {"input": lr_blur, **dict(outputs.items()), "truth": hr}
            examples[new_stem(name, stems)] = before_after(panels)
    if exact:
        _log.info(
            "restored exactly, so a PSNR of %g dB is counted: %s",
            MAX_PSNR,
            ", ".join(exact),
        )
    return {name: float(np.mean(value)) for name, value in values.items()}, examples
