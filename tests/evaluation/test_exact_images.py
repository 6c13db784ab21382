"""Photos that a method restores exactly: finite means, finite tables, strict JSON."""

import csv
import json
import logging

import numpy as np
import pytest
from PIL import Image

from eddsrn_jax.evaluation.baselines.bicubic import bicubic, untouched
from eddsrn_jax.evaluation.metrics import psnr, psnr_y
from eddsrn_jax.evaluation.network import evaluate_network
from eddsrn_jax.evaluation.results import format_gains, format_table, means
from eddsrn_jax.evaluation.scoring import Scoring, evaluate
from eddsrn_jax.evaluation.validation import validate
from eddsrn_jax.files import to_json

BLACK, WHITE = (np.full((96, 96, 3), level, np.uint8) for level in (0, 255))
METHODS = {"blurred input": untouched, "bicubic": bicubic}


def strict(text):
    """Parses JSON, and fails at the constants that JSON does not have."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_psnr_never_exceeds_the_value_of_equal_images():
    image = np.zeros((2000, 2000, 3), np.uint8)
    nearly = image.copy()
    nearly[0, 0, 2] = 1
    # The mean squared error is 1 / 12,000,000, which is 118.9 dB.
    assert psnr(nearly, image) == psnr(image, image) == 100.0
    assert psnr_y(nearly, image, border=0) == 100.0


def test_a_mean_with_exact_images_is_finite_and_names_them(photo, caplog):
    photos = [("black.png", BLACK), ("cat.png", photo[:96, :96]), ("white.png", WHITE)]
    with caplog.at_level(logging.INFO, "eddsrn_jax"):
        scoring = Scoring(sigmas=(1.0, 2.0))
        rows = evaluate(METHODS, photos, dataset="set", scoring=scoring)
    scores = {
        (row.image, row.sigma): row.scores["psnr_y_crop4"]
        for row in rows
        if row.method == "bicubic"
    }
    assert {v for (name, _), v in scores.items() if name != "cat.png"} == {100.0}
    (mean,) = (m for m in means(rows, by_sigma=False) if m["method"] == "bicubic")
    cat = (scores["cat.png", 1.0] + scores["cat.png", 2.0]) / 2
    assert mean["psnr_y_crop4"] == pytest.approx((100 + cat + 100) / 3)
    for text in (format_table(rows), format_gains(rows)):
        assert "inf" not in text and "nan" not in text
    for name in ("black.png", "white.png"):
        line = f"{name}: restored exactly by blurred input, bicubic; a PSNR of 100 dB is"
        assert line in caplog.text
    assert "cat.png: restored exactly" not in caplog.text


def test_validation_counts_and_names_exact_images(photo, caplog):
    photos = [("black.png", BLACK), ("cat.png", photo[:96, :96])]
    with caplog.at_level(logging.INFO, "eddsrn_jax"):
        found, _ = validate(bicubic, photos, sigmas=(1.0,))
        alone, _ = validate(bicubic, photos[1:], sigmas=(1.0,))
    assert found["psnr_y_crop4"] == pytest.approx((100 + alone["psnr_y_crop4"]) / 2)
    (line,) = (text for text in caplog.messages if "restored exactly" in text)
    assert line == "restored exactly, so a PSNR of 100 dB is counted: black.png"


def test_result_files_of_exact_images_are_strict_json(tmp_path, photo, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(WHITE).save(folder / "white.png")
    Image.fromarray(photo[:96, :96]).save(folder / "cat.png")
    scoring = Scoring(sigmas=(1.0,))
    evaluate_network(datasets={"s": folder}, scoring=scoring, output_dir=tmp_path / "out")
    results = strict((tmp_path / "out" / "results.json").read_text())
    white = [row for row in results["images"] if row["image"] == "white.png"]
    assert {row["psnr_rgb_crop0"] for row in white if row["method"] == "bicubic"} == {100}
    with (tmp_path / "out" / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert not any("inf" in value for row in table for value in row.values())
    assert strict(table[-1]["protocol"]) == results["protocol"]
    assert "inf" not in capsys.readouterr().out


def test_json_has_null_for_numbers_that_are_not_finite():
    tree = {"a": [float("inf"), (float("nan"), 1.5)], "b": -float("inf"), "c": "inf"}
    assert strict(to_json(tree)) == {"a": [None, [None, 1.5]], "b": None, "c": "inf"}
