"""Evaluation on pairs of photos: a small blurry one and a sharp one."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from eddsrn_jax.data.pairs import pairs_source
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.baselines.bicubic import bicubic, untouched
from eddsrn_jax.evaluation.network import open_folders, read_photos
from eddsrn_jax.evaluation.results import format_gains, format_table, write_results
from eddsrn_jax.evaluation.scoring import Scoring, evaluate


class ToldSigma:
    takes_sigma = True

    def __call__(self, lr, sigma):
        return bicubic(lr)


METHODS = {"bicubic": bicubic, "blurred input": untouched}


def test_a_pair_made_by_the_degradation_scores_like_its_photo(pairs):
    photos = [*read_photos(pairs_source(pairs, "mine"))]
    names, sharp, small = zip(*photos, strict=True)
    assert names == ("a.png", "b/c.png")
    assert [x.shape for x in small] == [(24, 32, 3)] * 2
    found = evaluate(METHODS, photos, dataset="mine")
    whole = [*zip(names, sharp, strict=True)]
    scoring = Scoring(sigmas=(1.5,))
    expected = evaluate(METHODS, whole, dataset="mine", scoring=scoring)
    assert [(row.image, row.output, row.sigma) for row in found] == [
        (name, output, None) for name in names for output in ("sr", "deblurred")
    ]
    assert [row.scores for row in found] == [row.scores for row in expected]


def test_the_input_is_the_given_photo_beside_the_same_place_of_the_sharp_one(tmp_path):
    # Each sharp pixel holds its coordinates divided by 4, as the small pixel there does.
    y, x = np.mgrid[:64, :96] // 4
    hr = np.stack([y, x, 0 * x], axis=-1).astype(np.uint8)
    for folder, image in (("lr", hr[::4, ::4]), ("hr", hr)):
        (tmp_path / folder).mkdir()
        Image.fromarray(image).save(tmp_path / folder / "grid.png")
    source = pairs_source(f"pairs:{tmp_path / 'lr'},{tmp_path / 'hr'}", "grid")
    ((_, sharp, small),) = read_photos(source)
    np.testing.assert_array_equal(small.repeat(4, axis=0).repeat(4, axis=1), sharp)
    assert len(source.listing().files) == 2


def test_tables_and_files_of_pairs_give_no_sigma(pairs, tmp_path):
    (source,) = open_folders({"mine": pairs})
    pair, _ = read_photos(source)
    methods = {**METHODS, "Wiener": ToldSigma()}
    scoring = Scoring(sigmas=(1.0,), save_images=True)
    photos = [pair, pair[:2]]
    rows = evaluate(methods, photos, dataset="mine", scoring=scoring, output_dir=tmp_path)
    assert [row.sigma for row in rows if row.method == "Wiener"] == [1.0]
    assert (tmp_path / "images" / "mine" / "pairs" / "a_input.png").is_file()
    assert "| unknown |" in format_table(rows, by_sigma=True)
    unknown = next(x for x in format_gains(rows).splitlines() if "unknown" in x)
    assert unknown.split("|")[-2].strip() == ""
    write_results(tmp_path, rows, protocol={})
    images = json.loads((tmp_path / "results.json").read_text())["images"]
    assert [row["sigma"] for row in images] == [None, None, 1.0, 1.0, 1.0]
    with (tmp_path / "results.csv").open() as file:
        sigmas = [row["sigma"] for row in csv.DictReader(file) if row["image"] == "mean"]
    assert sigmas.count("") == 2 and sigmas.count("mean") == 3


def test_pairs_of_other_sizes_are_named_and_left_out(pairs, tmp_path, caplog):
    Image.new("RGB", (33, 24)).save(tmp_path / "small" / "a.png")
    (name, _, _), *others = read_photos(pairs_source(pairs, "mine"))
    assert name == "b/c.png" and not others
    assert (
        "small/a.png: 33 x 24 pixels, but" in caplog.text
        and "sharp/a.png has 130 x 98; expected 32 x 24; left out" in caplog.text
    )


@pytest.mark.parametrize("folder, other", [("small", "sharp"), ("sharp", "small")])
def test_photos_without_a_partner_are_refused(pairs, tmp_path, folder, other):
    Image.new("RGB", (40, 24)).save(tmp_path / folder / "alone.png")
    message = rf"{folder}: 1 of 3 photos have no partner in .*{other} \(alone.png\)"
    with pytest.raises(InputError, match=message):
        pairs_source(pairs, "mine")


def test_two_photos_of_one_pair_are_refused(pairs, tmp_path):
    Image.new("RGB", (32, 24)).save(tmp_path / "small" / "a.jpg")
    with pytest.raises(InputError, match=r"small: a.jpg and a.png belong to the same"):
        pairs_source(pairs, "mine")


@pytest.mark.parametrize("value", ["pairs:", "pairs:lr", "pairs:lr,", "pairs:a,b,c"])
def test_a_value_without_two_folders_is_refused(value, call):
    code, _, err = call("evaluate", f"--dataset=mine={value}", "--weights=eddsrn-lite")
    assert code == 1
    assert err.splitlines()[-1] == (
        f"error: --dataset=mine={value}: expected pairs:LR_DIR,HR_DIR, the folder of the"
        " small photos and that of the sharp ones"
    )


def test_what_has_no_effect_on_pairs_is_named(pairs, caplog):
    (source,) = open_folders({"mine": pairs})
    evaluate(METHODS, read_photos(source), dataset="mine")
    assert not caplog.messages
    methods = {**METHODS, "Wiener": ToldSigma()}
    scoring = Scoring(sigmas=(1.0,))
    evaluate(methods, read_photos(source), dataset="mine", scoring=scoring)
    assert [x for x in caplog.messages if "Without effect" in x] == [
        "mine: these are pairs, whose inputs are scored as they are; their sigma is"
        " unknown. Without effect on them: degradation, Wiener"
    ]
