"""Tests that training and evaluation take a user's own degradation by import path."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import tiny_config

from eddsrn_jax.config_values import from_json
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.inputs import Spoiling
from eddsrn_jax.evaluation.scoring import Scoring, evaluate
from eddsrn_jax.evaluation.validation import validate
from eddsrn_jax.ops.degradation import (
    OWN_DEGRADATIONS,
    import_degradation,
    round_to_8_bits,
    training_triple,
)
from eddsrn_jax.restoration.outputs import Restored
from eddsrn_jax.training import loop
from eddsrn_jax.training.config_checks import check
from eddsrn_jax.training.validator import Validator

MODULE = """
import jax
import jax.numpy as jnp

not_a_function = 3

def darker(key, image):
    return image * jax.random.uniform(key, minval=0.25, maxval=0.75)

def negative(key, image):
    return image - 1.5

def half(key, image):
    return image / 2

def one_row_less(key, image):
    return image[1:]

def levels(key, image):
    return jnp.rint(image * 255).astype(jnp.uint8)

def text(key, image):
    return "blurred"

def failing(key, image):
    raise KeyError("kernel")

def endless(key, image):
    return image / 0.0
"""


@pytest.fixture
def module(write_module):
    """Writes the module; returns its name."""
    return write_module(MODULE)


@pytest.fixture
def own(module):
    """Imports a function of the module; returns its import path."""

    def import_function(name):
        import_degradation(f"{module}:{name}")
        return f"{module}:{name}"

    return import_function


def triple(photo, key, **options):
    """Makes a training example from a crop of a photo."""
    make = jax.jit(
        lambda x: training_triple(x, photo[:64, :64], scale=4, **options),
    )
    return make(jax.random.key(key))


def test_a_degradation_takes_the_place_of_the_blur_in_training(photo, own):
    options = {"sigma_range": (1.0, 2.0)}
    found = triple(photo, 3, **options, own=own("half"))
    without = triple(photo, 3, **options)
    for name in ("hr", "lr_sharp"):
        np.testing.assert_array_equal(found[name], without[name])
    expected = round_to_8_bits(found["lr_sharp"] / 2)
    np.testing.assert_allclose(found["lr_blur"], expected, atol=1e-6)


def test_its_key_is_the_crops_own(photo, own):
    options = {"sigma_range": (1.0, 2.0), "own": own("darker")}

    def factor(key):
        made = triple(photo, key, **options)
        return float(made["lr_blur"].sum() / made["lr_sharp"].sum())

    factors = [factor(key) for key in range(6)]
    assert factors[0] == factor(0)
    assert len({round(x, 3) for x in factors}) == 6
    assert min(factors) > 0.24 and max(factors) < 0.76


def test_values_out_of_range_are_clipped_before_noise(photo, own):
    options = {"sigma_range": (1.0, 2.0), "noise_share": 1.0, "max_noise": 20.0}
    keys = jax.random.split(jax.random.key(0), 60)
    path = own("negative")

    def make(key):
        return training_triple(key, photo[:64, :64], scale=4, own=path, **options)

    # Noise that grows with brightness has no level below black.
    assert jnp.isfinite(jax.jit(jax.vmap(make))(keys)["lr_blur"]).all()


def test_sharp_crops_noise_and_jpeg_go_with_it(photo, own):
    options = {"sigma_range": (1.0, 2.0), "own": own("half")}
    sharp = triple(photo, 1, **options, sharp_share=1.0)
    expected = round_to_8_bits(sharp["lr_sharp"])
    np.testing.assert_allclose(sharp["lr_blur"], expected, atol=1e-6)
    plain = triple(photo, 1, **options)["lr_blur"]
    noisy = triple(photo, 1, **options, noise_share=1.0, max_noise=20.0)["lr_blur"]
    compressed = triple(photo, 1, **options, jpeg_share=1.0, jpeg_quality=(30, 30))
    for image in (noisy, compressed["lr_blur"]):
        assert 1e-3 < jnp.abs(image - plain).mean() < 0.1


@pytest.mark.parametrize(
    "name, message",
    [
        ("one_row_less", r"returned float32 \[15, 16, 3\] for an image of \[16, 16, 3\]"),
        ("levels", r"returned uint8 \[16, 16, 3\] .*expected floats of the same shape"),
        ("text", r"cannot degrade an image \(TypeError: "),
        ("failing", r"cannot degrade an image \(KeyError: 'kernel'\)"),
    ],
)
def test_a_function_that_does_not_fit_is_named(tmp_path, own, name, message):
    config = tiny_config(tmp_path, **{"degradation.own": own(name)})
    with pytest.raises(InputError, match=f":{name}: {message}"):
        check(config)


def test_a_path_without_a_function_is_refused(module, tmp_path):
    for name, message in (
        (f"{module}:not_a_function", r"expected a function of \(key, image\)"),
        (f"{module}:absent", "has no absent"),
    ):
        with pytest.raises(InputError, match=message):
            import_degradation(name)
    for changes, message in (
        ({"degradation.own": "half"}, "expected '', or the import path of your own"),
        ({"degradation.own": f"{module}:half"}, "expected an imported name"),
    ):
        with pytest.raises(InputError, match=message):
            check(tiny_config(tmp_path, **changes))


def test_a_directional_blur_beside_it_is_refused(tmp_path, own):
    changes = {"degradation.own": own("half"), "degradation.anisotropic_share": 0.5}
    with pytest.raises(InputError, match="anisotropic_share=0.5: expected 0, because"):
        check(tiny_config(tmp_path, **changes))


def test_a_config_from_before_it_existed_has_none(tmp_path):
    values = json.loads(json.dumps(tiny_config(tmp_path).to_dict()))
    del values["degradation"]["own"]
    config = from_json(values)
    assert config.degradation.own == ""
    check(config)


def unchanged(image):
    """Returns the input as the deblurred image."""
    return Restored(sr=None, deblurred=image)


def test_photos_are_scored_with_it(photo, own, tmp_path):
    photos = [("a.png", photo[:81, :98]), ("b.png", photo[:81, :98])]
    spoilings = (Spoiling(), Spoiling(noise=5.0))
    scoring = Scoring(own=own("darker"), spoilings=spoilings, save_images=True)
    kept = {}

    def method(image):
        kept[len(kept)] = image
        return unchanged(image)

    rows = evaluate(
        {"none": method}, photos, dataset="two", scoring=scoring, output_dir=tmp_path
    )
    assert [(row.image, row.sigma, row.noise) for row in rows] == [
        ("a.png", None, 0.0),
        ("a.png", None, 5.0),
        ("b.png", None, 0.0),
        ("b.png", None, 5.0),
    ]
    assert (tmp_path / "before_after_two.png").exists()
    folder = tmp_path / "images" / "two"
    assert sorted(path.name for path in folder.iterdir()) == [
        "own_degradation",
        "own_degradation_noise_5",
    ]
    with Image.open(folder / "own_degradation" / "a_input.png") as image:
        np.testing.assert_array_equal(np.asarray(image), kept[0])
    # The random numbers depend on the photo's name and the seed, and on nothing else.
    means = [round(float(kept[i].mean()), 2) for i in (0, 2)]
    assert means[0] != means[1]
    again = evaluate({"none": unchanged}, photos[1:], dataset="one", scoring=scoring)
    assert [row.scores for row in again] == [row.scores for row in rows[2:]]
    other = Scoring(own=scoring.own, spoilings=spoilings, seed=1)
    rows = evaluate({"none": unchanged}, photos[1:], dataset="one", scoring=other)
    assert rows[0].scores != again[0].scores


def test_validation_scores_it(photo, own):
    photos = [("a.png", photo[:80, :96])]
    options = {"sigmas": (1.0, 2.0), "own": own("half")}
    scores, _ = validate(unchanged, photos, **options)
    blurred, _ = validate(unchanged, photos, sigmas=(1.0, 2.0))
    (row,) = evaluate(
        {"none": unchanged}, photos, dataset="one", scoring=Scoring(own=own("half"))
    )
    assert scores["deblurred_psnr_y_crop4"] == row.scores["psnr_y_crop4"]
    assert scores != blurred


def test_scores_of_another_degradation_are_not_compared(photo, own):
    def number(path):
        options = {"sigmas": (1.0, 2.0), "own": path, "degradation": "paper"}
        return Validator(None, [("a.png", photo[:80, :96])], None, **options)._set

    assert len({number(path) for path in ("", own("half"), own("darker"))}) == 3


def test_values_that_are_not_finite_end_an_evaluation(photo, own):
    with pytest.raises(InputError, match=r":endless: returned values for a.png that are"):
        evaluate(
            {"none": unchanged},
            [("a.png", photo[:80, :96])],
            dataset="one",
            scoring=Scoring(own=own("endless")),
        )


def test_a_run_trains_validates_and_scores_with_it(call, module, photo_folder, tmp_path):
    path, workdir = f"{module}:darker", tmp_path / "run"
    import_degradation(path)
    config = tiny_config(photo_folder, **{"degradation.own": path})
    loop.train_and_evaluate(config, workdir)
    (results,) = workdir.glob("evaluation/*/results.json")
    protocol = json.loads(results.read_text())["protocol"]
    assert protocol["degradation"] == path and "sigmas" not in protocol
    # The score of the last validation is that of the same photos and degradation.
    metrics = (workdir / "metrics.jsonl").read_text().splitlines()
    last = [x["val/psnr_y_crop4"] for x in map(json.loads, metrics) if "val/" in str(x)]
    found = json.loads(results.read_text())["means"]
    scores = [x for x in found if x["output"] == "sr" and x["method"] == config.name]
    assert last[-1] == pytest.approx(scores[0]["psnr_y_crop4"], abs=1e-3)
    # A saved config imports nothing that no flag names.
    OWN_DEGRADATIONS.clear()
    given = ["train", f"--workdir={workdir}", "--config.total_steps=11", "--dry_run"]
    code, _, err = call(*given)
    assert code == 1 and f"name that too: --config.degradation.own={path}" in err
    code, _, err = call(*given, f"--config.degradation.own={path}")
    assert code == 0, err


def test_evaluate_takes_its_import_path(call, module, photo, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photo[:80, :96]).save(folder / "a.png")
    given = [f"--dataset=one={folder}", f"--output_dir={tmp_path / 'scores'}"]
    code, out, err = call("evaluate", f"--degradation={module}:half", *given)
    assert code == 0, err
    assert "blurred input" in out
    results = (tmp_path / "scores" / "results.md").read_text()
    assert " unknown " in results
    assert not (tmp_path / "scores" / "curves.svg").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--degradation=rain"], "--degradation=rain: expected paper, photo, or the imp"),
        (["--degradation=m:f", "--sigmas=1"], "--sigmas=1 cannot be used with --degrad"),
        (["--degradation=m:f", "--wiener"], "whose sigma is unknown"),
        (["--degradation=absent_module:f"], "no module absent_module in"),
    ],
)
def test_evaluate_refuses_flags_that_do_not_fit(call, tmp_path, flags, message):
    code, _, err = call("evaluate", *flags, f"--dataset=one={tmp_path}")
    assert code in (1, 2) and message in err, err
