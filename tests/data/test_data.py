import collections
import concurrent.futures
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eddsrn_jax.data.crops import CropSampler, crop_plan
from eddsrn_jax.data.pack import Pack, open_pack
from eddsrn_jax.data.sources import (
    BUNDLED_TRAIN,
    BUNDLED_VALIDATION,
    folder_source,
    open_split,
)
from eddsrn_jax.errors import InputError
from eddsrn_jax.files import locked, written_beside
from eddsrn_jax.images import read_image

# sources ------------------------------------------------------------------------------


def names(source):
    return [file.name for file in source.files()]


def test_bundled_photos_are_those_listed_and_at_least_256_pixels():
    split = open_split("bundled")
    assert tuple(names(split.train)) == BUNDLED_TRAIN
    assert tuple(names(split.validation)) == BUNDLED_VALIDATION
    for source in (split.train, split.validation):
        for file in source.files():
            assert min(read_image(file.content).shape[:2]) >= 256


def test_holds_out_the_same_twentieth_of_a_folder_after_a_move(tmp_path):
    for i in range(60):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i:02d}.png")
    split = open_split(f"folder:{tmp_path}")
    held_out = names(split.validation)
    assert len(held_out) == 3
    assert sorted(held_out + names(split.train)) == sorted(
        p.name for p in tmp_path.iterdir()
    )
    moved = tmp_path.parent / "moved"
    shutil.copytree(tmp_path, moved)
    assert names(open_split(f"folder:{moved}").validation) == held_out


def test_holds_out_nothing_with_a_separate_validation_source(photo_folder):
    split = open_split(f"folder:{photo_folder}", validation_source="bundled")
    assert len(names(split.train)) == 8
    assert tuple(names(split.validation)) == BUNDLED_VALIDATION


@pytest.mark.parametrize(
    "source, message",
    [
        ("folder:/absent", "/absent: no such folder"),
        ("div2k", "source='div2k': expected 'tfds:div2k'"),
        ("", "source='': expected"),
        ("folder:", "source='folder:': expected"),
    ],
)
def test_open_split_rejects_unknown_sources(source, message):
    with pytest.raises(InputError, match=message):
        open_split(source)


def test_open_split_rejects_a_folder_of_one_photo(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "only.png")
    with pytest.raises(
        InputError, match="only 1 image found; training and validation need"
    ):
        open_split(f"folder:{tmp_path}")


# the pack -----------------------------------------------------------------------------


def test_a_pack_holds_every_pixel(photo_folder, tmp_path):
    source = folder_source(photo_folder)
    pack = open_pack(source, tmp_path / "cache")
    assert len(pack.images) == 8
    for file, image in zip(source.files(), pack.images, strict=True):
        np.testing.assert_array_equal(image, read_image(file.content))


def test_a_pack_is_made_once_and_again_when_a_file_changes(photo_folder, tmp_path):
    cache = tmp_path / "cache"
    open_pack(folder_source(photo_folder), cache)
    before = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert sorted(Path(name).suffix for name in before) == ["", ".json", ".u8"]
    open_pack(folder_source(photo_folder), cache)
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == before
    os.utime(photo_folder / "photo0.png", (1, 1))
    open_pack(folder_source(photo_folder), cache)
    assert len(list(cache.glob("*.u8"))) == len(list(cache.glob("*.json"))) == 2


def test_uses_a_pack_that_was_made_while_waiting_for_the_lock(
    photo_folder, tmp_path, caplog
):
    caplog.set_level("INFO", "eddsrn_jax")
    source = folder_source(photo_folder)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with locked(tmp_path, name=".lock-packs"):
            waiting = pool.submit(open_pack, source, tmp_path)
            while "waiting for another process" not in caplog.text:
                assert not waiting.done()
                time.sleep(0.01)
            # While the other thread waits for the lock, the pack appears.
            open_pack(source, tmp_path / "other")
            made = []
            for path in (tmp_path / "other").glob("[!.]*"):
                made.append(path.rename(tmp_path / path.name))
            times = [path.stat().st_mtime_ns for path in made]
        assert len(waiting.result().images) == 8
    assert len(made) == 2 and [path.stat().st_mtime_ns for path in made] == times


def test_a_pack_whose_index_is_damaged_is_made_again(photo_folder, tmp_path):
    open_pack(folder_source(photo_folder), tmp_path)
    (index,) = tmp_path.glob("*.json")
    whole = index.read_text()
    for content in ("", whole[:50], "[5]", "[]", whole.replace("height", "heighu")):
        index.write_text(content)
        assert len(open_pack(folder_source(photo_folder), tmp_path).images) == 8
        assert index.read_text() == whole


def test_deletes_the_partial_pack_of_a_killed_process(photo_folder, tmp_path):
    with written_beside(tmp_path / "half.u8") as killed:
        killed.touch()
        open_pack(folder_source(photo_folder), tmp_path)
        assert not killed.exists()
        killed.touch()


def test_open_pack_skips_broken_files_and_warns(photo_folder, tmp_path, caplog):
    (photo_folder / "empty.png").touch()
    whole = (photo_folder / "photo3.png").read_bytes()
    (photo_folder / "photo3.png").write_bytes(whole[: len(whole) // 2])
    pack = open_pack(folder_source(photo_folder), tmp_path / "cache")
    assert len(pack.images) == 7
    assert f"{photo_folder}/empty.png: cannot be decoded" in caplog.text
    assert f"{photo_folder}/photo3.png: cannot be decoded" in caplog.text
    last = read_image(photo_folder / "photo7.png")
    np.testing.assert_array_equal(pack.images[-1], last)
    # A run that only reads the pack logs the same warnings.
    caplog.clear()
    open_pack(folder_source(photo_folder), tmp_path / "cache")
    assert "empty.png: cannot be decoded" in caplog.text
    assert "photo3.png: cannot be decoded" in caplog.text


def test_rejects_a_folder_of_broken_files_and_leaves_no_pack(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "empty.png").touch()
    with pytest.raises(
        InputError, match=r"photos: none of 1 files can be used \(first error: .*empty.p"
    ):
        open_pack(folder_source(folder), tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock-packs"]


def test_checks_free_disk_space_before_writing_a_pack(
    photo_folder, tmp_path, monkeypatch
):
    usage = collections.namedtuple("usage", "total used free")(0, 0, 123_456)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"needs 0\.3 MB, but only 0\.1 MB are free"):
        open_pack(folder_source(photo_folder), tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock-packs"]


def test_leaves_out_photos_smaller_than_the_crop(photo_folder, tmp_path, caplog):
    pack = open_pack(folder_source(photo_folder), tmp_path / "cache")
    kept = pack.at_least(100, "a crop")
    assert [min(image.shape[:2]) >= 100 for image in kept.images] == [True] * 3
    assert (
        "photo0.png: left out, because 128 x 96 is smaller than 100 x 100, a crop"
        in caplog.text
    )
    with pytest.raises(
        InputError, match="all 8 photos are smaller than 500 x 500, a crop"
    ):
        pack.at_least(500, "a crop")


# crops --------------------------------------------------------------------------------

SIZES = np.array([[64, 80], [100, 64], [64, 64], [90, 90], [70, 200]])


def plan(epoch=0, batch_size=4, crops_per_image=6, seed=0):
    return crop_plan(
        seed,
        epoch,
        sizes=SIZES,
        batch_size=batch_size,
        crops_per_image=crops_per_image,
        patch_size=64,
    )


def test_an_epoch_of_whole_batches_takes_photos_about_equally_often():
    found = plan()
    assert len(found.image) == 28  # 30 crops, without the last 2, which fill no batch
    counts = np.bincount(found.image)
    assert counts.max() == 6 and counts.min() >= 4


@pytest.mark.parametrize("batch_size", [2, 3, 4, 5])
def test_rows_of_a_batch_come_from_different_photos(batch_size):
    for epoch in range(20):
        image = plan(epoch, batch_size).image.reshape(-1, batch_size)
        assert all(len(set(batch)) == batch_size for batch in image)


def test_crops_lie_inside_their_photo_and_reach_its_far_edges():
    found = plan(crops_per_image=400)
    last = SIZES[found.image] - 64
    for position, limit in ((found.y, last[:, 0]), (found.x, last[:, 1])):
        assert (position >= 0).all() and (position <= limit).all()
        assert (position == limit)[limit == 26].any() or not (limit == 26).any()


def test_a_plan_depends_on_seed_and_epoch_and_has_unique_keys():
    np.testing.assert_array_equal(plan(3).key, plan(3).key)
    assert not np.array_equal(plan(3).y, plan(4).y)
    assert not np.array_equal(plan(3, seed=1).image, plan(3).image)
    assert len(np.unique(plan(crops_per_image=400).key, axis=0)) == 2000


@pytest.fixture
def sampler(photo_folder, tmp_path):
    pack = open_pack(folder_source(photo_folder), tmp_path / "cache")
    return CropSampler(pack, seed=0, batch_size=4, crops_per_image=3, patch_size=64)


def test_a_batch_is_cut_where_the_plan_says(sampler, photo_folder):
    sizes = [read_image(p).shape[:2] for p in sorted(photo_folder.iterdir())]
    assert sampler.steps_per_epoch == 6
    expected = crop_plan(
        0,
        1,
        sizes=np.array(sizes),
        batch_size=4,
        crops_per_image=3,
        patch_size=64,
    )
    batch = sampler.batch(7)  # the second batch of epoch 1
    for row in range(4):
        image = read_image(photo_folder / f"photo{expected.image[4 + row]}.png")
        y, x = expected.y[4 + row], expected.x[4 + row]
        np.testing.assert_array_equal(batch["hr"][row], image[y : y + 64, x : x + 64])
    np.testing.assert_array_equal(batch["key"], expected.key[4:8])


def test_rows_of_two_processes_join_to_the_whole_batch(sampler):
    whole = sampler.batch(5)
    halves = [sampler.batch(5, slice(start, start + 2)) for start in (0, 2)]
    for name, value in whole.items():
        joined = np.concatenate([half[name] for half in halves])
        np.testing.assert_array_equal(joined, value)


def test_rejects_an_epoch_with_fewer_crops_than_a_batch():
    pack = Pack([np.zeros((64, 64, 3), np.uint8)], ["one.png"])
    with pytest.raises(InputError, match=r"epoch has 3 crops .*batch_size=4"):
        CropSampler(pack, seed=0, batch_size=4, crops_per_image=3, patch_size=64)


def test_packing_keeps_the_order_of_files_however_long_each_takes(photo_folder, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    Image.fromarray(noise).save(photo_folder / "a_big.png")
    pack = open_pack(folder_source(photo_folder), tmp_path / "cache")
    assert [name.rsplit("/")[-1] for name in pack.names] == sorted(
        p.name for p in photo_folder.iterdir()
    )
    np.testing.assert_array_equal(pack.images[0], noise)
