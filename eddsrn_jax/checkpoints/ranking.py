"""The best checkpoint of a run: the one with the highest validation score.

Scores are compared only if they come from the same photos and degradations.
"""

import math
from collections.abc import Mapping

# Metrics that rank checkpoints, highest first; only the first one present counts.
BEST_METRICS = ("val/psnr_y_crop4", "val/deblurred_psnr_y_crop4")
# Name of the number, saved beside the metrics, that identifies the photos and
# degradations of a validation. Version 0.1 did not save it.
VALIDATION_SET = "val/set"


def score(metrics: Mapping[str, float]) -> float:
    """Returns the score that is highest in the best checkpoint.

    Version 0.1 could save an infinite score, which no later one could exceed. It counts
    as the lowest.
    """
    value = next((metrics[name] for name in BEST_METRICS if name in metrics), -math.inf)
    return value if math.isfinite(value) else -math.inf


def best_step(metrics: Mapping[int, Mapping[str, float] | None]) -> int | None:
    """Returns the best step; None if no step was validated.

    Only steps with the newest step's validation set compete, and steps of unknown sets.

    Args:
        metrics: validation metrics by step; None for a step that was not validated.
    """
    validated = {step: found for step, found in metrics.items() if found}
    if not validated:
        return None
    newest = validated[max(validated)].get(VALIDATION_SET)
    sets = {newest, None}
    scores = {
        step: (score(found), step)
        for step, found in validated.items()
        if newest is None or found.get(VALIDATION_SET) in sets
    }
    return max(scores, key=scores.__getitem__)
