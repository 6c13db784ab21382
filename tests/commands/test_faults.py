"""Kills, signals, damaged checkpoints and full disks, in runs as real processes."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest
from driven_runs import finished_steps, phase_of, steps_logged, train, wait_for
from processes import QUICK, command
from tiny import final_state, metrics_rows, tiny_flags

from eddsrn_jax.checkpoints.manager import read_run
from eddsrn_jax.files import locked

# Some tests damage checkpoints, whose reads then fail.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collect_failed_reads"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_while_compiling_saves_the_first_step(finished, tmp_path, number, code):
    folder, _ = finished
    log, workdir = tmp_path / "log", tmp_path / "run"
    variables = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "xla")}
    # This network compiles for seconds.
    changes = {"network": "EDDSRN", "total_steps": 100_000}
    run = train(folder, workdir, log, changes, **variables)
    wait_for(lambda: phase_of(workdir, log) == "compile", run, log)
    run.send_signal(number)
    run.communicate(timeout=300)
    assert run.returncode == code, log.read_text()
    last = log.read_text().splitlines()[-1]
    assert last.endswith(f"{signal.Signals(number).name}: saved step 1, stopping")
    assert [path.name for path in workdir.glob("checkpoints/*")] == ["1"]


@pytest.mark.slow
def test_a_signal_during_a_validation_saves_when_it_ends(finished, tmp_path):
    folder, _ = finished
    log, workdir = tmp_path / "log", tmp_path / "run"
    # The validation takes a second and a half.
    changes = {"validation.every_steps": 3, "validation.sigmas": (1.0,) * 400}
    run = train(folder, workdir, log, {"total_steps": 100_000, **changes})
    wait_for(lambda: steps_logged(log) == ["3"], run, log)
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=300)
    assert run.returncode == 0, log.read_text()
    assert log.read_text().splitlines()[-1].endswith("SIGTERM: saved step 3, stopping")
    assert [path.name for path in workdir.glob("checkpoints/*")] == ["3"]
    assert "val/psnr_y_crop4" in metrics_rows(workdir)[-1]


def test_train_does_not_silently_redo_lost_checkpoints(trained, tmp_path, call):
    folder, workdir = trained
    shutil.move(workdir / "checkpoints" / "6", workdir / "damaged-checkpoint-6")
    shutil.rmtree(workdir / "checkpoints" / "10")
    rows = (workdir / "metrics.jsonl").read_text()
    code, _, messages = call("train", *tiny_flags(folder, workdir))
    assert code == 1
    last = messages.splitlines()[-1]
    assert "no checkpoint found, only damaged ones beside this folder (damaged-ch" in last
    assert (workdir / "metrics.jsonl").read_text() == rows
    shutil.rmtree(workdir / "damaged-checkpoint-6")
    code, _, messages = call("train", *tiny_flags(folder, workdir))
    assert code == 0
    assert f"metrics.jsonl: {len(rows.splitlines())} rows after step 0" in messages


IN_USE = "error: {}: another process is using this folder; wait until it ends\n"


def test_train_refuses_a_workdir_that_is_locked(finished, tmp_path, call):
    folder, _ = finished
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        result = call("train", *tiny_flags(folder, tmp_path / "run"))
    assert result == (1, "", IN_USE.format(tmp_path / "run"))


@pytest.mark.slow
def test_train_refuses_a_workdir_that_another_run_uses(finished, tmp_path, call):
    folder, _ = finished
    workdir, endless = tmp_path / "run", {"total_steps": 100_000}
    run = train(folder, workdir, tmp_path / "log", endless)
    wait_for(lambda: steps_logged(tmp_path / "log"), run, tmp_path / "log")
    result = call("train", *tiny_flags(folder, workdir))
    assert result == (1, "", IN_USE.format(workdir))
    assert run.poll() is None
    run.kill()
    run.communicate()
    with locked(workdir):
        pass


@pytest.fixture
def trained(finished, tmp_path):
    """Copies a run of ten steps with checkpoints 6 and 10; returns photos and workdir."""
    folder, workdir = finished
    shutil.copytree(workdir, tmp_path / "run")
    assert sorted(finished_steps(tmp_path / "run")) == [0, 6, 10]
    return folder, tmp_path / "run"


def contents(folder):
    """Returns the bytes of all files in a folder, by relative path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def damage(checkpoint):
    (checkpoint / "train" / "manifest.ocdbt").write_bytes(b"")


def without_arrays(checkpoint):
    for path in (checkpoint / "train").rglob("d/*"):
        path.unlink()


def with_half_of_its_arrays(checkpoint):
    for path in (checkpoint / "train").rglob("d/*"):
        os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    "spoil",
    [
        damage,
        pytest.param(without_arrays, marks=pytest.mark.slow),
        pytest.param(with_half_of_its_arrays, marks=pytest.mark.slow),
    ],
)
def test_train_resumes_from_the_newest_undamaged_checkpoint(trained, call, spoil):
    folder, workdir = trained
    spoil(workdir / "checkpoints" / "10")
    before = contents(workdir / "checkpoints" / "10")
    code, _, messages = call("train", *tiny_flags(folder, workdir, total_steps=12))
    assert code == 0, messages
    assert f"{workdir}/checkpoints/10 cannot be restored: " in messages
    assert ", steps 6 to 12 (" in messages
    # All failed reads together are reported in one line.
    assert len(messages.splitlines()) < 12
    assert contents(workdir / "damaged-checkpoint-10") == before


def test_train_fails_if_all_checkpoints_are_damaged(trained, call):
    folder, workdir = trained
    for step in ("6", "10"):
        damage(workdir / "checkpoints" / step)
    before = contents(workdir / "checkpoints")
    code, _, messages = call("train", *tiny_flags(folder, workdir, total_steps=12))
    assert code == 1
    *named, error = messages.splitlines()
    for step, line in zip((10, 6), named, strict=True):
        assert f"{workdir}/checkpoints/{step} cannot be restored: " in line
    assert error == (
        f"error: {workdir}/checkpoints: none of its 2 checkpoints can be restored; move"
        " the folder away to start over"
    )
    assert contents(workdir / "checkpoints") == before


def test_evaluate_takes_another_checkpoint_if_the_best_is_damaged(
    trained, tmp_path, call
):
    _, workdir = trained
    best = read_run(workdir).step
    (workdir / "checkpoints" / str(best) / "params" / "manifest.ocdbt").unlink()
    flags = [f"--workdir={workdir}", "--sigmas=1", f"--output_dir={tmp_path / 'out'}"]
    code, _, err = call("evaluate", *flags)
    assert code == 0, err
    assert re.search(rf"checkpoints/{best} cannot be .*; another checkpoint is used", err)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["protocol"]["step"] == ({6, 10} - {best}).pop()
    code, _, err = call("evaluate", *flags, f"--step={best}")
    assert code == 1
    assert f"error: {workdir}/checkpoints/{best} cannot be restored: " in err


@pytest.mark.slow
def test_a_failed_save_ends_the_run_and_keeps_older_checkpoints(finished, tmp_path):
    """A limit on file sizes makes the system refuse a write in the middle of a save."""
    folder, _ = finished
    log, workdir = tmp_path / "log", tmp_path / "run"
    changes = {
        "model.features": 32,
        "total_steps": 100_000,
        "validation.every_steps": 100_000,
    }
    run = train(folder, workdir, log, changes)
    wait_for(lambda: 6 in finished_steps(workdir), run, log)
    # Each save distributes arrays among files differently, but the largest file is always
    # above the limit.
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
    kept = max(finished_steps(workdir))
    before = contents(workdir / "checkpoints" / str(kept))
    run.communicate(timeout=300)
    assert run.returncode == 1, log.read_text()
    assert log.read_text().splitlines()[-1] == (
        f"error: {workdir}/checkpoints: a checkpoint cannot be written (File too large);"
        " earlier checkpoints are intact"
    )
    assert max(finished_steps(workdir)) == kept
    assert contents(workdir / "checkpoints" / str(kept)) == before
    final_state(workdir, kept)


def test_evaluate_reports_a_failed_write_and_leaves_no_files(finished, tmp_path):
    _, workdir = finished
    flags = [f"--workdir={workdir}", "--sigmas=1", f"--output_dir={tmp_path / 'out'}"]
    run = command("evaluate.py", *flags, **QUICK)
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (100, 100))
    _, err = run.communicate(timeout=300)
    assert run.returncode == 1, err
    (line,) = err.splitlines()
    assert re.fullmatch(r"error: .*File too large: '.*/out/before_after_.*'", line)
    assert not contents(tmp_path / "out")


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a disk of 8 MB and yields its folder; skips without the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    with contextlib.suppress(OSError):
        subprocess.run(mount, capture_output=True)
    if not folder.is_mount():
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kilobytes, message",
    [
        (0, r"No space left on device: '.*/run/\w+.json.?'"),
        (1000, r"a checkpoint needs 1\.\d MB, but only [01]\.\d MB are free; earlier"),
    ],
)
def test_a_run_stopped_by_a_full_disk_resumes_without_loss(
    finished, small_disk, tmp_path, kilobytes, message
):
    """A full disk ends the run, but damages neither its last checkpoint nor its rows.

    With room again, the run resumes, and ends as if the disk had never been full.
    """
    folder, reference = finished
    log, workdir, changes = tmp_path / "log", small_disk / "run", {"total_steps": 20}
    shutil.copytree(reference, workdir)
    kept = contents(workdir / "checkpoints"), metrics_rows(workdir)
    free = shutil.disk_usage(small_disk).free - 1000 * kilobytes
    (small_disk / "ballast").write_bytes(bytes(free))
    run = train(folder, workdir, log, changes)
    run.communicate(timeout=300)
    assert run.returncode == 1, log.read_text()
    assert "Traceback" not in log.read_text()
    assert re.search(f"^error: .*{message}", log.read_text().splitlines()[-1])
    assert contents(workdir / "checkpoints") == kept[0]
    assert metrics_rows(workdir)[: len(kept[1])] == kept[1]

    (small_disk / "ballast").unlink()
    run = train(folder, workdir, log, changes)
    run.communicate(timeout=300)
    assert run.returncode == 0, log.read_text()
    assert ", steps 10 to 20 (" in log.read_text()
    shutil.copytree(reference, tmp_path / "whole")
    run = train(folder, tmp_path / "whole", log, changes)
    run.communicate(timeout=300)
    jax.tree.map(
        np.testing.assert_array_equal,
        final_state(workdir, 20),
        final_state(tmp_path / "whole", 20),
    )
    assert metrics_rows(workdir) == metrics_rows(tmp_path / "whole")
