"""Files that cannot be decoded, and photo folders that change while a run is stopped."""

import collections
import errno
import io
import json
import random
import shutil
import struct
import warnings
import zlib

import imagecodecs
import jax
import ml_collections
import numpy as np
import pytest
from PIL import Image
from processes import command
from tiny import final_state, metrics_rows, tiny_config, tiny_flags

from eddsrn_jax.data.pack import open_pack
from eddsrn_jax.data.photo_record import open_validation, photo_places, record_photos
from eddsrn_jax.data.sources import File, folder_source, open_split
from eddsrn_jax.errors import InputError
from eddsrn_jax.images import read_image
from eddsrn_jax.training.config_checks import check
from eddsrn_jax.training.loop import train_and_evaluate
from eddsrn_jax.training.setup import open_data

# stopping at a bad file ---------------------------------------------------------------


def test_open_pack_can_raise_at_the_first_undecodable_file(photo_folder, tmp_path):
    (photo_folder / "photo3.png").write_bytes(b"")
    (photo_folder / "photo5.png").write_bytes(b"no image")
    source, cache = folder_source(photo_folder), tmp_path / "cache"
    first = rf"^{photo_folder}/photo3.png: cannot be decoded"
    with pytest.raises(InputError, match=first):
        open_pack(source, cache, on_error="raise")
    assert [path.name for path in cache.iterdir()] == [".lock-packs"]
    # A pack that was made without the bad files still names them.
    assert len(open_pack(source, cache).images) == 6
    with pytest.raises(InputError, match=first):
        open_pack(source, cache, on_error="raise")


@pytest.mark.parametrize(
    "error", [*map(OSError, (24, errno.ESTALE), "ab"), MemoryError()]
)
def test_a_photo_that_cannot_be_read_at_present_is_not_left_out(
    photo_folder, tmp_path, monkeypatch, error
):
    read = File.read_pair

    def fail(file):
        if file.name != "photo3.png":
            return read(file)
        raise InputError("photo3.png: cannot be decoded") from error

    monkeypatch.setattr(File, "read_pair", fail)
    source, cache = folder_source(photo_folder), tmp_path / "cache"
    with pytest.raises(InputError, match="photo3.png: cannot be decoded"):
        open_pack(source, cache)
    monkeypatch.undo()
    assert len(open_pack(source, cache).images) == 8


def test_config_chooses_to_skip_undecodable_files_or_to_raise(photo_folder):
    (photo_folder / "photo3.png").write_bytes(b"")
    open_data(tiny_config(photo_folder))
    with pytest.raises(InputError, match="photo3.png: cannot be decoded"):
        open_data(tiny_config(photo_folder, **{"data.on_error": "raise"}))
    with pytest.raises(InputError, match="on_error='stop': expected 'skip' or 'raise'"):
        check(tiny_config(photo_folder, **{"data.on_error": "stop"}))


def declare(data, size):
    """Returns TIFF bytes whose first directory declares another width and height."""
    data = bytearray(data)
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag = struct.unpack_from("<H", data, at)[0]
        if tag in (256, 257):
            struct.pack_into("<HHII", data, at, tag, 4, 1, size)
    return bytes(data)


def test_pack_reserves_no_space_for_a_falsely_declared_image_size(
    photo_folder, tmp_path, monkeypatch, caplog
):
    wide = imagecodecs.tiff_encode(np.zeros((64, 64, 3), np.uint16))
    (photo_folder / "huge.tif").write_bytes(declare(wide, 60_000))
    usage = collections.namedtuple("usage", "total used free")(0, 0, 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    pack = open_pack(folder_source(photo_folder), tmp_path / "cache")
    assert len(pack.images) == 8
    assert caplog.text.count("huge.tif") == 1
    (data,) = (tmp_path / "cache").glob("*.u8")
    assert data.stat().st_size == sum(image.size for image in pack.images)


# changed folders ----------------------------------------------------------------------


@pytest.fixture
def begun(photo_folder, tmp_path):
    """Begins a run with a checkpoint; returns its config, its workdir and a batch."""
    config, workdir = tiny_config(photo_folder), tmp_path / "run"
    (workdir / "checkpoints").mkdir(parents=True)
    sampler, held_out = open_data(config, workdir)
    listings = {"train": sampler.listing, "validation": held_out.listing}
    record_photos(workdir, config, **listings)
    (workdir / "checkpoints" / "5").mkdir()
    return config, workdir, sampler.batch(7)


def change(folder):
    (folder / "photo1.png").unlink()
    Image.new("RGB", (100, 100)).save(folder / "photo2.png")
    for i in range(5):
        Image.new("RGB", (100, 100)).save(folder / f"new{i}.png")


def test_records_the_photos_of_a_run_in_its_workdir(begun, photo_folder):
    _, workdir, _ = begun
    record = json.loads((workdir / "photographs.json").read_text())
    assert record["wanted"]["source"] == f"folder:{photo_folder}"
    listed = sorted(record["train"]["files"] + record["validation"]["files"])
    expected = [
        [str(path), path.stat().st_size, path.stat().st_mtime_ns]
        for path in sorted(photo_folder.iterdir())
    ]
    assert listed == expected
    assert len(record["validation"]["files"]) == 1


def test_rejects_a_source_or_cache_dir_that_is_not_text(begun):
    config, *_ = begun
    for name in ("source", "cache_dir"):
        values = config.to_dict()
        values["data"][name] = 5
        with pytest.raises(InputError, match=f"config.data.{name}=5: expected text"):
            photo_places(ml_collections.ConfigDict(values))


def test_an_unchanged_folder_is_not_read_again(begun, monkeypatch, caplog):
    config, workdir, batch = begun
    monkeypatch.setattr(File, "read", None)
    sampler, _ = open_data(config, workdir)
    np.testing.assert_array_equal(sampler.batch(7)["hr"], batch["hr"])
    assert not caplog.text


def test_packs_an_unchanged_folder_again_if_its_pack_is_missing(begun, tmp_path):
    config, workdir, batch = begun
    shutil.rmtree(tmp_path / "packs")
    sampler, _ = open_data(config, workdir)
    np.testing.assert_array_equal(sampler.batch(7)["hr"], batch["hr"])
    # A truncated pack counts as missing.
    for path in (tmp_path / "packs").glob("*.u8"):
        path.write_bytes(path.read_bytes()[:1000])
    sampler, _ = open_data(config, workdir)
    np.testing.assert_array_equal(sampler.batch(7)["hr"], batch["hr"])


def test_rejects_a_changed_folder_if_its_pack_is_missing(begun, photo_folder, tmp_path):
    config, workdir, batch = begun
    change(photo_folder)
    shutil.rmtree(tmp_path / "packs")
    with pytest.raises(InputError) as caught:
        open_data(config, workdir)
    message = str(caught.value)
    assert message.startswith(f"{workdir}/photographs.json: the run's photos have ch")
    assert f"1 changed: {photo_folder}/photo2.png" in message
    assert f"the pack of photos is not in {tmp_path}/packs; restore" in message
    assert "or delete this file to continue" in message and "\n" not in message
    # Without the record the run takes the photos that are there, as the error says.
    (workdir / "photographs.json").unlink()
    sampler, _ = open_data(config, workdir)
    assert sampler.num_photos == 11
    assert not np.array_equal(sampler.batch(7)["hr"], batch["hr"])


def test_a_run_without_checkpoints_uses_a_changed_folder(begun, photo_folder):
    config, workdir, _ = begun
    (workdir / "checkpoints" / "5").rmdir()
    change(photo_folder)
    sampler, _ = open_data(config, workdir)
    assert sampler.num_photos == 11
    assert any(path.endswith("new0.png") for path, *_ in sampler.listing.files)


def test_a_run_uses_another_source_if_its_config_names_one(begun, photo_folder, caplog):
    _, workdir, _ = begun
    other = shutil.copytree(photo_folder, photo_folder.parent / "others")
    change(other)
    sampler, _ = open_data(tiny_config(other), workdir)
    assert sampler.num_photos == 11 and not caplog.text


def test_rejects_a_damaged_record_of_photos(begun):
    config, workdir, _ = begun
    for text in ("", "{}", '{"train": {"files": 3}}', "[]"):
        (workdir / "photographs.json").write_text(text)
        with pytest.raises(InputError, match=r"photographs.json: cannot be read \("):
            open_data(config, workdir)


def test_held_out_photos_stay_the_same_when_the_folder_changes(
    begun, photo_folder, tmp_path, caplog
):
    """Without the record, changed files could move training photos to validation."""
    config, workdir, _ = begun
    _, held_out = open_data(config, workdir)
    (file,) = open_validation(**photo_places(config), workdir=workdir).files()
    assert file.content == photo_folder / held_out.names[0]
    assert not caplog.text
    change(photo_folder)
    (photo_folder / held_out.names[0]).unlink()
    (now,) = open_split(f"folder:{photo_folder}").validation.files()
    (file,) = open_validation(**photo_places(config), workdir=workdir).files()
    assert file.name == held_out.names[0] != now.name
    np.testing.assert_array_equal(file.read(), held_out.images[0])
    assert "5 added: " in caplog.text
    shutil.rmtree(tmp_path / "packs")
    with pytest.raises(InputError, match="and the pack of photos-val is not in "):
        open_validation(**photo_places(config), workdir=workdir)


def test_warns_of_a_deleted_folder_and_uses_its_pack(begun, photo_folder, caplog):
    config, workdir, batch = begun
    shutil.rmtree(photo_folder)
    sampler, held_out = open_data(config, workdir)
    np.testing.assert_array_equal(sampler.batch(7)["hr"], batch["hr"])
    assert [len(image) for image in held_out.images] == [96]
    assert caplog.messages == [
        f"{workdir}/photographs.json: the run's photos have changed since it began"
        f" ({photo_folder}: no such folder); the packed copies are used"
    ]


def test_a_run_resumes_bit_for_bit_after_its_folder_changes(finished, tmp_path, caplog):
    folder, reference = finished
    folder = shutil.copytree(folder, tmp_path / "photos")
    config, workdir = tiny_config(folder), tmp_path / "run"
    train_and_evaluate(config, workdir, max_minutes=0.0)
    change(folder)
    assert train_and_evaluate(config, workdir) is None
    warned = [x.message for x in caplog.records if x.levelname == "WARNING"]
    assert warned == [
        f"{workdir}/photographs.json: the run's photos have changed since it began"
        f" (5 added: {folder}/new0.png, {folder}/new1.png, {folder}/new2.png ...;"
        f" 1 removed: {folder}/photo1.png; 1 changed: {folder}/photo2.png); the packed"
        " copies are used"
    ]
    jax.tree.map(
        np.testing.assert_array_equal,
        final_state(workdir, 10),
        final_state(reference, 10),
    )
    assert metrics_rows(workdir) == metrics_rows(reference)
    # The final table scores the photos that the run was validated on.
    assert evaluated(workdir) == evaluated(reference)


def evaluated(workdir):
    # Later evaluations of the step are ignored; their folders end in "-2" and so on.
    paths = workdir.glob("evaluation/*/results.json")
    (path,) = (path for path in paths if path.parent.name.isdigit())
    rows = json.loads(path.read_text())["images"]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


# mutated files ------------------------------------------------------------------------

FORMATS = {"png": "PNG", "jpg": "JPEG", "tif": "TIFF", "webp": "WEBP", "bmp": "BMP"}


def flipped(data, rng, _):
    data = bytearray(data)
    for _ in range(rng.choice([1, 10, 100])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def truncated(data, rng, _):
    return data[: rng.randrange(len(data))]


def with_wrong_header(data, rng, others):
    length = rng.choice([4, 16, 64])
    head = rng.choice([rng.randbytes(length), rng.choice(others)[:length]])
    return head + data[length:]


def zeroed(data, rng, _):
    if rng.random() < 0.3:
        return b""
    start = rng.randrange(len(data))
    return data[:start] + bytes(len(data) - start)


def with_huge_size(data, rng, _):
    """Declares another width and height, where the file's format stores them."""
    size = rng.choice([3_000, 16_383, 65_535, 2**31 - 1])
    data, short = bytearray(data), min(size, 65_535)
    if data[:4] == b"\x89PNG":
        struct.pack_into(">II", data, 16, size, size)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    elif data[:2] == b"BM":
        struct.pack_into("<ii", data, 18, size, size)
    elif data[:2] == b"\xff\xd8":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, short, short)
    elif data[:4] == b"RIFF":
        at = data.index(b"VP8 ") + 14
        struct.pack_into("<HH", data, at, short & 0x3FFF, short & 0x3FFF)
    else:
        return declare(data, size)
    return bytes(data)


KINDS = (flipped, truncated, with_wrong_header, zeroed, with_huge_size)


def fill_with_good_and_mutated(folder, photo):
    """Writes 40 photos, and 300 files mutated from them; returns the names of both."""
    rng, good, mutated = random.Random(0), {}, {}
    for i in range(40):
        extension = list(FORMATS)[i % 5]
        side = 96 + 8 * (i // 10)
        part = Image.fromarray(photo[2 * i : 2 * i + side, 4 * i : 4 * i + side])
        stream = io.BytesIO()
        part.save(stream, FORMATS[extension])
        good[f"{i:03d}good.{extension}"] = stream.getvalue()
    for i in range(300):
        name, data = rng.choice(list(good.items()))
        kind = KINDS[i % len(KINDS)]
        data = kind(data, rng, list(good.values()))
        mutated[f"{i:03d}{kind.__name__}.{name.split('.')[1]}"] = data
    # TIFF files of 16 bits have a decoder of their own.
    wide = imagecodecs.tiff_encode(photo[:128, :128].astype(np.uint16) * 257)
    for i in range(0, 300, 30):
        kind = KINDS[i // 30 % len(KINDS)]
        old = f"{i:03d}{KINDS[0].__name__}"
        mutated = {name: x for name, x in mutated.items() if not name.startswith(old)}
        mutated[f"{i:03d}wide_{kind.__name__}.tif"] = kind(wide, rng, list(good.values()))
    for name, data in (good | mutated).items():
        (folder / name).write_bytes(data)
    return list(good), list(mutated)


def decoded_size(path):
    """Returns the shorter side of a file's image; None if it cannot be decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return min(read_image(path).shape[:2])
        except InputError:
            return None


@pytest.mark.slow
def test_train_names_undecodable_and_small_files_and_uses_the_rest(tmp_path, photo):
    folder = tmp_path / "photos"
    folder.mkdir()
    good, mutated = fill_with_good_and_mutated(folder, photo)
    assert (len(good), len(mutated)) == (40, 300)
    assert len(list(folder.iterdir())) == 340
    sides = {path: decoded_size(path) for path in sorted(folder.iterdir())}
    bad = {path for path, side in sides.items() if side is None}
    small = {path for path, side in sides.items() if side is not None and side < 64}
    # Most mutated files are bad; no other file is.
    assert len(bad) > 150 and all(sides[folder / name] >= 96 for name in good)

    flags = tiny_flags(
        folder,
        tmp_path / "run",
        **{"total_steps": 4, "data.crops_per_image": 1, "validation.max_photos": 2},
    )
    run = command("train.py", *flags)
    _, err = run.communicate(timeout=600)
    assert run.returncode == 0, err
    assert "Traceback" not in err and "Warning" not in err
    lines = err.splitlines()
    for path in bad:
        (line,) = (line for line in lines if str(path) in line)
        assert "cannot be decoded (" in line and line.endswith("); left out"), line
    for path in small:
        (line,) = (line for line in lines if f"{path.name}: left out, " in line)
    train = {file.content for file in open_split(f"folder:{folder}").train.files()}
    used = train - bad - small
    assert f"photos: {len(used)} for training, 2 for validation" in err

    run = command("train.py", *flags, "--config.data.on_error=raise")
    _, err = run.communicate(timeout=600)
    assert run.returncode == 1
    first = min(bad & train)
    assert err.splitlines()[-1].startswith(f"error: {first}: cannot be decoded (")
