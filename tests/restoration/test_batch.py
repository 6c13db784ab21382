import errno
import json
import logging
import os
import time

import jax
import numpy as np
import pytest
from PIL import Image
from samples import KINDS, SRGB, encoded, exif, smooth
from tiny import TwoOutputs

from eddsrn_jax.errors import InputError, UsageError
from eddsrn_jax.evaluation.baselines.bicubic import bicubic
from eddsrn_jax.evaluation.inputs import degrade_photo
from eddsrn_jax.images.pictures import fit_to_format, read_header, read_picture
from eddsrn_jax.images.pixels import convert
from eddsrn_jax.models import init_params
from eddsrn_jax.restoration import batch
from eddsrn_jax.restoration.jobs import Limits, Placing
from eddsrn_jax.restoration.restorer import Restorer

MODEL = TwoOutputs()
BOTH = ("sr", "deblurred")


@pytest.fixture(scope="module")
def restorer():
    # Small weights give smooth results, which lossy formats keep.
    params = jax.tree.map(lambda x: 0.1 * x, init_params(MODEL, jax.random.key(0)))
    return Restorer(MODEL, params)


@pytest.fixture
def restore(restorer, tmp_path, caplog):
    """Returns a function that restores files with the tiny network.

    It also checks that no temporary file is left behind.
    """
    caplog.set_level(logging.INFO, "eddsrn_jax")

    def restore(*paths, outputs=BOTH, limits=None, by=restorer, **options):
        placing = {
            name: options.pop(name)
            for name in (
                "path",
                "folder",
                "suffix",
                "overwrite",
                "skip_existing",
                "scale",
            )
            if name in options
        }
        try:
            return batch.restore_files(
                paths,
                lambda: by,
                placing=Placing(outputs=outputs, **placing),
                limits=limits or Limits(),
                **options,
            )
        finally:
            assert not list(tmp_path.rglob(".eddsrn*"))

    return restore


@pytest.fixture
def blurry(photo):
    """Returns a small photo with a blur in the trained range, sigma 1.5."""
    return degrade_photo(photo, 1.5, max_sigma=2.0)[1]


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_writes_what_the_restorer_returns(restore, restorer, blurry, tmp_path):
    path = save(tmp_path / "photo.png", blurry)
    (job,) = restore(path)
    expected = restorer(blurry)
    for name, ending in (("sr", "_x4"), ("deblurred", "_deblurred")):
        assert job.targets[name] == tmp_path / f"photo{ending}.png"
        found, _ = read_picture(job.targets[name])
        np.testing.assert_array_equal(found, getattr(expected, name))
    assert job.status == "restored" and not job.warnings
    assert 1.2 < job.sigma < 1.8


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("name", KINDS)
def test_results_keep_bit_depth_and_alpha(restore, restorer, tmp_path, name, suffix):
    path = tmp_path / name
    path.write_bytes(KINDS[name])
    pixels, _ = read_picture(path)
    (job,) = restore(path, suffix=suffix)
    assert job.status == "restored"
    expected = restorer(pixels)
    for output in BOTH:
        found, _ = read_picture(job.targets[output])
        assert found.dtype == pixels.dtype
        np.testing.assert_array_equal(found, getattr(expected, output))


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
@pytest.mark.parametrize("name", ["LA16.tif", "RGBA16.tif", "L.png"])
def test_warns_of_bit_depth_or_alpha_lost_to_the_output_format(
    restore, restorer, tmp_path, name, suffix
):
    path = tmp_path / name
    path.write_bytes(KINDS[name])
    pixels, _ = read_picture(path)
    header = read_header(path)
    channels, dtype, losses = fit_to_format(suffix, header)
    (job,) = restore(path, suffix=suffix)
    assert job.status == "restored" and set(losses) <= set(job.warnings)
    assert len(losses) == (name != "L.png") + (name != "L.png" and suffix != ".webp")
    found, _ = read_picture(job.targets["sr"])
    expected = convert(restorer(pixels).sr, channels, dtype)
    opaque = expected[:, :, -1] > 0 if channels in (2, 4) else ...
    # JPEG and WebP are lossy.
    error = np.abs(found.astype(int) - expected)[opaque]
    assert found.shape == expected.shape and np.mean(error) < (
        1 if suffix == ".bmp" else 3
    )


def test_results_keep_the_metadata_of_the_photo(restore, tmp_path):
    path = tmp_path / "photo.jpg"
    image = Image.fromarray(smooth(3, np.uint8))
    content = encoded(image, "JPEG", exif=exif(6), icc_profile=SRGB, dpi=(300, 300))
    path.write_bytes(content)
    (job,) = restore(path)
    with Image.open(job.targets["sr"]) as found:
        # The pixels are turned upright, and the orientation tag says so.
        assert found.size == (160, 240)
        assert found.getexif()[0x0112] == 1 and found.getexif()[0x010F] == "Maker"
        assert found.info["icc_profile"] == SRGB
        assert found.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert path.read_bytes() == content


def test_restores_good_files_and_reports_bad_ones(restore, blurry, tmp_path):
    folder = tmp_path / "photos"
    save(folder / "good.png", blurry)
    save(folder / "last.jpg", blurry)
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("no photograph")
    cut = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(cut[: len(cut) // 2])
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "folder.png").mkdir()
    report = tmp_path / "report.json"
    jobs = restore(folder, folder / "loop.png", folder / "absent.png", report=report)
    found = {
        os.path.basename(entry["input"]): entry
        for entry in json.loads(report.read_text())["files"]
    }
    assert len(jobs) == len(found)
    assert {name for name, e in found.items() if e["status"] == "restored"} == {
        *("good.png", "last.jpg")
    }
    reasons = {name: e["error"] for name, e in found.items() if e["status"] == "failed"}
    assert set(reasons) == {
        *("empty.png", "text.jpg", "cut.png", "loop.png", "absent.png")
    }
    assert reasons["absent.png"] == reasons["loop.png"] == "no such file or folder"
    assert reasons["text.jpg"].startswith("not a readable image")
    good = found["good.png"]
    assert (good["width"], good["height"]) == (112, 75)
    assert good["outputs"]["sr"] == str(folder / "good_x4.png")
    assert good["seconds"] > 0 and 1 < good["estimated_sigma"] < 2
    assert not any(found[name]["outputs"] for name in reasons)


def test_an_empty_folder_fails(restore, tmp_path):
    (job,) = restore(tmp_path)
    assert job.status == "failed" and job.error.startswith("no images found")


def test_recursive_restoring_mirrors_the_input_folders(restore, blurry, tmp_path):
    photos, results = tmp_path / "photos", tmp_path / "results"
    for name in ("a.png", "deep/er/b.jpg", "deep/c.tif", ".hidden/d.png", ".e.png"):
        save(photos / name, blurry[:20, :20])
    restore(photos, folder=results, outputs=["sr"])
    assert names(results) == ["a_x4.png"]
    # A photo that is named twice is restored once.
    again = (photos, photos / "deep", photos / "deep/../a.png")
    jobs = restore(*again, folder=results, outputs=["sr"], recursive=True)
    assert len(jobs) == 3
    assert names(results) == ["a_x4.png", "deep/c_x4.png", "deep/er/b_x4.png"]


def test_does_not_restore_its_own_results(restore, blurry, tmp_path):
    for name in ("a.png", "alone_x4.png"):
        save(tmp_path / name, blurry[:20, :20])
    restore(tmp_path)
    restore(tmp_path)
    assert names(tmp_path) == [
        *("a.png", "a_deblurred.png", "a_x4.png"),
        *("alone_x4.png", "alone_x4_deblurred.png", "alone_x4_x4.png"),
    ]


def test_skip_existing_makes_missing_results_only(restore, blurry, tmp_path):
    path = save(tmp_path / "photo.png", blurry)
    old = save(tmp_path / "photo_x4.png", blurry[:4, :4])
    (job,) = restore(path, skip_existing=True)
    assert list(job.targets) == ["deblurred"] and read_header(old).width == 4
    (job,) = restore(path, skip_existing=True)
    assert job.status == "skipped"
    restore(path)
    assert read_header(old).width == 448


@pytest.mark.parametrize(
    "paths, options, message",
    [
        (["a.png"], {"path": "a.png"}, "a.png is the input; use --overwrite to"),
        (["a.png"], {"path": "link.png"}, "link.png is the input"),
        (
            ["a.png", "a.jpg"],
            {"path": "b.png"},
            "b.png names one file, but there are 2 photos with 1 result",
        ),
        (["a.png"], {"report": "a.png"}, "--report=.*a.png would replace a photo"),
        (["a.png"], {"report": "a_x4.png"}, "--report=.*x4.png would replace a photo"),
    ],
)
def test_refuses_an_output_or_report_that_would_overwrite_a_file(
    restore, blurry, tmp_path, paths, options, message
):
    for name in ("a.png", "a.jpg", "deep/a.png", "a_x4.png"):
        save(tmp_path / name, blurry[:20, :20])
    (tmp_path / "link.png").symlink_to("a.png")
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    options = {name: tmp_path / value for name, value in options.items()}
    with pytest.raises(UsageError, match=message):
        restore(*(tmp_path / name for name in paths), outputs=["sr"], **options)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_overwrite_replaces_the_input(restore, restorer, blurry, tmp_path):
    path = save(tmp_path / "photo.png", blurry)
    restore(path, path=path, outputs=["deblurred"], overwrite=True)
    found, _ = read_picture(path)
    np.testing.assert_array_equal(found, restorer(blurry).deblurred)


def test_checks_size_limits_before_decoding(restore, blurry, tmp_path, monkeypatch):
    path = save(tmp_path / "photo.png", blurry)
    monkeypatch.setattr(batch, "read_picture", lambda _: pytest.fail("decoded"))
    (job,) = restore(path, limits=Limits(input_pixels=8399))
    assert "112x75 pixels make 0.0084 megapixels of input, more than" in job.error
    (job,) = restore(path, limits=Limits(output_pixels=17 * 8400 - 1))
    assert "0.1428 megapixels of output, more than --max_output_megapixels" in job.error
    wide = save(tmp_path / "wide.png", np.zeros((1, 4200, 3), np.uint8))
    (job,) = restore(wide, suffix=".webp")
    assert job.error == (
        "16800x4 pixels are too many for WebP, whose sides have at most 16,383 pixels"
    )


@pytest.mark.parametrize("size", [(60, 80, 3), (75, 112), (80, 120, 3)])
def test_a_photo_that_is_replaced_by_another_one_fails_alone(
    restore, blurry, tmp_path, monkeypatch, size
):
    def replace_and_read(path, **options):
        if path.name == "a.png":
            save(path, np.zeros(size, np.uint8))
        return read_picture(path, **options)

    paths = [save(tmp_path / name, blurry) for name in ("a.png", "b.png")]
    monkeypatch.setattr(batch, "read_picture", replace_and_read)
    replaced, other = restore(*paths, outputs=["deblurred"])
    assert replaced.error == "the file was replaced by another one since it was found"
    assert not replaced.targets["deblurred"].exists()
    assert other.status == "restored"


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (9, 2)])
def test_restores_tiny_and_narrow_photos(restore, tmp_path, size):
    (job,) = restore(save(tmp_path / "photo.png", np.full((*size, 3), 70, np.uint8)))
    assert read_header(job.targets["sr"]).height == 4 * size[0]
    assert read_header(job.targets["deblurred"]).width == size[1]


def test_warns_once_of_blur_outside_the_trained_range(restore, photo, tmp_path):
    sharp = save(tmp_path / "sharp.png", photo)
    blurred = degrade_photo(photo, 4.0, max_sigma=4.0)[1]
    blurred = save(tmp_path / "blurred.png", blurred)
    first, second = restore(sharp, blurred)
    (warning,) = first.warnings
    assert warning.startswith("the photo is sharper than the training photos of")
    assert "theirs 1 to 2 pixels" in warning
    (warning,) = second.warnings
    assert warning.startswith("the photo is blurrier than")
    # With strength 0 nothing is deblurred, so there is nothing to warn of.
    (job,) = restore(sharp, strength=0.0)
    assert not job.warnings


def test_strength_zero_returns_bicubic_and_the_input(restore, blurry, tmp_path):
    (job,) = restore(save(tmp_path / "photo.png", blurry), strength=0.0)
    found, _ = read_picture(job.targets["sr"])
    assert np.abs(found - bicubic(blurry).sr.astype(int)).max() <= 1
    found, _ = read_picture(job.targets["deblurred"])
    np.testing.assert_array_equal(found, blurry)


@pytest.mark.parametrize("by", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_reported_and_leaves_no_partial_file(
    restore, restorer, blurry, tmp_path, monkeypatch, by
):
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / name, blurry[:20, :20])
    write = batch.write_picture

    def interrupted(path, *rest):
        messages = write(path, *rest)
        # These are the report, three photos, the first photo's two results, and the
        # temporary file of the second photo's first result.
        if len(names(tmp_path)) == 7:
            raise by
        return messages

    monkeypatch.setattr(batch, "write_picture", interrupted)
    with pytest.raises(by):
        restore(tmp_path, report=tmp_path / "report.json")
    files = json.loads((tmp_path / "report.json").read_text())["files"]
    assert [entry["status"] for entry in files] == [
        *("restored", "interrupted", "not started")
    ]
    assert "b_x4.png" not in names(tmp_path)


def test_an_error_while_restoring_fails_only_its_file(
    restore, restorer, blurry, tmp_path, monkeypatch
):
    class Fails(Restorer):
        def blocks(self, pixels, **options):
            for name, error in errors.items():
                if len(pixels) == name:
                    raise error
            yield from super().blocks(pixels, **options)

    errors = {
        9: FloatingPointError("the network's result is not finite"),
        10: MemoryError(),
        11: jax.errors.JaxRuntimeError("INTERNAL: a device\nfailed"),
    }
    for height in (9, 10, 11, 12):
        save(tmp_path / f"{height}.png", blurry[:height])
    found = {
        int(j.path.stem): j for j in restore(tmp_path, by=Fails(MODEL, restorer._params))
    }
    assert found[9].error == "the network's result is not finite"
    assert found[10].error == "MemoryError"
    assert found[11].error == "JaxRuntimeError INTERNAL: a device failed"
    assert found[12].status == "restored"
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(batch, "write_picture", lambda *_: (_ for _ in ()).throw(full))
    (job,) = restore(tmp_path / "12.png")
    assert job.error == "No space left on device"


def test_rejects_unwritable_outputs_and_reports(restore, blurry, tmp_path, monkeypatch):
    path = save(tmp_path / "photo.png", blurry)
    (tmp_path / "photo_deblurred.png").mkdir()
    (job,) = restore(path)
    assert job.error.endswith("photo_deblurred.png is a folder")
    monkeypatch.setattr(batch, "_restore", lambda *_: pytest.fail("restored"))
    with pytest.raises(InputError, match="--report=.*: cannot be written"):
        restore(path, outputs=["sr"], report=tmp_path / "absent" / "report.json")
    with pytest.raises(InputError, match="--output_dir=.*photo.png: the folder cannot"):
        restore(path, outputs=["sr"], folder=path)


def test_logs_a_summary_of_counts_megapixels_and_seconds(
    restore, blurry, tmp_path, caplog
):
    save(tmp_path / "a.png", blurry)
    start = time.perf_counter()
    restore(tmp_path, tmp_path / "absent.png")
    found = caplog.messages[-1]
    assert found.startswith("1 restored, 1 failed, 0.0084 megapixels at ")
    seconds = float(found.rpartition("(")[2].removesuffix(" s)"))
    assert 0 <= seconds <= time.perf_counter() - start + 0.1
