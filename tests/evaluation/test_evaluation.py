import csv
import json
import logging

import numpy as np
import pytest
from PIL import Image

from eddsrn_jax.data.sources import folder_source
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.baselines.bicubic import bicubic, untouched
from eddsrn_jax.evaluation.baselines.ensemble import SelfEnsemble
from eddsrn_jax.evaluation.inputs import (
    SPOILINGS,
    Spoiling,
    cut_to_scale,
    degrade_photo,
    random_sigma,
    spoil,
)
from eddsrn_jax.evaluation.metrics import score
from eddsrn_jax.evaluation.network import read_photos
from eddsrn_jax.evaluation.results import (
    Row,
    before_after,
    format_gains,
    format_table,
    means,
    write_results,
)
from eddsrn_jax.evaluation.scoring import Scoring, evaluate
from eddsrn_jax.evaluation.validation import validate
from eddsrn_jax.images import read_image
from eddsrn_jax.restoration.outputs import Restored

BASELINES = {"bicubic": bicubic, "blurred input": untouched}


class Perfect:
    """Method that returns given answers in turn, and records the sizes to prepare for."""

    def __init__(self, answers):
        self.answers = list(answers)
        self.prepared = []

    def prepare(self, height, width):
        self.prepared.append((height, width))

    def __call__(self, lr_blur):
        return self.answers.pop(0)


def test_every_output_is_scored_against_its_own_truth(photo):
    hr = photo[:101, :131]
    cut = cut_to_scale(hr)
    assert cut.shape == (100, 128, 3)
    truths = [degrade_photo(cut, sigma, max_sigma=2.0)[0] for sigma in (1.0, 2.0)]
    perfect = Perfect({"sr": cut, "deblurred": truth} for truth in truths)
    methods = {**BASELINES, "perfect": perfect}
    scoring = Scoring(sigmas=(1.0, 2.0))
    rows = evaluate(methods, [("a", hr)], dataset="set", scoring=scoring)
    assert len(rows) == 8
    assert perfect.prepared == [(25, 32)] * 2
    for row in rows:
        value = row.scores["psnr_y_crop4"]
        assert (value == 100) == (row.method == "perfect")
        _, lr_blur = degrade_photo(cut, row.sigma, max_sigma=2.0)
        if row.method == "bicubic":
            assert row.scores == score(bicubic(lr_blur).sr, cut)
        if row.method == "blurred input":
            lr_sharp, _ = degrade_photo(cut, row.sigma, max_sigma=2.0)
            assert row.scores == score(lr_blur, lr_sharp)


def test_more_blur_lowers_the_ssim(photo):
    scoring = Scoring(sigmas=(1.0, 1.5, 2.0))
    rows = evaluate(BASELINES, [("a", photo)], dataset="set", scoring=scoring)
    for output in ("sr", "deblurred"):
        values = [r.scores["ssim_rgb_crop0"] for r in rows if r.output == output]
        assert values[0] > values[1] > values[2]


def test_random_sigmas_depend_on_seed_and_name_alone(photo):
    draws = [random_sigma(0, f"image{i}") for i in range(500)]
    assert 1.0 <= min(draws) < 1.02 and 1.98 < max(draws) <= 2.0
    assert draws[:2] == [random_sigma(0, "image0"), random_sigma(0, "image1")]
    assert random_sigma(1, "image0") != draws[0]
    part = photo[:100, :100]
    options = {"dataset": "s", "scoring": Scoring(sigmas=None)}
    both = evaluate(BASELINES, [("a", part), ("b", part)], **options)
    alone = evaluate(BASELINES, [("b", part)], **options)
    assert [r.scores for r in both if r.image == "b"] == [r.scores for r in alone]
    assert {r.sigma for r in alone} == {random_sigma(0, "b")}


def test_skips_photos_too_small_to_score_and_warns(photo, caplog):
    rows = evaluate(
        BASELINES,
        [("tiny.png", photo[:70, :200]), ("fits.png", photo[:76, :76])],
        dataset="set",
        scoring=Scoring(sigmas=(1.0,)),
    )
    assert {row.image for row in rows} == {"fits.png"}
    assert "tiny.png: left out, because 200 x 70 is smaller than the 76" in caplog.text


def test_logs_that_a_photo_is_gray(photo, caplog):
    gray = photo[:80, :80, :1].repeat(3, axis=2)
    with caplog.at_level(logging.INFO, "eddsrn_jax"):
        scoring = Scoring(sigmas=(1.0,))
        evaluate(BASELINES, [("gray.png", gray)], dataset="set", scoring=scoring)
    assert "gray.png: gray photo, scored as three equal channels" in caplog.text


def test_saved_images_are_the_scored_ones(photo, tmp_path):
    hr = photo[:80, :96]
    evaluate(
        {"bicubic": bicubic},
        [("deep/cat.jpg", hr)],
        dataset="set",
        scoring=Scoring(sigmas=(1.0, 2.0), save_images=True),
        output_dir=tmp_path,
    )
    folder = tmp_path / "images" / "set" / "sigma_2" / "deep"
    _, lr_blur = degrade_photo(hr, 2.0, max_sigma=2.0)
    np.testing.assert_array_equal(read_image(folder / "cat_input.png"), lr_blur)
    expected = bicubic(lr_blur).sr
    np.testing.assert_array_equal(read_image(folder / "cat_bicubic_sr.png"), expected)
    example = read_image(tmp_path / "before_after_set.png")
    assert example.shape == (80 + 16, 3 * 96 + 2 * 4, 3)


def test_spoil_adds_seeded_noise_and_then_jpeg():
    flat = np.full((120, 160, 3), 90, np.uint8)
    clean, noise, jpeg, both = SPOILINGS["photo"]
    assert spoil(flat, clean, seed=0, name="a") is flat
    noisy = spoil(flat, noise, seed=0, name="a")
    # Rounding adds 1 / 12 to the variance of 25.
    assert noisy.std() == pytest.approx(np.sqrt(25 + 1 / 12), rel=0.02)
    assert noisy.mean() == pytest.approx(90, abs=0.1)
    np.testing.assert_array_equal(noisy, spoil(flat, noise, seed=0, name="a"))
    assert (spoil(flat, noise, seed=1, name="a") != noisy).any()
    assert (spoil(flat, noise, seed=0, name="b") != noisy).any()
    np.testing.assert_array_equal(
        spoil(flat, both, seed=0, name="a"), spoil(noisy, jpeg, seed=9, name="z")
    )


def test_every_blur_is_scored_with_every_spoiling(photo, tmp_path):
    hr = photo[:96, :128]
    spoilings = SPOILINGS["photo"]
    scoring = Scoring(sigmas=(0.0, 2.0), spoilings=spoilings, save_images=True)
    rows = evaluate(
        BASELINES, [("a", hr)], dataset="s", scoring=scoring, output_dir=tmp_path
    )
    cells = [(r.sigma, r.noise, r.jpeg) for r in rows if r.output == "sr"]
    assert cells == [(s, x.noise, x.jpeg) for s in (0.0, 2.0) for x in spoilings]
    for row in rows:
        _, lr_blur = degrade_photo(hr, row.sigma, max_sigma=2.0)
        spoiling = Spoiling(row.noise, row.jpeg)
        expected = spoil(lr_blur, spoiling, seed=0, name="a")
        if row.output == "sr":
            assert row.scores == score(bicubic(expected).sr, hr)
    assert {path.name for path in (tmp_path / "images" / "s").iterdir()} == {
        f"sigma_{sigma}{suffix}"
        for sigma in (0, 2)
        for suffix in ("", "_noise_5", "_jpeg_75", "_noise_5_jpeg_75")
    }
    lines = format_table(rows, by_sigma=True).splitlines()
    assert lines[0].split(" | ")[3:6] == ["sigma", "noise", "JPEG"]
    assert len(lines) == 2 + len(rows)


def test_gains_are_differences_to_bicubic_in_every_cell():
    def row(method, sigma, jpeg, psnr):
        scores = {"psnr_y_crop4": psnr}
        return Row("s", "a", sigma, "sr", method, 0.0, scores, 5.0, jpeg)

    rows = [
        *(row("bicubic", 1.0, None, 20.0), row("m", 1.0, None, 21.5)),
        *(row("bicubic", 1.0, 75, 19.0), row("m", 1.0, 75, 18.5)),
    ]
    cells = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in format_gains(rows).splitlines()
    ]
    assert cells[0] == ["set", "sigma", "noise", "JPEG", "bicubic, dB", "m"]
    assert cells[2:] == [
        ["s", "1", "5", "", "20.00", "+1.50"],
        ["s", "1", "5", "75", "19.00", "-0.50"],
        ["s", "mean", "", "", "19.50", "+0.50"],
    ]


def test_validate_scores_one_photo_per_pair_of_blur_and_spoiling(photo):
    photos = [("a", photo[:100, :120]), ("b", photo[100:200, :120])]
    options = {"sigmas": (1.0, 2.0), "spoilings": SPOILINGS["photo"][:2]}
    found, _ = validate(bicubic, photos, **options)
    rows = evaluate({"bicubic": bicubic}, photos, dataset="s", scoring=Scoring(**options))
    cells = [("a", 1.0, 0.0), ("b", 2.0, 0.0), ("a", 1.0, 5.0), ("b", 2.0, 5.0)]
    chosen = [row for row in rows if (row.image, row.sigma, row.noise) in cells]
    assert len(chosen) == 4
    mean = np.mean([row.scores["psnr_y_crop4"] for row in chosen])
    assert found["psnr_y_crop4"] == pytest.approx(mean)


def test_scores_do_not_depend_on_how_many_results_wait_for_them(
    photo, tmp_path, monkeypatch
):
    scoring = Scoring(sigmas=(1.0, 1.5, 2.0), max_photos=1)
    photos = [("a", photo[:80, :96]), ("b", photo[:96, :80])]
    options = {"dataset": "s", "scoring": scoring}
    expected = evaluate(BASELINES, photos, **options)
    monkeypatch.setattr("eddsrn_jax.evaluation.scoring._MOST_BYTES", 1)
    # One score at a time fits this memory.
    monkeypatch.setattr("eddsrn_jax.evaluation.scoring.machine_memory", lambda: 1)
    found = evaluate(BASELINES, photos, **options, output_dir=tmp_path)
    assert [(x.sigma, x.scores) for x in found] == [(x.sigma, x.scores) for x in expected]
    assert {row.image for row in found} == {"a"}
    assert (tmp_path / "before_after_s.png").is_file()


def test_saves_photos_that_differ_only_in_extension_separately(photo, tmp_path):
    parts = [photo[:80, 80 * i : 80 * (i + 1)] for i in range(3)]
    photos = [*zip(("a.jpg", "a.png", "a.png.jpg"), parts, strict=True)]
    scoring = Scoring(sigmas=(1.0,), save_images=True)
    evaluate({"b": bicubic}, photos, dataset="s", scoring=scoring, output_dir=tmp_path)
    folder = tmp_path / "images" / "s" / "sigma_1"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("a.png.jpg_b_sr.png", "a.png.jpg_input.png"),
        *("a.png_b_sr.png", "a.png_input.png", "a_b_sr.png", "a_input.png"),
    ]


@pytest.mark.parametrize("name, method", [("a.png", "/../../x"), ("../../x.png", "b")])
def test_refuses_to_save_images_outside_the_folder(photo, tmp_path, name, method):
    folder = tmp_path / "out"
    with pytest.raises(InputError, match="would be written outside this"):
        evaluate(
            {method: bicubic},
            [(name, photo[:80, :80])],
            dataset="s",
            scoring=Scoring(sigmas=(1.0,), save_images=True),
            output_dir=folder,
        )
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")}
    assert {path.parts[:3] for path in written} <= {("out", "images", "s")}


def test_bicubic_rounds_and_clips():
    flat = np.full((8, 8, 3), 77, np.uint8)
    np.testing.assert_array_equal(bicubic(flat).sr, np.full((32, 32, 3), 77))
    edge = np.zeros((8, 8, 3), np.uint8)
    edge[:, 4:] = 255  # bicubic overshoots on both sides
    assert set(np.unique(bicubic(edge).sr[:, :8])) == {0}


def test_validate_equals_evaluate_on_one_photo_per_sigma(photo):
    photos = [("a", photo[:100, :120]), ("b", photo[100:200, :120])]

    def method(lr_blur):
        return Restored(bicubic(lr_blur).sr, lr_blur)

    # There are three blurs for two photos, so the first photo comes again.
    pairs = {("a", 1.0), ("b", 2.0), ("a", 1.5)}
    found, examples = validate(method, photos, sigmas=(1.0, 2.0, 1.5), num_examples=1)
    # A picture shows the input, two outputs and the truth side by side.
    assert {name: sheet.shape for name, sheet in examples.items()} == {
        "a": (100 + 16, 4 * 120 + 3 * 4, 3)
    }
    scoring = Scoring(sigmas=(1.0, 2.0, 1.5))
    rows = evaluate({"m": method}, photos, dataset="s", scoring=scoring)
    for output, name in (("sr", ""), ("deblurred", "deblurred_")):
        expected = [
            row.scores["psnr_y_crop4"]
            for row in rows
            if row.output == output and (row.image, row.sigma) in pairs
        ]
        assert found[f"{name}psnr_y_crop4"] == pytest.approx(np.mean(expected))


def test_read_photos_skips_broken_files_and_warns(photo_folder, caplog):
    (photo_folder / "broken.jpg").write_bytes(b"no")
    names = [name for name, _ in read_photos(folder_source(photo_folder))]
    assert names == [f"photo{i}.png" for i in range(8)]
    assert f"{photo_folder}/broken.jpg: cannot be decoded" in caplog.text


def row(value, *, image="a", sigma=1.0, method="m", output="sr", dataset="set"):
    scores = {
        f"{metric}_{channel}_crop{border}": value
        for metric in ("psnr", "ssim")
        for channel in ("rgb", "y")
        for border in (0, 4)
    }
    return Row(dataset, image, sigma, output, method, 0.002, scores)


def test_means_are_over_photos_and_sigmas():
    rows = [row(1.0), row(2.0, sigma=2.0), row(6.0, image="b"), row(9.0, method="n")]
    found = means(rows, by_sigma=False)
    assert [(m["method"], m["psnr_y_crop4"], m["images"]) for m in found] == [
        ("m", 3.0, 2),
        ("n", 9.0, 1),
    ]
    by_sigma = means(rows, by_sigma=True)
    assert [(m["sigma"], m["ssim_rgb_crop0"]) for m in by_sigma[:2]] == [(1, 3.5), (2, 2)]


def test_the_table_groups_sets_and_outputs():
    rows = [
        row(1.0, output="deblurred"),
        row(20.5),
        row(30.0, dataset="other"),
    ]
    lines = format_table(rows).splitlines()
    assert [line.split("|")[1:3] for line in lines[2:]] == [
        [" set (1)   ", " x4 SR     "],
        [" set (1)   ", " deblurred "],
        [" other (1) ", " x4 SR     "],
    ]
    assert "| 20.50 / 20.5000 |" in lines[2]
    assert len({len(line) for line in lines}) == 1


def test_results_files_hold_rows_means_and_protocol(tmp_path):
    rows = [row(1.0), row(3.0, image="b")]
    rows[1].scores["psnr_y_crop4"] = float("inf")
    write_results(tmp_path, rows, protocol={"seed": 3})
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["protocol"] == {"seed": 3}
    assert [r["psnr_y_crop4"] for r in results["images"]] == [1.0, None]
    assert results["means"][0]["images"] == 2
    with (tmp_path / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(r["image"], r["sigma"]) for r in table] == [
        *(("a", "1.0"), ("b", "1.0"), ("mean", "1.0"), ("mean", "mean"))
    ]
    assert [r["protocol"] for r in table] == ["", "", '{"seed": 3}', '{"seed": 3}']
    assert [r["ssim_y_crop0"] for r in table] == ["1.0", "3.0", "2.0", "2.0"]


def test_tables_by_sigma_have_a_sigma_column(tmp_path):
    rows = [row(1.0), row(2.0, sigma=1.25)]
    lines = format_table(rows, by_sigma=True).splitlines()
    assert [line.split("|")[4].strip() for line in lines] == [
        "sigma",
        "-----",
        "1",
        "1.25",
    ]
    write_results(tmp_path, rows, protocol={})
    text = (tmp_path / "results.md").read_text()
    assert text == f"{format_table(rows)}\n\n" + "\n".join(lines) + "\n"


def test_the_ensemble_is_the_mean_over_turned_and_mirrored_copies(photo):
    image = photo[:20, :28]

    def ramp(pixels):
        """Darkens "deblurred" from the top down, whichever way the photo is turned."""
        rows = np.linspace(1, 0, len(pixels), dtype=np.float32)[:, None, None]
        return Restored(sr=pixels.repeat(4, 0).repeat(4, 1), deblurred=pixels * rows)

    found = SelfEnsemble(ramp)(image)
    np.testing.assert_array_equal(found.sr, image.repeat(4, 0).repeat(4, 1))
    # The copies are darkened from all four sides, so their mean is half as bright.
    np.testing.assert_allclose(found.deblurred, image / 2, atol=0.51)
    assert found.deblurred.dtype == np.uint8


def test_before_after_enlarges_small_images_to_the_same_detail():
    large = np.zeros((40, 60, 3), np.uint8)
    large[20:, 32:] = 255
    small = large[::4, ::4]
    sheet = before_after({"small": small, "large": large}, side=40)
    assert sheet.shape == (40 + 16, 2 * 40 + 4, 3)
    np.testing.assert_array_equal(sheet[16:, :40], sheet[16:, 44:])
    Image.fromarray(sheet)


def test_the_ensemble_is_prepared_for_both_orientations():
    class Method:
        def __init__(self):
            self.prepared, self.seen = [], []

        def prepare(self, height, width):
            self.prepared.append((height, width))

        def __call__(self, image):
            self.seen.append(image.shape[:2])
            return Restored(deblurred=image)

    method = Method()
    ensemble = SelfEnsemble(method)
    ensemble.prepare(8, 12)
    assert method.prepared == [(8, 12), (12, 8)]
    assert {*method.seen} == {(8, 12), (12, 8)}
    ensemble.prepare(8, 12)
    assert len(method.prepared) == 2
