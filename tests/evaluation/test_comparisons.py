"""Tests that evaluate.py scores other weights and other programs' images too."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.baselines.bicubic import bicubic, untouched
from eddsrn_jax.evaluation.baselines.saved_results import SavedResults
from eddsrn_jax.evaluation.inputs import Spoiling
from eddsrn_jax.evaluation.results import format_table
from eddsrn_jax.evaluation.scoring import Scoring, evaluate


@pytest.fixture
def photos(photo):
    """Returns photos of two sizes, one of them in a subfolder."""
    return [("a.png", photo[:96, :80]), ("b/c.jpg", photo[40:121, :97])]


@pytest.fixture
def inputs(photos, tmp_path):
    """Saves the photos' inputs; returns their folder."""
    spoilings = (Spoiling(), Spoiling(jpeg=50))
    scoring = Scoring(sigmas=(1.0, 2.0), spoilings=spoilings, save_images=True)
    methods = {"blurred input": untouched}
    evaluate(methods, photos, dataset="two", scoring=scoring, output_dir=tmp_path)
    return tmp_path / "images", scoring


def score(photos, scoring, **methods):
    return evaluate(methods, photos, dataset="two", scoring=scoring)


def copy_inputs(folder):
    """Gives the inputs the names of results too."""
    for path in folder.rglob("*_input.png"):
        shutil.copy(path, path.with_name(path.name.replace("_input", "")))


@pytest.mark.parametrize("ending", ["_input.png", ".png"])
def test_saved_images_score_like_the_method_that_made_them(
    photos, inputs, tmp_path, ending
):
    folder, scoring = inputs
    files = sorted(folder.rglob("*_input.png"))
    assert len(files) == 8
    for path in files:
        with Image.open(path) as image:
            made = bicubic(np.asarray(image))
        other = tmp_path / "other" / path.relative_to(folder)
        other.parent.mkdir(parents=True, exist_ok=True)
        name = other.name.replace("_input.png", ending)
        Image.fromarray(made.sr).save(other.with_name(name))
    saved = SavedResults(tmp_path / "other", "--results=other")
    rows = score(photos, scoring, other=saved, bicubic=bicubic)
    found = [row.scores for row in rows if row.method == "other"]
    assert found == [row.scores for row in rows if row.method == "bicubic"]
    assert len(found) == 8
    if ending == ".png":
        # A program may write its results beside the inputs.
        shutil.copytree(folder, tmp_path / "other", dirs_exist_ok=True)
        again = score(photos, scoring, other=saved)
        assert [row.scores for row in again] == found
    # Reading a file says nothing about the time of the method.
    table = format_table(rows).splitlines()
    assert table[2].endswith("|          |") and not table[3].endswith("|          |")


def test_images_of_the_inputs_size_are_deblurred_ones(photos, inputs):
    folder, scoring = inputs
    copy_inputs(folder)
    rows = score(photos, scoring, saved=SavedResults(folder, "--results=saved"))
    expected = score(photos, scoring, none=untouched)
    assert {row.output for row in rows} == {"deblurred"}
    assert [row.scores for row in rows] == [row.scores for row in expected]


def test_a_missing_or_wrong_image_is_named(photos, inputs, tmp_path):
    folder, scoring = inputs
    saved = SavedResults(folder, "--results=mine")
    expected = "a_input.png is the input itself, and there is no a.png"
    with pytest.raises(InputError, match=expected):
        score(photos, scoring, mine=saved)
    copy_inputs(folder)
    wrong = folder / "two" / "sigma_2" / "b" / "c.png"
    Image.new("RGB", (24, 21)).save(wrong)
    expected = r"c.png is 24 x 21 pixels; expected 96 x 80 .* or 24 x 20 for the"
    with pytest.raises(InputError, match=expected):
        score(photos, scoring, mine=saved)
    wrong.unlink()
    wrong.with_name("c_input.png").unlink()
    expected = "--results=mine: there is neither .*c_input.png nor c.png; --save_images"
    with pytest.raises(InputError, match=expected):
        score(photos, scoring, mine=saved)
    with pytest.raises(InputError, match="--results=mine: .*absent is not a folder"):
        SavedResults(tmp_path / "absent", "--results=mine")


def test_evaluate_scores_results_beside_a_network(call, photos, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photos[0][1]).save(folder / "a.png")
    given = ["evaluate", f"--dataset=one={folder}", "--sigmas=1"]
    first = tmp_path / "first"
    code, _, err = call(*given, "--save_images", f"--output_dir={first}")
    assert code == 0, err
    (made,) = first.rglob("a_ED-DSRN_half-size_sr.png")
    other = tmp_path / "other" / made.relative_to(first / "images").with_name("a.png")
    other.parent.mkdir(parents=True)
    shutil.copy(made, other)
    second, results = tmp_path / "second", f"--results=other={tmp_path / 'other'}"
    code, out, err = call(*given, results, f"--output_dir={second}")
    assert code == 0, err
    assert "| other " in out
    means = json.loads((second / "results.json").read_text())["means"]
    scores = {x["method"]: x for x in means if x["output"] == "sr"}
    assert scores["other"]["psnr_y_crop4"] == scores["ED-DSRN half-size"]["psnr_y_crop4"]
    assert scores["other"]["seconds"] is None
    for flags, message in (
        ([results, results], "other results are named other"),
        (["--results=mine"], "--results=mine: expected NAME=DIR"),
        (
            [f"--results=bicubic={tmp_path}"],
            "two methods to score have the name 'bicubic'",
        ),
        ([results, "--config=table1"], "--results cannot be used with --config"),
    ):
        code, _, err = call(*given, *flags, f"--output_dir={tmp_path / 'third'}")
        assert code in (1, 2) and message in err, err


def test_evaluate_compares_weights(call, photos, tmp_path):
    folder, output = tmp_path / "photos", tmp_path / "scores"
    folder.mkdir()
    Image.fromarray(photos[0][1]).save(folder / "a.png")
    given = [
        "evaluate",
        f"--dataset=one={folder}",
        "--sigmas=1",
        f"--output_dir={output}",
    ]
    code, _, err = call(*given, "--weights=eddsrn-lite", "--compare=gaussian")
    assert code == 0, err
    results = json.loads((output / "results.json").read_text())
    methods = {mean["method"] for mean in results["means"]}
    assert methods == {"blurred input", "bicubic", "ED-DSRN lite", "weights gaussian"}
    assert results["protocol"]["weights compared"].keys() == {"gaussian"}
    code, _, err = call(*given, "--compare=gaussian", "--compare=gaussian")
    assert code == 1 and "two methods to score have the name 'weights gaussian'" in err
