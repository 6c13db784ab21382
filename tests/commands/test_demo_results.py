"""The web page's results and messages, tested without a browser."""

import functools
import threading
import zipfile
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image
from samples import SRGB, encoded, smooth
from tiny import SMALL

from eddsrn_jax.commands.demo_page import make_handlers
from eddsrn_jax.commands.demo_results import (
    before,
    in_page_words,
    restore_all,
    restore_upload,
    show,
    write_zip,
)
from eddsrn_jax.images.metadata import Metadata
from eddsrn_jax.images.pictures import read_picture, write_picture
from eddsrn_jax.models import EDDSRN, init_params
from eddsrn_jax.ops.resize import bicubic_upscale
from eddsrn_jax.restoration.restorer import Restorer


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_both_halves_of_the_slider_have_the_same_kind_of_pixels(
    tmp_path, channels, dtype
):
    pixels = np.maximum(smooth(channels, dtype, 12, 16), 1)
    path, result = tmp_path / "photo.png", tmp_path / "photo_x4.png"
    icc = SRGB if channels > 2 else None
    write_picture(path, pixels, Metadata(icc))
    write_picture(result, pixels.repeat(4, 0).repeat(4, 1), Metadata(icc))
    found, metadata = read_picture(before(path, result))
    assert metadata.icc == icc and found.dtype == dtype
    assert found.shape == (48, 64, channels)
    expected = bicubic_upscale(pixels[None].astype(np.float64), 4)[0]
    expected = expected.clip(0, np.iinfo(dtype).max)
    assert np.abs(found - expected).max() <= 0.5 + 1e-2
    # Beside a result of the same size it is the photo itself.
    np.testing.assert_array_equal(read_picture(before(path, path))[0], pixels)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    model = EDDSRN(**SMALL)
    restorer = Restorer(model, init_params(model, jax.random.key(0)))
    folder = tmp_path_factory.mktemp("page")

    def work(path, _, strength):
        return restore_upload(
            path, restorer, folder, strength=strength, max_input_pixels=1e6
        )

    return work


def test_an_error_clears_the_results_and_names_no_flags(work, tmp_path):
    path = tmp_path / "my_photo.png"
    path.write_bytes(encoded(Image.new("RGB", (2000, 1000)), "PNG"))
    *results, note = show(work, path, "photo", 1.0)
    assert results == [None] * 4
    assert note == (
        r"**Not restored.** my\_photo.png: 2000x1000 pixels make 2 megapixels of input,"
        " more than the 1 that this page accepts"
    )
    path.write_text("no photo")
    *results, note = show(work, path, "photo", 1.0)
    assert results == [None] * 4 and "not a readable image" in note


def test_a_restored_photo_fills_sliders_downloads_and_note(work, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(Image.fromarray(smooth(3, np.uint8, 12, 16)), "PNG"))
    sr, deblurred, sr_file, deblurred_file, note = show(work, path, "photo", 1.0)
    for slider, file, size in ((sr, sr_file, 64), (deblurred, deblurred_file, 16)):
        assert slider[1] == file
        assert [read_picture(x)[0].shape[1] for x in slider] == [size] * 2
    assert note.startswith("**photo.png**: 16 x 12 became 64 x 48 pixels in")


@pytest.mark.parametrize("cancel_after", [None, 2])
def test_photos_are_restored_in_turn_until_the_work_is_cancelled(
    work, tmp_path, cancel_after
):
    paths = [tmp_path / name for name in ("a.png", "bad.png", "c.png")]
    for i, path in enumerate(paths):
        path.write_bytes(encoded(Image.fromarray(smooth(3, np.uint8, 8 + i, 12)), "PNG"))
    paths[1].write_text("no photo")
    steps = []
    cancelled = lambda: len(steps) == cancel_after  # noqa: E731
    for step in restore_all(
        functools.partial(show, work), paths, "photo", 1.0, cancelled
    ):
        steps.append(step)
    names = ["1. a.png", "2. bad.png", "3. c.png"][:cancel_after]
    assert [[*results] for results, _ in steps] == [
        names[:i] for i in range(len(names) + 1)
    ]
    assert steps[1][1].endswith("seconds.\n\nRestoring photo 2 of 3.")
    results, note = steps[-1]
    assert results["2. bad.png"][:4] == (None,) * 4
    assert "**a.png**: 12 x 8 became 48 x 32" in note and "**Not restored.** bad" in note
    if cancel_after:
        assert note.endswith("**Cancelled.** 1 of 3 photos are not restored.")
    else:
        assert note.endswith("network or strength, press Restore again.")
        assert read_picture(results["3. c.png"][2])[0].shape == (40, 48, 3)


def test_the_archive_has_every_result_under_a_name_of_its_own(tmp_path):
    paths = []
    for i, name in enumerate(("a_x4.png", "a_x4.png", "b_x4.png", "a_x4.png")):
        paths.append(tmp_path / str(i) / name)
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(bytes([i]))
    with zipfile.ZipFile(write_zip([*map(str, paths)], tmp_path / "all.zip")) as archive:
        contents = {name: archive.read(name)[0] for name in archive.namelist()}
    assert contents == {"a_x4.png": 0, "a_x4-2.png": 1, "b_x4.png": 2, "a_x4-3.png": 3}


@pytest.fixture
def deletions(monkeypatch):
    """Collects the deletions that are to come, as functions."""
    due = []

    def timer(_, function, arguments):
        due.append(functools.partial(function, *arguments))
        return mock.Mock()

    monkeypatch.setattr(threading, "Timer", timer)
    return due


def test_new_results_of_a_page_replace_its_earlier_ones(work, deletions, tmp_path):
    gradio = mock.MagicMock()
    run, _, _, close = make_handlers(gradio, functools.partial(show, work), tmp_path)
    path = tmp_path / "photo.png"
    Image.new("RGB", (9, 8), (90, 60, 30)).save(path)

    def restored(session):
        *_, (*files, _, _, _, _, _) = run([(path, None)], "", 1.0, session)
        return [Path(file) for pair in files[:2] for file in pair]

    first, other = mock.Mock(session_hash="a"), mock.Mock(session_hash="b")
    files, kept = restored(first), restored(other)
    assert all(file.exists() for file in files + kept)
    new = restored(first)
    # A browser may still be fetching the earlier ones.
    assert all(file.exists() for file in files)
    deletions.pop()()
    assert not any(file.exists() for file in files)
    # The page shows the results until the next ones are there.
    step = run([(path, None)], "", 1.0, first)
    next(step)
    assert not deletions and all(file.exists() for file in new)
    step.close()
    close(first)
    assert all(file.exists() for file in new + kept)
    for _ in range(len(deletions)):
        deletions.pop()()
    assert not any(file.exists() for file in new)
    assert all(file.exists() for file in kept)


def test_a_page_that_is_closed_during_a_photo_leaves_no_results(
    work, deletions, tmp_path
):
    session, made = mock.Mock(session_hash="a"), []

    def close_during(*arguments):
        results = work(*arguments)
        made.extend(results[0].values())
        if len(made) > 2:
            close(session)
        return results

    run, _, _, close = make_handlers(
        mock.MagicMock(), functools.partial(show, close_during), tmp_path
    )
    path = tmp_path / "photo.png"
    Image.new("RGB", (9, 8), (90, 60, 30)).save(path)
    assert len(list(run([(path, None)] * 3, "", 1.0, session))) == 2
    for delete in deletions:
        delete()
    assert len(made) == 4 and not any(file.exists() for file in made)


def test_a_page_that_is_closed_during_the_archive_leaves_no_results(
    work, deletions, tmp_path, monkeypatch
):
    session, archives = mock.Mock(session_hash="a"), []

    def close_during(files, target):
        close(session)
        archives.append(target)
        return write_zip(files, target)

    monkeypatch.setattr("eddsrn_jax.commands.demo_page.write_zip", close_during)
    run, _, _, close = make_handlers(
        mock.MagicMock(), functools.partial(show, work), tmp_path
    )
    path = tmp_path / "photo.png"
    Image.new("RGB", (9, 8), (90, 60, 30)).save(path)
    list(run([(path, None)] * 2, "", 1.0, session))
    assert archives[0].exists()
    for delete in deletions:
        delete()
    assert [*tmp_path.iterdir()] == [path]


def test_a_page_that_was_taken_for_closed_restores_again(work, tmp_path):
    session, path = mock.Mock(session_hash="a"), tmp_path / "photo.png"
    Image.new("RGB", (9, 8), (90, 60, 30)).save(path)
    run, _, _, close = make_handlers(
        mock.MagicMock(), functools.partial(show, work), tmp_path
    )
    close(session)
    *_, (sr, *_) = run([(path, None)], "", 1.0, session)
    assert all(Path(file).exists() for file in sr)


def test_messages_of_the_command_become_those_of_the_page():
    assert in_page_words("oversharpened (a lower --strength helps)") == (
        "oversharpened; a lower strength helps"
    )
    assert "--" not in in_page_words("more than 255; choose another name with --output")
