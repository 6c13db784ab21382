"""Which files are restored, and where their results go."""

import contextlib
import errno
import fcntl
import itertools
import json
import logging
import os
import tempfile
import time

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import TwoOutputs

from eddsrn_jax import paths
from eddsrn_jax.errors import UsageError
from eddsrn_jax.images.pictures import read_picture
from eddsrn_jax.models import init_params
from eddsrn_jax.paths import expand_home, printable
from eddsrn_jax.restoration import batch
from eddsrn_jax.restoration.claims import claimed
from eddsrn_jax.restoration.jobs import Limits, Placing
from eddsrn_jax.restoration.restorer import Restorer
from eddsrn_jax.restoration.tiles import Planner, fitted_window

MODEL = TwoOutputs()


@pytest.fixture(scope="module")
def restorer():
    return Restorer(MODEL, init_params(MODEL, jax.random.key(0)))


@pytest.fixture
def restore(restorer, caplog):
    """Returns a function that restores files with the tiny network."""
    caplog.set_level(logging.INFO, "eddsrn_jax")

    def restore(*paths, folder=None, skip_existing=False, **options):
        return batch.restore_files(
            paths,
            lambda: restorer,
            placing=Placing(("sr",), folder=folder, skip_existing=skip_existing),
            limits=Limits(),
            **options,
        )

    return restore


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (90, 60, 30)).save(path)
    return path


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("skip_existing", [False, True])
def test_results_inside_the_input_folder_are_never_inputs(
    restore, tmp_path, skip_existing
):
    save(tmp_path / "a.png")
    save(tmp_path / "deep" / "b.jpg")
    options = {"recursive": True, "folder": tmp_path / "results"}
    report = tmp_path.parent / f"{tmp_path.name}.json"
    for _ in range(3):
        restore(tmp_path, **options, skip_existing=skip_existing, report=report)
        assert names(tmp_path) == [
            *("a.png", "deep/b.jpg", "results/a_x4.png", "results/deep/b_x4.png")
        ]
    left_out = json.loads(report.read_text())["left_out"]
    assert {entry["reason"] for entry in left_out} == {
        "it lies in the folder of the results"
    }
    # A shell's * names the folder of results, too.
    everything = sorted(tmp_path.iterdir())
    jobs = restore(*everything, **options)
    assert [job.path.name for job in jobs] == ["a.png", "b.jpg"]


def test_results_beside_photos_of_one_stem_are_never_inputs(restore, tmp_path):
    for name in ("a.jpg", "a.png", "other.png"):
        save(tmp_path / name)
    for _ in range(2):
        jobs = restore(tmp_path)
        assert {job.status for job in jobs} == {"restored"}
        assert names(tmp_path) == [
            *("a.jpg", "a.jpg_x4.png", "a.png", "a.png_x4.png"),
            *("other.png", "other_x4.png"),
        ]


def test_accepts_unusual_file_names_and_rejects_too_long_ones(restore, tmp_path):
    long = "n" * 249 + ".png"
    ends = ("_x4.png", "_deblurred.png")
    for name in ("naïve 写真.png", long, "-dash.png", "many.dots.png", *ends):
        save(tmp_path / name)
    status = {job.path.name: job for job in restore(tmp_path)}
    error = status.pop(long).error
    assert error.startswith("the result's name would have 256 bytes, more than 255")
    assert {job.status for job in status.values()} == {"restored"}
    for name in ("naïve 写真.png", "many.dots.png", *ends):
        assert (tmp_path / name.replace(".png", "_x4.png")).exists()


def test_a_path_that_cannot_be_examined_fails_alone(restore, tmp_path):
    long, other = save(tmp_path / ("n" * 249 + ".png")), save(tmp_path / "photo.png")
    failed, restored = restore(long, other, skip_existing=True)
    assert (failed.status, restored.status) == ("failed", "restored")


def test_results_that_would_replace_each_other_fail_alone(restore, tmp_path):
    paths = [save(tmp_path / name) for name in ("a.png", "deep/a.png", "b.png")]
    first, second, other = restore(*paths, folder=tmp_path / "out")
    assert other.status == "restored"
    for job, path in ((first, paths[1]), (second, paths[0])):
        assert job.status == "failed"
        assert job.error.endswith(f"a.png_x4.png, as that of {path}")
    assert names(tmp_path / "out") == ["b_x4.png"]


def test_a_result_that_would_replace_an_input_fails_alone(restore, tmp_path):
    paths = [save(tmp_path / name) for name in ("a.png", "a_x4.png", "b.png")]
    content = paths[1].read_bytes()
    first, second, other = restore(*paths)
    assert first.error.endswith("a_x4.png, which is an input too")
    assert second.status == other.status == "restored"
    assert paths[1].read_bytes() == content


def test_files_that_are_left_out_are_in_the_report(restore, tmp_path):
    photos = tmp_path / "photos"
    save(photos / "a.png")
    (photos / "notes.txt").touch()
    (photos / "gone.png").symlink_to("nowhere")
    (photos / "same.png").symlink_to("a.png")
    (photos / "linked").symlink_to(tmp_path)
    report = tmp_path / "report.json"
    restore(photos, recursive=True, report=report)
    found = {
        os.path.basename(entry["input"]): entry["reason"]
        for entry in json.loads(report.read_text())["left_out"]
    }
    assert found.pop("notes.txt").startswith("its name matches none of *.bmp")
    assert found == {
        "gone.png": "it is not a file (a broken link?)",
        "same.png": f"the same file as {photos / 'a.png'}",
        "linked": "a link to a folder",
    }


def test_an_unwritable_folder_is_noticed_before_the_first_photo(
    restore, tmp_path, monkeypatch
):
    path = save(tmp_path / "a.png")
    monkeypatch.setattr(batch, "_restore", lambda *_: pytest.fail("computed"))

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    for folder in (None, tmp_path / "new" / "folder"):
        (job,) = restore(path, folder=folder)
        assert job.error == (
            f"the result cannot be written to {folder or tmp_path}: Read-only file system"
        )


def test_two_processes_that_skip_existing_results_share_the_photos(
    restore, tmp_path, monkeypatch
):
    """While another process holds a photo, the others are restored first."""
    first, second = (save(tmp_path / name) for name in ("a.png", "b.png"))
    order, claim = [], batch.claimed

    @contextlib.contextmanager
    def claimed(path, *, wait):
        if wait:
            # The other process has finished.
            save(tmp_path / "a_x4.png")
            other.close()
        with claim(path, wait=wait) as mine:
            order.append((path, mine))
            yield mine

    monkeypatch.setattr(batch, "claimed", claimed)
    other = first.open("rb")
    fcntl.flock(other, fcntl.LOCK_EX)
    jobs = restore(tmp_path, skip_existing=True)
    assert order == [(first, False), (second, True), (first, True)]
    assert [job.status for job in jobs] == ["skipped", "restored"]


def test_damaged_photos_fail_or_are_restored_with_a_warning(restore, tmp_path):
    path, report = tmp_path / "a.jpg", tmp_path / "report.json"
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + content[len(content) // 2 + 200 :])
    (job,) = restore(path)
    assert job.status == "failed" and "the image data is damaged" in job.error
    restore(path, damaged="restore", report=report)
    (entry,) = json.loads(report.read_text())["files"]
    assert entry["status"] == "restored"
    assert any("parts of the image are damaged" in x for x in entry["warnings"])


def test_names_that_begin_with_a_tilde_are_files_first(restore, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    save(tmp_path / "~tilde.png")
    save(tmp_path / "~folder" / "a.png")
    assert str(expand_home("~/a.png")) == str(tmp_path / "home" / "a.png")
    for name in ("~tilde.png", "~folder", "~no-such-user", "~no-such-user/a.png"):
        assert str(expand_home(name)) == name
    found = restore(*map(expand_home, ("~tilde.png", "~folder", "~no-such-user")))
    assert [job.status for job in found] == ["restored", "restored", "failed"]
    assert read_picture("~tilde_x4.png")[0].shape == (40, 48, 3)
    for argument in ({"workdir": "~no-such-user"}, {"weights": "~no-such-user/w"}):
        with pytest.raises(ValueError, match="no-such-user"):
            Restorer.from_pretrained(**argument)


def test_control_characters_in_names_are_escaped():
    assert printable("a\x1b[31mb\nc\t写é \udcff\u202e") == (
        r"a\x1b[31mb\nc\t写é \xff\u202e"
    )


def test_a_huge_largest_window_is_answered_at_once():
    start = time.perf_counter()
    window = fitted_window((300, 448), halo=80, largest=1_000_000)
    assert window == (304, 448)
    planner = Planner(halo=80, largest=1_000_000)
    planner.fit((100_000_000, 1))
    planner.plan((1000, 1500))
    assert time.perf_counter() - start < 20
    with pytest.raises(UsageError, match="largest_window=1000001: expected a multiple"):
        Planner(halo=80, largest=1_000_001)


def test_fitted_windows_have_the_fewest_pixels_of_all():
    for size in ((100, 119), (700, 1000), (61, 2000)):
        plans = [
            (pixels(size, (height, width)), height, width)
            for height, width in itertools.product(range(8, 257, 8), repeat=2)
            if height * width <= 192**2
        ]
        expected = min(plans)[1:]
        assert fitted_window(size, halo=40, largest=192) == expected


def pixels(size, window):
    """Returns the pixels of all windows that cover a photo, from first principles."""
    total = 1
    for length, side in zip(size, window, strict=True):
        seen = -(-(length + (2 if length % 8 else 0)) // 8) * 8
        count = 1
        if side < seen:
            if side <= 80:
                return float("inf")
            while side + (count - 1) * (side - 80) < seen:
                count += 1
        total *= count * side
    return total


def test_a_shorter_strip_needs_no_more_pixels_than_a_longer_one():
    def cost(size):
        window, tiles = Planner(halo=80, largest=768).plan(size)
        return window[0] * window[1] * len(tiles)

    assert cost((60, 4500)) < cost((60, 9000)) and cost((4500, 60)) < cost((9000, 60))


def test_gray_in_rgb_stays_gray(restorer, photo):
    gray = np.repeat(photo[:40, :48, 1:2], 3, axis=2)
    for name, image in restorer(gray).items():
        assert image.shape[2] == 3
        assert (image == image[:, :, :1]).all()
        np.testing.assert_array_equal(
            image[:, :, 0], getattr(restorer(gray[:, :, 0]), name)
        )


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("photo.jpg", TypeError, "a NumPy array or a Pillow image, not str; read a file"),
        ([[1, 2]], TypeError, "expected a NumPy array or a Pillow image, not list"),
        (
            Image.new("HSV", (9, 9)),
            ValueError,
            "HSV pixels is unknown; convert the image",
        ),
        (np.zeros((9, 9), np.int16), ValueError, "expected uint8, uint16 or float"),
        (np.zeros((9, 9), bool), ValueError, "expected uint8, uint16 or float pixels"),
    ],
)
def test_wrong_images_get_an_error_that_says_what_is_expected(
    restorer, image, error, message
):
    with pytest.raises(error, match=message):
        restorer(image)


def test_big_endian_arrays_are_restored(restorer, photo):
    pixels = photo[:16, :24].astype(np.uint16) * 257
    found = restorer(pixels.astype(">u2"))
    np.testing.assert_array_equal(found.sr, restorer(pixels).sr)
    assert found.sr.dtype == np.uint16


def test_an_unknown_dtype_is_named():
    with pytest.raises(ValueError, match="dtype='int8': expected one of float32, bfloat"):
        Restorer.from_pretrained(dtype="int8")


def test_pillow_results_keep_the_colour_profile(restorer, tmp_path):
    from samples import SRGB

    image = Image.new("RGB", (9, 9))
    image.info["icc_profile"] = SRGB
    restorer(image).sr.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as found:
        assert found.info["icc_profile"] == SRGB


def test_makes_no_restorer_if_there_is_nothing_to_restore(tmp_path):
    jobs = batch.restore_files(
        [tmp_path / "absent.png"],
        lambda: pytest.fail("made"),
        placing=Placing(),
        limits=Limits(),
    )
    assert jobs[0].status == "failed"


@pytest.fixture
def any_case(monkeypatch):
    """Makes all file systems look like those that ignore the case of names."""
    monkeypatch.setattr(paths, "_ignores_case", lambda folder: True)


def test_no_file_is_replaced_where_case_does_not_matter(restore, tmp_path, any_case):
    found = [save(tmp_path / name) for name in ("DSC1.JPG", "dsc1.tif")]
    jobs = restore(*found)
    assert names(tmp_path) == [
        *("DSC1.JPG", "DSC1.JPG_x4.png", "dsc1.tif", "dsc1.tif_x4.png")
    ]
    assert {job.status for job in jobs} == {"restored"}
    other = [save(tmp_path / name) for name in ("a.png", "A_X4.PNG")]
    job, _ = restore(*other)
    assert job.error.endswith("a_x4.png, which is an input too")
    with pytest.raises(UsageError, match="is the input; use --overwrite"):
        placing = Placing(("sr",), path=tmp_path / "DSC1.jpg")
        batch.restore_files(found[:1], pytest.fail, placing=placing, limits=Limits())


def test_photos_that_are_named_like_results_are_in_the_report(restore, tmp_path):
    for name in ("icon.png", "icon_x2.png", "other_x2.png"):
        save(tmp_path / name)
    report = tmp_path.parent / f"{tmp_path.name}.json"
    jobs = restore(tmp_path, report=report)
    assert [job.path.name for job in jobs] == ["icon.png", "other_x2.png"]
    assert json.loads(report.read_text())["left_out"] == [
        {
            "input": str(tmp_path / "icon_x2.png"),
            "reason": "by its name it is a result of icon.png",
        }
    ]


def test_photos_are_restored_unlocked_where_locks_forbid_reading(tmp_path, monkeypatch):
    module = "eddsrn_jax.restoration.claims"
    monkeypatch.setattr(f"{module}._is_readable", lambda path: False)
    photo = save(tmp_path / "a.png")
    with claimed(photo, wait=False) as first, claimed(photo, wait=False) as second:
        assert first and second
