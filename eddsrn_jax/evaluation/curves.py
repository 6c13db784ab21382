"""Plots: loss and validation of a run by step, scores by sigma, scores by cost."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eddsrn_jax.evaluation.results import OUTPUT_TITLES, Row, means
from eddsrn_jax.evaluation.svg import Panel, draw_panels
from eddsrn_jax.files import write_text

_PSNR = "PSNR in dB (luminance, border 4)"


def write_training_curves(path: Path, metrics: Path) -> None:
    """Draws loss and validation PSNR by step; writes nothing if neither was recorded.

    Args:
        path: SVG file to write.
        metrics: metrics.jsonl of a run.
    """
    values: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in metrics.read_text().splitlines():
        row = json.loads(line)
        for name, value in row.items():
            # Values that were not finite are null.
            if value is not None:
                values[name].append((row["step"], value))
    panels = [
        Panel(title, "step", label, {title: values[name]})
        for title, label, name in (
            ("training", "loss", "train/loss"),
            ("validation, x4 SR", _PSNR, "val/psnr_y_crop4"),
            ("validation, deblurred", _PSNR, "val/deblurred_psnr_y_crop4"),
        )
        if values[name]
    ]
    if panels:
        write_text(path, draw_panels(panels))


def write_score_curves(path: Path, rows: Sequence[Row]) -> None:
    """Draws the mean PSNR by sigma, without noise and JPEG compression.

    Every set and output has a panel, and every method a line. Nothing is written if no
    set has two sigmas.

    Args:
        path: SVG file to write.
        rows: scores of all methods.
    """
    groups: dict[tuple[str, str], dict[str, list]] = defaultdict(dict)
    for mean in means([x for x in rows if not x.noise and not x.jpeg], by_sigma=True):
        if mean["sigma"] is not None:
            lines = groups[mean["dataset"], mean["output"]]
            point = (mean["sigma"], mean["psnr_y_crop4"])
            lines.setdefault(mean["method"], []).append(point)
    panels = [
        Panel(
            f"{dataset}, {OUTPUT_TITLES[output]}",
            "sigma of the blur in pixels of the small image",
            _PSNR,
            {name: sorted(points) for name, points in lines.items()},
        )
        for (dataset, output), lines in groups.items()
        if any(len(points) > 1 for points in lines.values())
    ]
    if panels:
        write_text(path, draw_panels(panels))


def write_costs(
    path: Path, found: Sequence[Mapping[str, Any]], flops: Mapping[str, float]
) -> None:
    """Draws the mean PSNR of every method by its time and by its arithmetic.

    Every set and output has up to two panels. The methods are numbered.

    Args:
        path: SVG file to write.
        found: mean scores and times of the methods, see `results.means`.
        flops: FLOP for each pixel of the small image of every method, in the order of
            their numbers. Methods with 0 have no point, as their FLOP are not counted.
    """
    times: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    scores: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for mean in found:
        key, method = (mean["dataset"], mean["output"]), mean["method"]
        # Copying an input may take less time than the clock can measure.
        times[key][method] = 1e3 * max(mean["seconds"], 1e-6)
        scores[key][method] = mean["psnr_y_crop4"]
    counts = {name: count / 1000 for name, count in flops.items() if count}
    numbers = {name: number for number, name in enumerate(flops, start=1)}
    panels = [
        Panel(
            f"{dataset}, {OUTPUT_TITLES[output]}",
            label,
            _PSNR,
            {
                f"{numbers[name]} {name}": [(cost[name], psnr)]
                for name, psnr in methods.items()
                if name in cost
            },
            log_x=True,
            marked=True,
        )
        for (dataset, output), methods in scores.items()
        for label, cost in (
            ("time for a photo in ms", times[dataset, output]),
            ("thousand FLOP for each pixel of the small image", counts),
        )
    ]
    if panels := [panel for panel in panels if panel.lines]:
        write_text(path, draw_panels(panels))
