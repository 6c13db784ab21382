"""Training on pairs of photos: a small blurry one and a sharp one."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import metrics_rows, tiny_config

from eddsrn_jax.data.crops import CropSampler
from eddsrn_jax.data.pack import open_pack, read_pack
from eddsrn_jax.data.pairs import pairs_source
from eddsrn_jax.data.sources import open_split
from eddsrn_jax.data.streaming import stream_batches
from eddsrn_jax.errors import InputError
from eddsrn_jax.images import read_image
from eddsrn_jax.ops.degradation import paired_triple
from eddsrn_jax.training.loop import train_and_evaluate


@pytest.fixture
def grids(tmp_path):
    """Writes three pairs whose pixel values are their coordinates; returns the source.

    The value of a small pixel is its position. That of a sharp pixel is its position
    divided by 4, so both have the same value at the same place.
    """
    for i in range(3):
        y, x = np.mgrid[: 80 + 4 * i, :122] // 4
        hr = np.stack([y, x, 0 * x + i], axis=-1).astype(np.uint8)
        for folder, image in (("lr", hr[::4, :120:4]), ("hr", hr)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / f"{i}.png")
    return f"pairs:{tmp_path / 'lr'},{tmp_path / 'hr'}"


def enlarged(small):
    return small.repeat(4, axis=-3).repeat(4, axis=-2)


def sampler_of(source, cache_dir):
    pack = open_pack(open_split(source).train, cache_dir)
    return CropSampler(pack, seed=0, batch_size=2, crops_per_image=4, patch_size=64)


def test_the_crops_of_a_pair_show_the_same_place(grids, tmp_path):
    sampler = sampler_of(grids, tmp_path / "packs")
    assert sampler.num_photos == 2
    streamed = stream_batches(sampler, range(4))
    for step, batch in enumerate(streamed):
        assert batch["hr"].shape == (2, 64, 64, 3) and batch["lr"].shape == (2, 16, 16, 3)
        np.testing.assert_array_equal(enlarged(batch["lr"]), batch["hr"])
        for name, expected in sampler.batch(step).items():
            np.testing.assert_array_equal(batch[name], expected)
    plans = [sampler.plan(step) for step in range(4)]
    corners = [corner for p in plans for corner in zip(p.y, p.x, strict=True)]
    assert len(set(corners)) > 4


def test_both_photos_of_a_pair_are_augmented_alike(grids, tmp_path):
    batch = sampler_of(grids, tmp_path / "packs").batch(0)
    views = set()
    for seed in range(20):
        triple = paired_triple(
            jax.random.key(seed), batch["hr"][0], batch["lr"][0], scale=4
        )
        hr, lr = (np.asarray(triple[name]) for name in ("hr", "lr_blur"))
        np.testing.assert_array_equal(enlarged(lr), hr)
        levels = np.rint(255 * hr).astype(np.uint8)
        assert sorted(levels.ravel()) == sorted(batch["hr"][0].ravel())
        assert triple["lr_sharp"].shape == (16, 16, 3)
        views.add(hr.tobytes())
    assert len(views) > 4


def test_a_run_trains_validates_and_scores_on_pairs(pairs, tmp_path, caplog):
    config = tiny_config(
        tmp_path / "sharp", total_steps=2, batch_size=8, **{"data.source": pairs}
    )
    config.data.crops_per_image = 20
    with caplog.at_level("INFO", "eddsrn_jax"):
        assert train_and_evaluate(config, tmp_path / "run") is None
    assert "training on pairs: the inputs are the small photos" in caplog.text
    assert "photos: 1 for training, 1 for validation" in caplog.text
    (score,) = (
        row["val/psnr_y_crop4"]
        for row in metrics_rows(tmp_path / "run")
        if "val/psnr_y_crop4" in row
    )
    (path,) = (tmp_path / "run" / "evaluation").rglob("results.json")
    results = json.loads(path.read_text())
    found = {image["method"]: image["psnr_y_crop4"] for image in results["images"]}
    assert found[config.name] == pytest.approx(score, abs=1e-3)
    assert {image["sigma"] for image in results["images"]} == {None}


def test_a_pack_leaves_out_pairs_of_other_sizes_and_is_read_again(
    grids, tmp_path, caplog
):
    Image.new("RGB", (31, 20)).save(tmp_path / "lr" / "0.png")
    source = pairs_source(grids, "mine")
    made = open_pack(source, tmp_path / "packs")
    assert made.names == ["1.png", "2.png"]
    assert "lr/0.png: 31 x 20 pixels, but" in caplog.text
    again = read_pack(source.listing(), tmp_path / "packs")
    for name, hr, lr in again.photos:
        np.testing.assert_array_equal(hr, read_image(tmp_path / "hr" / name))
        np.testing.assert_array_equal(lr, read_image(tmp_path / "lr" / name))
    assert len(again.take([1]).small) == 1


def test_a_changed_small_photo_makes_a_new_pack(grids, tmp_path):
    before = pairs_source(grids, "mine").listing()
    Image.new("RGB", (30, 20)).save(tmp_path / "lr" / "0.png")
    assert pairs_source(grids, "mine").listing().key != before.key


def test_the_resident_pipeline_refuses_pairs(pairs, tmp_path):
    changes = {"data.source": pairs, "data.pipeline": "resident"}
    config = tiny_config(tmp_path / "sharp", **changes)
    config.data.crops_per_image = 20
    with pytest.raises(InputError, match="pipeline='resident': expected 'stream', since"):
        train_and_evaluate(config, tmp_path / "run")


def test_pairs_cannot_be_one_of_several_sources(grids, tmp_path):
    source = f"{grids},folder:{tmp_path}"
    with pytest.raises(InputError, match="pairs:.* cannot be one of several sources"):
        open_split(source)


def test_errors_in_a_source_of_pairs_name_the_flag(tmp_path):
    with pytest.raises(InputError, match="config.data.source=pairs:a: expected pairs:LR"):
        open_split("pairs:a")
