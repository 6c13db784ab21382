"""Sources with links, copies, nested folders, and folders of other programs."""

import logging
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import tiny_config

from eddsrn_jax import distributed
from eddsrn_jax.data.folders import equal_files, find_photos
from eddsrn_jax.data.sources import folder_source, open_split
from eddsrn_jax.errors import InputError
from eddsrn_jax.training import setup
from eddsrn_jax.training.setup import open_data


def write(folder, *names):
    """Writes small photos with different content; returns the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        level = sum(map(ord, str(path))) % 251
        pixels = np.full((8, 8, 3), level, np.uint8)
        pixels[: len(name) % 8] = [len(str(path)) % 256, 7, level]
        Image.fromarray(pixels).save(path)
    return folder


def names(source):
    return [file.name for file in source.files()]


def split_names(*arguments, **options):
    split = open_split(*arguments, **options)
    return names(split.train), names(split.validation)


# links --------------------------------------------------------------------------------


def test_linked_folders_are_part_of_a_source(tmp_path):
    """The usual layout of DF2K is a folder of two links."""
    write(tmp_path / "disk/DIV2K", "0001.png", "0002.png")
    write(tmp_path / "disk/Flickr2K", "deep/000001.png")
    source = tmp_path / "DF2K"
    source.mkdir()
    for name in ("DIV2K", "Flickr2K"):
        (source / name).symlink_to(tmp_path / "disk" / name)
    assert names(folder_source(source)) == [
        *("DIV2K/0001.png", "DIV2K/0002.png", "Flickr2K/deep/000001.png")
    ]


def test_circular_links_end_and_every_photo_is_found_once(tmp_path, caplog):
    folder = write(tmp_path / "photos", "b/1.png", "c/2.png")
    (folder / "a").symlink_to(folder / "b")
    (folder / "b" / "up").symlink_to(folder)
    (folder / "c" / "self").symlink_to(".")
    (folder / "0.png").symlink_to(folder / "c" / "2.png")
    assert [file.name for file in find_photos(folder)] == ["b/1.png", "c/2.png"]
    assert "1 links left out, because they lead to photos that are there" in caplog.text


def test_a_link_to_a_photo_elsewhere_counts(tmp_path):
    write(tmp_path / "disk", "1.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.png").symlink_to(tmp_path / "disk" / "1.png")
    (tmp_path / "photos" / "y.png").symlink_to(tmp_path / "disk" / "1.png")
    assert [file.name for file in find_photos(tmp_path / "photos")] == ["x.png"]


def test_unreadable_folders_broken_links_and_other_files_are_named(tmp_path, caplog):
    folder = write(tmp_path / "photos", "1.png")
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "notes.txt").touch()
    (folder / ".hidden").mkdir()
    write(folder / ".hidden", "2.png")
    assert [file.name for file in find_photos(folder)] == ["1.png"]
    for name in ("gone.png", "itself.png"):
        assert f"{name}: left out, because it is not a file" in caplog.text
    assert "1 files left out, because their names match none of" in caplog.text


# copies -------------------------------------------------------------------------------


def test_equal_files_are_grouped_by_content(tmp_path):
    contents = [b"a" * 100_000, b"b", b"a" * 100_000, b"c", b"a" * 99_999 + b"b", b"b"]
    paths = [tmp_path / str(i) for i in range(6)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert equal_files(paths) == [[0, 2], [1, 5], [3], [4]]
    assert equal_files([*paths[:2], tmp_path / "absent"]) == [[0], [1], [2]]


def test_exact_copies_are_held_out_together(tmp_path):
    folder = write(tmp_path / "photos", *(f"{i}.png" for i in range(20)))
    _, (held_out,) = split_names(f"folder:{folder}")
    (folder / "copies").mkdir()
    for path in sorted(folder.glob("*.png")):
        shutil.copy(path, folder / "copies" / f"again{path.name}")
    train, validation = split_names(f"folder:{folder}")
    assert validation == [held_out, f"copies/again{held_out}"]
    assert len(train) == 38 and not {*train} & {*validation}


def test_photos_of_the_validation_set_are_not_trained_on(tmp_path, caplog):
    folder = write(tmp_path / "photos", "1.png", "2.png", "val/3.png", "val/4.png")
    shutil.copy(folder / "val" / "3.png", folder / "copy.png")
    train, validation = split_names(
        f"folder:{folder}", validation_source=f"folder:{folder}/val"
    )
    assert train == ["1.png", "2.png"] and validation == ["3.png", "4.png"]
    assert "3 photos left out of the training, because they are in the val" in caplog.text


@pytest.mark.parametrize("part", ["", "/train"])
def test_refuses_a_validation_folder_with_all_photos_to_train_on(tmp_path, part):
    folder = write(tmp_path / "photos", "train/1.png", "train/2.png")
    message = "all of its 2 photos are also in the validation set"
    with pytest.raises(InputError, match=message):
        open_split(f"folder:{folder}{part}", validation_source=f"folder:{folder}")


# DIV2K --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "small",
    [
        *("HR LR_bicubic/X2 LR_bicubic/X4", "DIV2K_train_HR DIV2K_train_LR_bicubic/X4"),
        *("HR X4", "train_HR train_LR_unknown", "GTmod12 LRbicx4", "trainHR trainLR"),
    ],
)
def test_smaller_copies_beside_full_size_photos_are_left_out(tmp_path, small, caplog):
    full_size, *others = small.split()
    for name in (full_size, *others):
        write(tmp_path / "photos" / name, "0001.png", "0002.png")
    found = [file.name for file in find_photos(tmp_path / "photos")]
    assert found == [f"{full_size}/0001.png", f"{full_size}/0002.png"]
    left_out = tmp_path / "photos" / others[0].split("/")[0]
    assert f"{left_out}: left out, because by its name it holds smaller" in caplog.text


def test_folders_of_small_photos_without_originals_are_read(tmp_path):
    write(tmp_path / "LR_bicubic" / "X4", "1x4.png")
    write(tmp_path / "LR_bicubic" / "Thrown", "2.png")
    found = [file.name for file in find_photos(tmp_path / "LR_bicubic")]
    assert found == ["Thrown/2.png", "X4/1x4.png"]


def test_resized_copies_of_a_photo_are_left_out(tmp_path, caplog):
    folder = write(tmp_path, "a.png", "a_x4.png", "small/ax2.png", "bx4.png", "x4.png")
    assert [file.name for file in find_photos(folder)] == ["a.png", "bx4.png", "x4.png"]
    assert "2 photos left out, because by their names they are resized" in caplog.text


def test_results_of_restoring_a_photo_are_left_out(tmp_path, caplog):
    results = ("a_x3", "a_w1600", "a_deblurred", "a.png_x4", "RESULTS/a.png_deblurred")
    files = (f"{result}.png" for result in results)
    folder = write(tmp_path, "a.png", *files, "b_deblurred.png", "a_w.png")
    found = [file.name for file in find_photos(folder)]
    assert found == ["a.png", "a_w.png", "b_deblurred.png"]
    assert "5 photos left out, because by their names they are" in caplog.text


def test_a_folder_with_the_layout_of_div2k_has_its_own_validation_set(tmp_path):
    for part in ("train", "valid"):
        write(tmp_path / f"DIV2K_{part}_HR", f"{part}1.png", f"{part}2.png")
        write(tmp_path / f"DIV2K_{part}_LR_bicubic" / "X4", f"{part}1x4.png")
    train, validation = split_names(f"folder:{tmp_path}")
    assert train == ["train1.png", "train2.png"]
    assert validation == ["valid1.png", "valid2.png"]
    other = write(tmp_path / "other", "3.png")
    options = {"validation_source": f"folder:{tmp_path}"}
    assert split_names(f"folder:{other}", **options) == (["3.png"], validation)


# several sources ----------------------------------------------------------------------


def test_several_folders_are_one_source_with_a_share_of_each_held_out(tmp_path):
    for name in ("a", "b/a", "c,folder"):
        write(tmp_path / name, *(f"{i}.png" for i in range(3)))
    folders = [f"folder:{tmp_path}/{name}" for name in ("a", "b/a", "c,folder")]
    split = open_split(",".join(folders))
    train, validation = names(split.train), names(split.validation)
    assert split.train.name == "a+a-2+c,folder"
    assert len(train) == 6 and len(validation) == 3
    assert {name.split("/")[0] for name in train} == {"a", "a-2", "c,folder"}
    assert len({*train, *validation}) == 9
    whole = open_split(",".join(folders[:2]), validation_source=folders[2])
    assert len(names(whole.train)) == 6 and names(whole.validation) == [
        *("0.png", "1.png", "2.png")
    ]


def test_rejects_a_wrong_one_of_several_sources(tmp_path):
    folder = write(tmp_path / "a", "1.png", "2.png")
    with pytest.raises(InputError, match="tfds:div2k cannot be one of several sources"):
        open_split(f"folder:{folder},tfds:div2k")
    with pytest.raises(InputError, match="/absent: no such folder"):
        open_split(f"folder:{folder},folder:/absent")
    with pytest.raises(InputError, match="validation_source='x': expected 'tfds:div2k'"):
        open_split(f"folder:{folder}", validation_source="x")


# folders of runs ----------------------------------------------------------------------


def test_a_workdir_inside_the_source_is_no_part_of_it(photo_folder, caplog):
    workdir = photo_folder / "runs" / "mine"
    write(workdir / "evaluation" / "5", "before_after.png")
    config = tiny_config(photo_folder)
    with caplog.at_level(logging.WARNING):
        sampler, held_out = open_data(config, workdir)
    assert sampler.num_photos == 7 and len(held_out.images) == 1
    assert f"{workdir}: left out, because it belongs to this run" in caplog.text


def test_other_runs_and_results_inside_the_source_are_no_part_of_it(tmp_path, caplog):
    folder = write(tmp_path, "1.png", "old/pictures/2.png", "evaluation/a/3.png")
    (folder / "old" / "photographs.json").touch()
    for suffix in ("json", "csv", "md"):
        (folder / "evaluation" / "a" / f"results.{suffix}").touch()
    assert [file.name for file in find_photos(folder)] == ["1.png"]
    assert caplog.text.count("holds a run or the results of an evaluation") == 2


# several processes --------------------------------------------------------------------


def test_processes_with_different_photos_are_refused(photo_folder, monkeypatch):
    """A second process whose third photo has other pixels is simulated."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def gather(value):
        other = [*value[:2], f"{value[2]}0", *value[3:]] if len(value) > 2 else value
        return [value, other]

    monkeypatch.setattr(distributed, "gather", gather)
    monkeypatch.setattr(setup, "gather", lambda value: [value, value])
    with pytest.raises(InputError, match="their photos of photos differ: process 0 has"):
        open_data(tiny_config(photo_folder))


def test_a_set_with_a_long_name_has_a_file_name_that_every_system_takes(tmp_path):
    folder = write(tmp_path / ("写" * 84), "a.png")
    key = folder_source(folder, "写" * 300).listing().key
    assert len(f"{key}.json".encode()) < 255 and key.startswith("写写")
