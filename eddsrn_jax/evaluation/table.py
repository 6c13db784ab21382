"""Comparison of many systems, such as the paper's Table 1: scores, costs, times."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from eddsrn_jax.checkpoints.found_weights import WEIGHTS_FILE
from eddsrn_jax.checkpoints.torch_weights import read_peers
from eddsrn_jax.checkpoints.weights import Network, read_network
from eddsrn_jax.config_values import Config
from eddsrn_jax.data.sources import open_split
from eddsrn_jax.distributed import wait_for_others
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.baselines.bicubic import bicubic
from eddsrn_jax.evaluation.baselines.cascade import Cascade
from eddsrn_jax.evaluation.baselines.dark_channel import DarkChannel
from eddsrn_jax.evaluation.baselines.wiener import Wiener
from eddsrn_jax.evaluation.curves import write_costs
from eddsrn_jax.evaluation.figure import check_size, draw_figure
from eddsrn_jax.evaluation.inputs import random_sigma
from eddsrn_jax.evaluation.network import (
    check_sets,
    open_folders,
    score_sources,
)
from eddsrn_jax.evaluation.results import OUTPUT_TITLES, markdown, means, open_output
from eddsrn_jax.evaluation.scoring import PAPER, Method, Scoring, middle
from eddsrn_jax.files import sha256_of, to_json, write_text, written_beside
from eddsrn_jax.images import read_image, write_image
from eddsrn_jax.machine import find_devices
from eddsrn_jax.models import abstract_params
from eddsrn_jax.models.complexity import count_parameters, macs_per_pixel
from eddsrn_jax.paths import local_path, printable
from eddsrn_jax.restoration.restorer import Restorer

# The sets for which the paper reports scores.
_PAPER_SETS = ("DIV2K-val", "Set14")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the table, before anything is scored.

    Attributes:
        title: title of the row.
        method: method to score; None if its weights are missing.
        parameters: number of parameters of its networks.
        flops: FLOP for each pixel of the small image; a multiply-accumulate counts as 2.
        missing: how to get the missing weights; empty if nothing is missing.
        paper: PSNR in dB and SSIM that the paper reports for each of _PAPER_SETS. An
            SSIM of 0 means that it reports none. Empty if the paper lacks this method.
    """

    title: str
    method: Method | None = None
    parameters: int = 0
    flops: float = 0
    missing: str = ""
    paper: tuple[tuple[float, float], ...] = ()


def compare(
    config: Config,
    *,
    datasets: Mapping[str, Path | str],
    scoring: Scoring = PAPER,
    dtype: str | None = None,
    peers: Path | str | None = None,
    figure: str | None = None,
    output_dir: Path | str | None = None,
) -> list[Entry]:
    """Scores the systems of a table's config; prints and writes the table.

    Args:
        config: config of the table, such as configs/table1.py.
        datasets, scoring, dtype, peers: see `evaluate_network`.
        figure: photo for a picture that shows all methods' results. It is a file, or
            "bundled:NAME" for one of the validation photos inside scikit-image.
        output_dir: folder for the table, as Markdown, CSV and JSON, for a plot of scores
            by cost, and for the files that `evaluate_network` writes. Default:
            `evaluation/NAME`; if that exists, `-2`, `-3` and so on follow the name.

    Returns:
        The rows of the table, including those without weights.

    Raises:
        InputError: existing weights cannot be read, or a folder or photo is missing.
    """
    find_devices()
    sources = open_folders(datasets)
    photo = _open_photo(figure) if figure else None
    entries = read_entries(config, dtype=dtype, peers=peers)
    check_sets(sources)
    output_dir = open_output(output_dir, Path("evaluation", config.name))
    methods = {e.title: e.method for e in entries if e.method}
    rows = score_sources(
        methods,
        sources,
        output_dir,
        scoring=scoring,
        origin={
            "config": config.to_dict(),
            "dtype": dtype or "each network's own",
            "datasets": {name: str(path) for name, path in datasets.items()},
            "sha256": _checksums(config),
        },
    )
    if jax.process_index() == 0:
        found = means(rows, by_sigma=False)
        text = "\n\n".join([_table(name, entries, found) for name in datasets])
        if missing := [f"- {e.title}: {e.missing}" for e in entries if e.missing]:
            text += "\n\nNot measured:\n\n" + "\n".join(missing)
        _write(output_dir / config.name, entries, found, text)
        costs = output_dir / "costs.svg"
        write_costs(costs, found, {entry.title: entry.flops for entry in entries})
        print(text)
        print(f"\ntables in {printable(output_dir / config.name)}.md, .csv and .json")
        print(f"scores by cost: {printable(costs)}")
    if jax.process_index() == 0 and figure and photo is not None:
        path = output_dir / f"figure_{Path(figure.removeprefix('bundled:')).stem}.png"
        drawn = scoring.sigmas or (random_sigma(scoring.seed, printable(figure)),)
        write_image(path, draw_figure(methods, photo, sigma=middle(drawn)))
        print(f"figure: {printable(path)}")
    wait_for_others()
    return entries


def _checksums(config: Config) -> dict[str, str]:
    """Returns the checksums of the weights files of a table, by row."""
    rows = {name: row for name, row in config.rows.items() if "weights" in row}
    files = {name: local_path(row.weights, name) for name, row in rows.items()}
    return {name: sha256_of(file) for name, file in files.items() if file.is_file()}


def _open_photo(place: str) -> np.ndarray:
    if not place.startswith("bundled:"):
        photo = read_image(local_path(place, "--figure"))
        check_size(photo, f"--figure={place}")
        return photo
    files = list(open_split("bundled").validation.files())
    for file in files:
        if Path(file.name).name == place.removeprefix("bundled:"):
            return file.read()
    names = ", ".join(Path(file.name).name for file in files)
    raise InputError(f"--figure={place}: no such photo, only {names}")


def read_entries(
    config: Config, *, dtype: str | None, peers: Path | str | None
) -> list[Entry]:
    """Builds the rows of a table's config, with weights if these exist.

    Args:
        config: config of the table, see configs/table1.py.
        dtype, peers: see `evaluate_network`.

    Raises:
        InputError: existing weights cannot be read, or a row's method is unknown.
    """
    _check_table(config)
    others = read_peers(local_path(peers, "--peers")) if peers else {}
    entries: dict[str, Entry] = {}
    for name in config.order:
        row = config.rows[name]
        paper = {"title": row.title, "paper": row.paper}
        match row.method:
            case "bicubic":
                entry = Entry(method=bicubic, **paper)
            case "wiener":
                entry = Entry(method=Wiener(), **paper)
            case "dark_channel":
                entry = Entry(method=DarkChannel(), **paper)
            case "peer" if row.peer in others:
                entry = _network_entry(others[row.peer], dtype, **paper)
            case "peer":
                entry = Entry(missing="give --peers=DIR", **paper)
            case "network" if (path := local_path(row.weights, name)).exists():
                entry = _network_entry(_read(path), dtype, **paper)
            case "network":
                entry = Entry(missing=f"no {row.weights}; run `{row.train}`", **paper)
            case "cascade":
                entry = _cascade_entry(*(entries[part] for part in row.parts), **paper)
            case _:
                raise InputError(f"config.rows.{name}.method={row.method!r}: unknown")
        entries[name] = entry
    return list(entries.values())


# The values of a row that its method needs.
_NEEDED = {"network": ("weights", "train"), "peer": ("peer",), "cascade": ("parts",)}


def _check_table(config: Config) -> None:
    """Raises InputError if a config describes no table."""
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else {}
    if "network" in values and "rows" not in values:
        raise InputError(
            f"--config: the config {values.get('name')!r} trains a network, and only"
            " train.py takes it; evaluate.py takes a table such as configs/table1.py, and"
            " scores a trained network with --workdir=RUN"
        )
    if values and not isinstance(values.get("name"), str):
        raise InputError(f"config.name={values.get('name')!r}: expected text")
    if values and (values["name"] in ("", "results") or "/" in values["name"]):
        raise InputError(
            f"config.name={values['name']!r}: expected the name of the table's files, and"
            " results.json is that of the scores"
        )
    expected = "a table has rows, such as configs/table1.py"
    if not isinstance(values.get("rows"), dict):
        raise InputError(f"config.rows={values.get('rows')!r}: {expected}")
    order, seen = values.get("order"), set()
    if not isinstance(order, list | tuple) or not {*order} <= {*values["rows"]}:
        raise InputError(f"config.order={order!r}: expected names of config.rows")
    for name in order:
        row = values["rows"][name]
        if not isinstance(row, dict):
            raise InputError(f"config.rows.{name}={row!r}: expected a section")
        for key in ("title", "method", "paper", *_NEEDED.get(str(row.get("method")), ())):
            if key not in row:
                raise InputError(f"config.rows.{name}.{key} is missing")
        parts = row.get("parts", ())
        if parts and len(parts) != 2:
            raise InputError(f"config.rows.{name}.parts={parts!r}: expected two rows")
        if later := {*parts} - seen:
            raise InputError(
                f"config.rows.{name}.parts: {', '.join(sorted(later))} must come before"
                " this row in config.order"
            )
        seen.add(name)
    titles = [values["rows"][name]["title"] for name in order]
    if repeated := [title for title in titles if titles.count(title) > 1]:
        raise InputError(f"config.rows: two rows have the title {repeated[0]!r}")


def _read(path: Path) -> Network:
    if path.suffix == ".safetensors" or (path / WEIGHTS_FILE).is_file():
        return read_network(path)
    # Importing Orbax takes seconds.
    from eddsrn_jax.checkpoints.manager import read_run

    return read_run(path)


def _network_entry(network: Network, dtype: str | None, **paper: Any) -> Entry:
    model = network.model.clone(dtype=dtype) if dtype else network.model
    return Entry(
        method=Restorer(model, network.params),
        parameters=count_parameters(abstract_params(model)),
        flops=2 * macs_per_pixel(model),
        **paper,
    )


def _cascade_entry(deblur: Entry, super_resolve: Entry, **paper: Any) -> Entry:
    parts = (deblur, super_resolve)
    if getattr(super_resolve.method, "takes_sigma", False):
        raise InputError(
            f"config.rows: {super_resolve.title!r} must be told sigma, so it can only be"
            " the first method of a cascade"
        )
    if not (deblur.method and super_resolve.method):
        missing = [f"needs {part.title}" for part in parts if not part.method]
        return Entry(missing=", ".join(missing), **paper)
    return Entry(
        method=Cascade(deblur.method, super_resolve.method),
        parameters=sum(part.parameters for part in parts),
        flops=sum(part.flops for part in parts),
        **paper,
    )


# Outputs and channels that have a column in the table.
_COLUMNS = (("sr", "y"), ("sr", "rgb"), ("deblurred", "y"), ("deblurred", "rgb"))


def _table(dataset: str, entries: Sequence[Entry], found: Sequence[dict]) -> str:
    """Returns the scores of one set as a Markdown table below a caption."""
    scores = {(m["method"], m["output"]): m for m in found if m["dataset"] == dataset}
    titles = [f"{OUTPUT_TITLES[output]}, {name.upper()}" for output, name in _COLUMNS]
    papers = [f"paper, {name}" for name in _PAPER_SETS]
    table = [["method", "parameters", "FLOP/px", *titles, "ms/image", *papers]]
    for entry in entries:
        own = [scores.get((entry.title, output)) for output, _ in _COLUMNS]
        cells = [_cell(m, channel) for m, (_, channel) in zip(own, _COLUMNS, strict=True)]
        if entry.missing:
            cells[0] = "not measured"
        times = [f"{1e3 * mean['seconds']:.0f}" for mean in own if mean] or [""]
        paper = [_pair(*scores) for scores in entry.paper] or [""] * len(_PAPER_SETS)
        cost = _short(entry.parameters), _short(entry.flops)
        table.append([entry.title, *cost, *cells, times[0], *paper])
    images = max((mean["images"] for mean in scores.values()), default=0)
    caption = (
        f"{dataset}, {images} images: PSNR in dB / SSIM of 8-bit images, border 4, mean"
        " over photos and sigmas; FLOP for each pixel of the small image."
    )
    return f"{caption}\n\n{markdown(table)}"


def _short(count: float) -> str:
    """Formats a count in thousands or millions with three digits; 0 gives ""."""
    if not count:
        return ""
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count / 1e3:.3g} k"


def _cell(mean: dict[str, Any] | None, channel: str) -> str:
    if mean is None:
        return ""
    return _pair(mean[f"psnr_{channel}_crop4"], mean[f"ssim_{channel}_crop4"])


def _pair(psnr: float, ssim: float) -> str:
    return f"{psnr:.2f} / {ssim:.4f}" if ssim else f"{psnr:.2f}"


def _write(
    path: Path, entries: Sequence[Entry], found: Sequence[dict], text: str
) -> None:
    """Writes the text to PATH.md, and unrounded numbers to PATH.json and PATH.csv.

    Args:
        path: path of the files without their extension.
        entries: rows of the table.
        found: mean scores of the methods that were scored.
        text: the table in Markdown.
    """
    # A name may have a dot, after which `with_suffix` would cut it off.
    files = {x: path.with_name(f"{path.name}.{x}") for x in ("md", "json", "csv")}
    write_text(files["md"], text + "\n")
    table = []
    for entry in entries:
        values = dataclasses.asdict(dataclasses.replace(entry, method=None))
        del values["method"], values["paper"]
        for name, (psnr, ssim) in zip(_PAPER_SETS, entry.paper, strict=False):
            values[f"paper_{name}_psnr"] = psnr
            values[f"paper_{name}_ssim"] = ssim or None
        own = [mean for mean in found if mean["method"] == entry.title]
        table += [values | mean for mean in own] or [values]
    write_text(files["json"], to_json(table, indent=1) + "\n")
    fields = dict.fromkeys(name for row in table for name in row)
    with (
        written_beside(files["csv"]) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, list(fields))
        writer.writeheader()
        writer.writerows(table)
