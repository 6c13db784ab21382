"""The command restore, as a process and beside the command evaluate."""

import json
import os
import signal
import time

import jax
import numpy as np
import pytest
from conftest import shared_data
from PIL import Image
from processes import QUICK, command, measured
from samples import mutated, small_files
from tiny import SMALL

from eddsrn_jax.checkpoints.weights import Network, write_network
from eddsrn_jax.data.sources import folder_source
from eddsrn_jax.evaluation.network import read_photos
from eddsrn_jax.evaluation.scoring import Scoring, evaluate
from eddsrn_jax.images.pictures import read_header, read_picture
from eddsrn_jax.models import EDDSRN, init_params
from eddsrn_jax.restoration.batch import restore_files
from eddsrn_jax.restoration.jobs import Limits, Placing
from eddsrn_jax.restoration.restorer import Restorer


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Writes the weights of a tiny network; returns the file."""
    model, path = EDDSRN(**SMALL), tmp_path_factory.mktemp("weights") / "w.safetensors"
    params = init_params(model, jax.random.key(0))
    write_network(path, Network(model, params, "tiny", 0, (1.0, 2.0)))
    return path


def test_restore_and_evaluate_commands_write_the_same_pixels(
    finished_eddsrn, tmp_path, call
):
    folder, workdir = finished_eddsrn
    flags = [f"--workdir={workdir}", f"--output_dir={tmp_path / 'scores'}"]
    chosen = ["--novalidation", "--sigmas=1.5", "--save_images", "--max_photos=3"]
    code, _, err = call("evaluate", f"--dataset=mine={folder}", *chosen, *flags)
    assert code == 0, err
    scored = tmp_path / "scores" / "images" / "mine" / "sigma_1.5"
    inputs = sorted(scored.glob("*_input.png"))
    flags = [f"--workdir={workdir}", f"--output_dir={tmp_path / 'found'}"]
    code, out, err = call("restore", "--outputs=sr,deblurred", *flags, *inputs)
    assert code == 0 and not out, err
    assert len(inputs) == 3
    for path in inputs:
        for output, ending in (("sr", "x4"), ("deblurred", "deblurred")):
            found, _ = read_picture(tmp_path / "found" / f"{path.stem}_{ending}.png")
            name = path.name.replace("_input", f"_ED-DSRN_{output}")
            expected, _ = read_picture(scored / name)
            np.testing.assert_array_equal(found, expected)


def test_restores_or_reports_each_mutated_file_within_limited_memory(weights, tmp_path):
    files, rng = small_files(), np.random.default_rng(0)
    folder, results = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    suffixes = (".png", ".jpg", ".tif", ".webp", ".bmp")
    for i in range(350):
        content = mutated(files, i % len(files), rng, i // len(files))
        (folder / f"{i:03}{suffixes[i % 5]}").write_bytes(content)
    (folder / os.fsdecode(b"not \xff utf-8.png")).write_bytes(files[0])
    before = {path: path.read_bytes() for path in folder.iterdir()}
    report = tmp_path / "report.json"
    code, err, kilobytes = measured(
        "restore.py",
        folder,
        f"--output_dir={results}",
        f"--report={report}",
        f"--weights={weights}",
        "--outputs=sr,deblurred",
        "--max_input_megapixels=0.1",
    )
    assert code == 1 and "Traceback" not in err
    # Python with JAX alone takes most of this limit.
    assert kilobytes < 700_000
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    entries = json.loads(report.read_text())["files"]
    assert len(entries) == 351
    expected = set()
    for entry in entries:
        assert (entry["status"] == "failed") == bool(entry["error"])
        if entry["status"] == "failed":
            assert "\n" not in entry["error"]
            continue
        assert entry["status"] == "restored"
        for output, scale in (("sr", 4), ("deblurred", 1)):
            path = entry["outputs"][output]
            header = read_header(path)
            assert (header.width, header.height) == (
                *(scale * entry["width"], scale * entry["height"]),
            )
            expected.add(os.path.basename(path))
    # The folder holds nothing else, and no partial files.
    assert set(os.listdir(results)) == expected
    count = sum(entry["status"] == "restored" for entry in entries)
    assert 20 < count < 300


def test_ctrl_c_stops_early_and_leaves_only_complete_files(weights, photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(300):
        Image.fromarray(photo[:60, :80]).save(folder / f"{i:03}.png")
    report = tmp_path / "report.json"
    run = command(
        "restore.py",
        folder,
        f"--output_dir={tmp_path / 'out'}",
        f"--weights={weights}",
        f"--report={report}",
        **QUICK,
    )
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and run.poll() is None:
        if len(list((tmp_path / "out").glob("*_x4.png"))) > 1:
            break
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=300)
    assert run.returncode == 130, err
    assert "Traceback" not in err
    assert err.strip().endswith("interrupted")
    status = [entry["status"] for entry in json.loads(report.read_text())["files"]]
    done = status.count("restored")
    assert 2 <= done < 300
    assert status == sorted(status, key=["restored", "interrupted", "not started"].index)
    found = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in found] == [f"{i:03}_x4.png" for i in range(done)]
    for path in found:
        assert read_picture(path)[0].shape == (240, 320, 3)


@pytest.mark.parametrize(
    "flags, code, message",
    [
        ([], 2, "no photos: expected files or folders, see --help"),
        ([""], 2, "no photos"),
        (["--outputs=sr,sharp", "x"], 2, "--outputs=sr,sharp: expected sr, deblurred or"),
        (["--outputs=", "x"], 2, "flag --outputs=: expected a value"),
        (["--strength=1.5", "x"], 2, "flag --strength=1.5: 1.5 is not a number in the"),
        (["--format=gif", "x"], 2, "flag --format=gif: value should be one of <png|jpg|"),
        (
            ["--output=a.gif", "x"],
            2,
            "--output=a.gif: expected a name that ends in one of .bmp .jpeg",
        ),
        (["--output=a.png", "--output_dir=b", "x"], 2, "--output and --output_dir:"),
        (["--workdir=a", "--weights=b", "x"], 2, "--workdir and --weights: give only"),
        (["--weights=/absent", "photo.png"], 1, "/absent: cannot be read as"),
        (["--workdir=/absent", "photo.png"], 1, "/absent: no checkpoints f"),
        (["--largest_window=100", "photo.png"], 2, "largest_window=100: exp"),
    ],
)
def test_invalid_calls_print_a_one_line_error(
    flags, code, message, tmp_path, monkeypatch, call
):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("photo.png")
    found, out, err = call("restore", *flags)
    assert (found, out) == (code, "")
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith(f"error: {message}")
    assert os.listdir() == ["photo.png"]


@pytest.mark.slow
def test_restored_set14_equals_the_images_saved_by_evaluation(tmp_path):
    photos = read_photos(folder_source(shared_data("Set14")))
    restorer = Restorer.from_pretrained()
    scoring = Scoring(sigmas=(1.5,), save_images=True)
    methods = {"m": restorer}
    evaluate(methods, photos, dataset="Set14", scoring=scoring, output_dir=tmp_path)
    scored = tmp_path / "images" / "Set14" / "sigma_1.5"
    inputs = sorted(scored.glob("*_input.png"))
    assert len(inputs) == 14
    jobs = restore_files(
        inputs,
        lambda: Restorer.from_pretrained(outputs=["sr"]),
        placing=Placing(folder=tmp_path / "found"),
        limits=Limits(),
    )
    for job in jobs:
        found, _ = read_picture(job.targets["sr"])
        expected, _ = read_picture(
            scored / job.path.name.replace("_input.png", "_m_sr.png")
        )
        # The windows differ, and so does the order of sums in a few values.
        difference = np.abs(found.astype(int) - expected)
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-5
