"""The pictures of curves: their points lie where the axes say."""

import json
import math
import xml.etree.ElementTree as ET

import pytest

from eddsrn_jax.evaluation.curves import (
    write_costs,
    write_score_curves,
    write_training_curves,
)
from eddsrn_jax.evaluation.results import Row
from eddsrn_jax.evaluation.svg import Panel, draw_panels

SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg):
    """Returns each panel's texts, and the points of its lines in units of the axes."""
    panels = []
    for panel in ET.fromstring(svg).findall(f"{SVG}g"):
        texts = panel.findall(f"{SVG}text")
        # Numbers below the plot belong to x, those to its left to y.
        x, y = (
            [(float(t.text), float(t.get(side))) for t in texts if t.get(key) == where]
            for side, key, where in (("x", "y", "258"), ("y", "text-anchor", "end"))
        )
        # Labels of y stand four pixels below their lines.
        y = [(value, place - 4) for value, place in y]

        def units(place, ticks):
            (first, start), (last, stop) = ticks[0], ticks[-1]
            return first + (last - first) * (place - start) / (stop - start)

        lines = [
            [
                (units(float(left), x), units(float(top), y))
                for left, top in (pair.split(",") for pair in line.get("points").split())
            ]
            for line in panel.findall(f"{SVG}polyline")
        ]
        panels.append(([t.text for t in texts], lines))
    return panels


@pytest.mark.parametrize(
    "points",
    [
        [(0, 1.0), (1000, 0.25), (2500, -0.5)],
        [(1.0, 24.53), (1.5, 24.41), (2.0, 23.9)],
        [(7, 1e-7), (8, 3e-7)],
        [(5, 30.0)],
    ],
)
def test_points_lie_where_the_axes_say(points):
    ((texts, (line,)),) = drawn(
        draw_panels([Panel("a & b", "step", "dB", {"<m>": points})])
    )
    xs, ys = zip(*points, strict=True)
    for (x, y), (found_x, found_y) in zip(points, line, strict=True):
        assert found_x == pytest.approx(x, abs=0.002 * (max(xs) - min(xs)) + 1e-4 * x)
        assert found_y == pytest.approx(
            y, abs=0.002 * (max(ys) - min(ys)) + 1e-4 * abs(y)
        )
    assert {"a & b", "step", "<m>"} <= {*texts}


@pytest.mark.parametrize(
    "xs, ticks",
    [
        ([3, 250], ["2", "5", "10", "20", "50", "100", "200", "500"]),
        ([0.1, 1], ["0.1", "0.2", "0.5", "1"]),
        ([20], ["20", "50"]),
    ],
)
def test_points_of_a_logarithmic_axis_lie_at_equal_ratios(xs, ticks):
    panel = Panel("", "ms", "dB", {"m": [(x, 24.0) for x in xs]}, log_x=True)
    (group,) = ET.fromstring(draw_panels([panel])).findall(f"{SVG}g")
    below = {
        t.text: float(t.get("x"))
        for t in group.findall(f"{SVG}text")
        if t.get("y") == "258"
    }
    assert [*below] == ticks
    start, stop = below[ticks[0]], below[ticks[-1]]
    whole = math.log(float(ticks[-1]) / float(ticks[0]))
    (line,) = group.findall(f"{SVG}polyline")
    for x, place in zip(xs, line.get("points").split(), strict=True):
        share = math.log(x / float(ticks[0])) / whole
        left = float(place.partition(",")[0])
        assert left == pytest.approx(start + share * (stop - start), abs=0.1)


def test_long_lines_are_thinned_to_means():
    points = [(i, i % 2) for i in range(4000)]
    ((_, (line,)),) = drawn(draw_panels([Panel("", "", "", {"m": points})]))
    assert len(line) == 400
    assert line[0] == pytest.approx((4.5, 0.5), abs=5)


def test_training_curves_show_loss_and_validation(tmp_path):
    rows = [{"step": 10, "train/loss": 0.5}, {"step": 20, "train/loss": None}]
    rows += [{"step": 20, "val/psnr_y_crop4": 24.0}, {"step": 30, "train/loss": 0.25}]
    metrics, path = tmp_path / "metrics.jsonl", tmp_path / "curves.svg"
    metrics.write_text(json.dumps({"step": 5, "train/learning_rate": 1e-4}) + "\n")
    write_training_curves(path, metrics)
    assert not path.exists()
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_training_curves(path, metrics)
    (first, loss), (second, psnr) = drawn(path.read_text())
    assert first[0] == "training" and second[0] == "validation, x4 SR"
    assert loss[0] == [pytest.approx((10, 0.5)), pytest.approx((30, 0.25))]
    assert psnr[0] == [pytest.approx((20, 24.0))]


def row(sigma, psnr, *, method="m", noise=0.0, output="sr"):
    return Row("set", "a", sigma, output, method, 0.1, {"psnr_y_crop4": psnr}, noise)


def test_score_curves_show_each_method_by_sigma(tmp_path):
    path = tmp_path / "curves.svg"
    write_score_curves(path, [row(1.0, 25.0), row(None, 20.0), row(2.0, 9.0, noise=5.0)])
    assert not path.exists()
    rows = [row(2.0, 23.0), row(1.0, 25.0), row(1.0, 24.0, method="n")]
    write_score_curves(path, [*rows, row(2.0, 9.0, noise=5.0), row(None, 20.0)])
    ((texts, lines),) = drawn(path.read_text())
    assert texts[0] == "set, x4 SR" and texts[-2:] == ["m", "n"]
    assert lines == [
        [pytest.approx((1, 25)), pytest.approx((2, 23))],
        [pytest.approx((1, 24))],
    ]


def test_costs_show_each_method_by_time_and_arithmetic(tmp_path):
    found = [
        mean | {"dataset": "set", "output": "sr"}
        for mean in (
            {"method": "bicubic", "seconds": 0.002, "psnr_y_crop4": 22.0},
            {"method": "net", "seconds": 0.05, "psnr_y_crop4": 24.0},
        )
    ]
    write_costs(tmp_path / "costs.svg", found, {"bicubic": 0, "lost": 0, "net": 4e5})
    (times, _), (flops, _) = drawn((tmp_path / "costs.svg").read_text())
    assert times[0] == flops[0] == "set, x4 SR"
    # A number stands at a method's point, and before its name.
    assert times[-4:] == ["1", "1 bicubic", "3", "3 net"] and flops[-2:] == ["3", "3 net"]
    assert "2" in times and "200" in flops and "1 bicubic" not in flops


def test_a_run_draws_its_curves(finished):
    _, workdir = finished
    (_, (loss,)), *_, (last, (psnr,)) = drawn((workdir / "curves.svg").read_text())
    assert [round(step) for step, _ in loss] == [3, 6, 9, 10]
    assert last[0] == "validation, x4 SR" and [round(x) for x, _ in psnr] == [6, 10]
