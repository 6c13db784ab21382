"""Runs in threads and notebooks, with odd file names, paths, seeds and little memory."""

import asyncio
import json
import os
import threading

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import metrics_rows, tiny_config

from eddsrn_jax import distributed
from eddsrn_jax.data.pack import open_pack
from eddsrn_jax.data.photo_record import open_packs, photo_places, record_photos
from eddsrn_jax.data.source_files import File
from eddsrn_jax.data.sources import folder_source
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.network import evaluate_network
from eddsrn_jax.evaluation.scoring import Scoring
from eddsrn_jax.training import loop
from eddsrn_jax.training.config_checks import check
from eddsrn_jax.training.loop import train_and_evaluate
from eddsrn_jax.training.memory import explaining_memory

ONE_STEP = {"total_steps": 1, "data.pipeline": "resident"}


def test_a_run_works_in_a_thread_with_a_text_path(photo_folder, tmp_path, monkeypatch):
    """In a thread Python allows no signal handlers."""
    monkeypatch.chdir(tmp_path)
    results = []
    config = tiny_config(photo_folder, **ONE_STEP)
    thread = threading.Thread(
        target=lambda: results.append(train_and_evaluate(config, "run"))
    )
    thread.start()
    thread.join()
    assert results == [None]
    assert [row["step"] for row in metrics_rows(tmp_path / "run")] == [1, 1]


def test_a_run_works_inside_the_event_loop_of_a_notebook(photo_folder, tmp_path):
    async def cell():
        return train_and_evaluate(tiny_config(photo_folder, **ONE_STEP), tmp_path / "run")

    assert asyncio.run(cell()) is None
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()


def test_file_names_that_are_not_utf8_are_trained_validated_and_scored(
    photo_folder, tmp_path, capsys
):
    folder = tmp_path / "Fotos \udcfc"
    photo_folder.rename(folder)
    for path in sorted(folder.iterdir()):
        path.rename(folder / f"caf\udce9{path.name}")
    config = tiny_config(folder, **ONE_STEP, **{"data.cache_dir": str(tmp_path / "p")})
    assert train_and_evaluate(config, tmp_path / "run") is None
    (results,) = (tmp_path / "run").glob("evaluation/1/results.json")
    images = {row["image"] for row in json.loads(results.read_text())["images"]}
    assert len(images) == 1 and images.pop().startswith("caf\\xe9photo")
    scored = evaluate_network(
        workdir=str(tmp_path / "run"),
        datasets={"set": str(folder)},
        validation=False,
        scoring=Scoring(sigmas=None, max_photos=2, save_images=True),
        output_dir=str(tmp_path / "out \udcfc"),
    )
    assert len({row.image for row in scored}) == 2
    assert "out \\xfc/results.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("seed", 10**23, "up to 4294967295"),
        ("total_steps", 10**23, "up to 2147483647"),
        ("batch_size", 2**31, "up to 2147483647"),
        ("model.dtype", "float64", "'float32' or 'bfloat16'"),
        ("model.dtype", "float16", "'float32' or 'bfloat16'"),
        ("model.dtype", "float8_e4m3fn", "'float32' or 'bfloat16'"),
    ],
)
def test_check_rejects_values_that_jax_cannot_represent(tmp_path, name, value, expected):
    with pytest.raises(
        InputError, match=f"config.{name}={value!r}: expected .*{expected}"
    ):
        check(tiny_config(tmp_path, **{name: value}))
    check(tiny_config(tmp_path, seed=2**32 - 1))


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"
        ),
        MemoryError("std::bad_alloc"),
    ],
)
def test_lack_of_memory_names_the_values_that_need_less(tmp_path, error):
    config = tiny_config(tmp_path, network="EDDSRN")
    with pytest.raises(InputError) as caught, explaining_memory(config):
        raise error
    message = str(caught.value)
    assert str(error) in message and "\n" not in message
    for remedy in (
        *("a smaller config.batch_size (8)", "a smaller config.data.hr_patch_size (64)"),
        *("config.model.rematerialize=true", "config.model.dtype=bfloat16"),
    ):
        assert remedy in message
    config.model.dtype = "bfloat16"
    with pytest.raises(InputError) as caught, explaining_memory(config):
        raise error
    assert "dtype" not in str(caught.value)


def test_other_errors_of_jax_pass_unchanged(tmp_path):
    with pytest.raises(jax.errors.JaxRuntimeError), explaining_memory(None):
        raise jax.errors.JaxRuntimeError("INTERNAL: x")


def test_a_run_without_memory_ends_with_one_line(photo_folder, tmp_path, monkeypatch):
    def compile_step(*_):
        def step(*_):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

        return step

    monkeypatch.setattr(loop, "compile_step", compile_step)
    with pytest.raises(InputError, match="the training does not fit in the memory of "):
        train_and_evaluate(tiny_config(photo_folder, **ONE_STEP), tmp_path / "run")


def test_processes_with_different_configs_are_refused(
    photo_folder, tmp_path, monkeypatch
):
    """A second process with other steps and another cache is simulated."""

    def gather(value):
        if not isinstance(value, dict):
            return [value]
        return [value, {**value, "config.total_steps": "20"}]

    monkeypatch.setattr(distributed, "gather", gather)
    message = "their settings differ: process 0 has config.total_steps='10', process 1"
    with pytest.raises(InputError, match=message):
        train_and_evaluate(tiny_config(photo_folder), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_processes_may_have_photos_and_caches_in_different_places(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        distributed, "gather", lambda value: seen.append(value) or [value]
    )
    for name in ("a", "b"):
        changes = {"data.cache_dir": name, "pipeline.num_threads": len(seen) + 1}
        config = tiny_config(tmp_path / name, **changes)
        loop._require_same_run(config, tmp_path / "run")
    assert seen[0] == seen[1]


# messages about photos ----------------------------------------------------------------


def test_resuming_without_the_source_names_the_source_of_the_run(photo_folder, tmp_path):
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "5").mkdir(parents=True)
    config = tiny_config(photo_folder)
    wanted = photo_places(config)["wanted"]
    train, validation = open_packs(wanted, tmp_path / "packs", workdir=workdir)
    listings = {"train": train.listing, "validation": validation.listing}
    record_photos(workdir, config, **listings)
    message = f"began with config.data.source=folder:{photo_folder}; give this value"
    with pytest.raises(InputError, match=message):
        open_packs(
            wanted | {"source": "folder:/absent"}, tmp_path / "packs", workdir=workdir
        )


def test_a_moved_run_without_its_packs_is_told_one_thing(photo_folder, tmp_path, caplog):
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "5").mkdir(parents=True)
    config = tiny_config(photo_folder)
    wanted = photo_places(config)["wanted"]
    train, validation = open_packs(wanted, tmp_path / "packs", workdir=workdir)
    listings = {"train": train.listing, "validation": validation.listing}
    record_photos(workdir, config, **listings)
    photo_folder.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="and the pack of photos is not in .*/elsewhere"):
        open_packs(wanted, tmp_path / "elsewhere", workdir=workdir)
    assert "packed copies are used" not in caplog.text


def test_a_photo_of_too_many_megapixels_is_named_with_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000_000)
    path = tmp_path / "big.png"
    Image.fromarray(np.zeros((5000, 5000), np.uint8)).save(path)
    message = r"big.png: cannot be decoded \(it has 25 megapixels, and at most 20 are rea"
    with pytest.raises(InputError, match=message):
        File("big.png", path).read()
    with pytest.raises(InputError, match="none of 1 files can be used .*25 megapixels"):
        open_pack(folder_source(tmp_path), tmp_path / "packs")
    assert os.listdir(tmp_path / "packs") == [".lock-packs"]
