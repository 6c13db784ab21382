"""Summaries of scores: means, tables, result files, before/after pictures."""

import csv
import dataclasses
import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw

from eddsrn_jax.distributed import gather
from eddsrn_jax.files import make_folder, to_json, write_text, written_beside
from eddsrn_jax.paths import local_path


@dataclasses.dataclass(frozen=True)
class Row:
    """The scores of one output of one method on one photo at one degradation.

    `noise` and `jpeg` are the fields of inputs.Spoiling. `sigma` is None if the blur is
    unknown: for a pair of photos, and for a user's own degradation. `seconds` is not a
    number for results that another program has saved.
    """

    dataset: str
    image: str
    sigma: float | None
    output: str
    method: str
    seconds: float
    scores: dict[str, float]
    noise: float = 0.0
    jpeg: int | None = None


def means(rows: Sequence[Row], *, by_sigma: bool) -> list[dict[str, Any]]:
    """Averages rows over photos and, unless `by_sigma` is set, over degradations.

    Args:
        rows: scores to average.
        by_sigma: whether every degradation (sigma, noise and JPEG quality) has its own
            mean.

    Returns:
        One dict for each set, output and method, and each degradation if `by_sigma` is
        set, in the order of the rows. Its keys are "dataset", "output", "method",
        "sigma", "noise", "jpeg" (these three are None for a mean over degradations, and
        sigma also where the blur is unknown),
        "images" (number), "seconds" (median) and the scores.
    """
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for row in rows:
        degradation = (row.sigma, row.noise, row.jpeg) if by_sigma else (None,) * 3
        groups[row.dataset, row.output, row.method, *degradation].append(row)
    names = ("dataset", "output", "method", "sigma", "noise", "jpeg")
    return [
        {
            **dict(zip(names, key, strict=True)),
            "images": len({row.image for row in group}),
            "seconds": float(np.median([row.seconds for row in group])),
            **{
                name: float(np.mean([row.scores[name] for row in group]))
                for name in group[0].scores
            },
        }
        for key, group in groups.items()
    ]


OUTPUT_TITLES = {"sr": "x4 SR", "deblurred": "deblurred"}


def format_table(rows: Sequence[Row], *, by_sigma: bool = False) -> str:
    """Returns the means as an aligned Markdown table with "PSNR / SSIM" in its cells.

    A column has LPIPS, where that was measured.
    """
    found = means(rows, by_sigma=by_sigma)
    datasets = list(dict.fromkeys(mean["dataset"] for mean in found))
    outputs = list(OUTPUT_TITLES)
    found.sort(key=lambda m: (datasets.index(m["dataset"]), outputs.index(m["output"])))
    protocols = [(channel, border) for channel in ("y", "rgb") for border in (4, 0)]
    spoiled = by_sigma and any(row.noise or row.jpeg for row in rows)
    header = ["set", "output", "method", *["sigma"] * by_sigma]
    header += ["noise", "JPEG"] * spoiled
    header += [f"{channel.upper()}, border {border}" for channel, border in protocols]
    perceptual = all("lpips" in mean for mean in found)
    table = [[*header, *["LPIPS"] * perceptual, "ms/image"]]
    for mean in found:
        cells = [f"{mean['dataset']} ({mean['images']})"]
        cells += [OUTPUT_TITLES[mean["output"]], mean["method"]]
        cells += [_sigma(mean)] if by_sigma else []
        cells += [f"{mean['noise']:.4g}", str(mean["jpeg"] or "")] if spoiled else []
        for channel, border in protocols:
            psnr, ssim = (mean[f"{m}_{channel}_crop{border}"] for m in ("psnr", "ssim"))
            cells.append(f"{psnr:.2f} / {ssim:.4f}")
        cells += [f"{mean['lpips']:.3f}"] if perceptual else []
        seconds = mean["seconds"]
        table.append([*cells, "" if np.isnan(seconds) else f"{1e3 * seconds:.1f}"])
    return markdown(table)


def format_gains(rows: Sequence[Row], baseline: str = "bicubic") -> str:
    """Returns each method's gain over a baseline as Markdown, one degradation a row.

    Scores are the luminance PSNR of "sr" at border 4. Each set's last row is the mean.
    """
    found = [mean for mean in means(rows, by_sigma=True) if mean["output"] == "sr"]
    methods = list(dict.fromkeys(mean["method"] for mean in found))
    others = [method for method in methods if method != baseline]
    table = [["set", "sigma", "noise", "JPEG", f"{baseline}, dB", *others]]
    for dataset in dict.fromkeys(mean["dataset"] for mean in found):
        cells: dict[tuple, dict[str, float]] = defaultdict(dict)
        for mean in found:
            if mean["dataset"] == dataset:
                cell = (mean["sigma"], mean["noise"], mean["jpeg"])
                cells[cell][mean["method"]] = mean["psnr_y_crop4"]
        columns = []
        for (sigma, noise, jpeg), psnr in cells.items():
            # A method that takes the true sigma has no score of pairs.
            gains = [psnr.get(method, np.nan) - psnr[baseline] for method in others]
            columns.append([psnr[baseline], *gains])
            degradation = [_sigma({"sigma": sigma}), f"{noise:.4g}", str(jpeg or "")]
            table.append([dataset, *degradation, *_with_signs(columns[-1])])
        table.append([dataset, "mean", "", "", *_with_signs(np.mean(columns, axis=0))])
    return markdown(table)


def _with_signs(values: Iterable[float]) -> list[str]:
    """Formats a PSNR and, with signs, the gains over it."""
    psnr, *gains = values
    return [f"{psnr:.2f}", *("" if np.isnan(x) else f"{x:+.2f}" for x in gains)]


def _sigma(mean: Mapping[str, Any]) -> str:
    return "unknown" if mean["sigma"] is None else f"{mean['sigma']:.4g}"


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Formats a table, whose first row is the header, as aligned Markdown."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    header, *rows = table
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in (header, ["-" * width for width in widths], *rows)
    )


def open_output(folder: Path | str | None, default: Path) -> Path:
    """Creates the folder for results and returns its path.

    None takes the default, or if that exists, its first numbered variant that does not.
    """
    if folder:
        chosen = local_path(folder, "--output_dir")
    else:
        # The first process chooses for all.
        own = _new_folder(default) if jax.process_index() == 0 else default
        chosen = Path(gather(str(own))[0])
    make_folder(chosen, "--output_dir")
    return chosen


def _new_folder(folder: Path) -> Path:
    """Makes the folder, or its first numbered variant that does not exist yet."""
    numbered = (f"{folder.name}-{i}" for i in itertools.count(2))
    candidates = map(folder.with_name, itertools.chain([folder.name], numbered))
    return next(path for path in candidates if not _is_taken(path))


def _is_taken(path: Path) -> bool:
    """Makes a folder; returns whether it could not because it exists.

    Another command may be choosing a name at the same time.
    """
    try:
        path.mkdir(parents=True)
    except OSError:
        # The caller meets any other error once more, and names the folder.
        return os.path.lexists(path)
    return False


def write_results(
    folder: Path, rows: Sequence[Row], *, protocol: Mapping[str, Any]
) -> None:
    """Writes results.json, results.csv, and tables of the means as results.md.

    The JSON and CSV files hold the rows and their means. In the CSV a mean is a row with
    "mean" as its image. A mean over all degradations also has "mean" as its sigma. The
    last column of these rows is the protocol as JSON.

    Args:
        folder: folder to write into.
        rows: scores to write; at least one row.
        protocol: settings that determine the numbers, such as config, seed and versions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_image = []
    for row in rows:
        fields = dataclasses.asdict(row)
        by_image.append(fields | fields.pop("scores"))
    results = {
        "protocol": dict(protocol),
        "means": means(rows, by_sigma=False),
        "means_by_sigma": means(rows, by_sigma=True),
        "images": by_image,
    }
    write_text(folder / "results.json", to_json(results, indent=1))
    tables = [format_table(rows), format_table(rows, by_sigma=True)]
    if any(row.noise or row.jpeg for row in rows):
        tables.append(format_gains(rows))
    write_text(folder / "results.md", "\n\n".join(tables) + "\n")
    with (
        written_beside(folder / "results.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        fields = [*by_image[0], "protocol"]
        writer = csv.DictWriter(file, fields, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(map(_without_nan, by_image))
        overall = [{**mean, "sigma": "mean"} for mean in results["means"]]
        for mean in results["means_by_sigma"] + overall:
            mean = {**mean, "image": "mean", "protocol": to_json(protocol)}
            writer.writerow(_without_nan(mean))


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces the time of a method that has none by an empty cell."""
    return {k: "" if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}


def before_after(images: Mapping[str, np.ndarray], *, side: int = 320) -> np.ndarray:
    """Draws the same detail of several images side by side, with captions.

    Args:
        images: images of one scene by caption, uint8 [h, w, 3]. Smaller ones are
            enlarged by repeating pixels.
        side: side of the detail in pixels of the largest image.

    Returns:
        uint8 [H, W, 3].
    """
    height, width, _ = max((image.shape for image in images.values()), key=lambda s: s[0])
    detail_height, detail_width = min(side, height), min(side, width)
    top, left = (height - detail_height) // 2, (width - detail_width) // 2
    caption_height, gap = 16, 4
    count = len(images)
    sheet = Image.new(
        "RGB",
        (count * (detail_width + gap) - gap, detail_height + caption_height),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for i, (caption, image) in enumerate(images.items()):
        x = i * (detail_width + gap)
        scale = height // image.shape[0]
        full = image.repeat(scale, axis=0).repeat(scale, axis=1)
        detail = full[top : top + detail_height, left : left + detail_width]
        sheet.paste(Image.fromarray(detail), (x, caption_height))
        draw.text((x + 2, 2), caption.replace("_", " "), fill="black")
    return np.asarray(sheet)
