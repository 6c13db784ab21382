"""The commands, in this process where possible, mainly train.py and evaluate.py."""

import contextlib
import json
import re
import signal
import sys
import time

import jax
import numpy as np
import pytest
from processes import QUICK, ROOT, command
from tiny import RESIDENT, final_state, metrics_rows, tiny_flags

from eddsrn_jax import __version__
from eddsrn_jax.__main__ import main
from eddsrn_jax.checkpoints.manager import Checkpoints

FLAGS = "--xla_cpu_enable_fast_math=false --xla_backend_optimization_level=0"


def train(folder, workdir):
    """Runs train.py as users do, with its default flags of XLA; returns its table."""
    run = command("train.py", *tiny_flags(folder, workdir))
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    return out


def test_train_command_trains_and_evaluates(finished, tmp_path):
    folder, workdir = finished
    assert "| photos-val (1) | x4 SR" in train(folder, tmp_path / "run")
    # The finished run was trained without oneDNN, with XLA's own convolutions, which add
    # up in another order.
    rows = metrics_rows(tmp_path / "run"), metrics_rows(workdir)
    for found, expected in zip(*rows, strict=True):
        assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_train_command_is_reproducible_bit_for_bit(finished, tmp_path):
    folder, _ = finished
    workdirs = tmp_path / "0", tmp_path / "1"
    for workdir in workdirs:
        train(folder, workdir)
    states = [final_state(workdir, 10) for workdir in workdirs]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert metrics_rows(workdirs[0]) == metrics_rows(workdirs[1])


@pytest.mark.slow
def test_train_keeps_the_users_xla_flags_and_reuses_cached_programs(finished, tmp_path):
    folder, _ = finished
    programs = []
    for i in range(2):
        run = command(
            "train.py",
            *tiny_flags(folder, tmp_path / str(i), total_steps=1, **RESIDENT),
            XLA_FLAGS=FLAGS,
            JAX_COMPILATION_CACHE_DIR=str(tmp_path / "xla"),
        )
        _, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
        assert f"XLA_FLAGS={FLAGS}\n" in err
        programs.append(sorted(path.name for path in (tmp_path / "xla").iterdir()))
    # The second run found its step in the cache. Smaller programs may not be cached.
    steps = [[n for n in names if n.startswith("jit_train_step")] for names in programs]
    assert steps[0] and steps[0] == steps[1]


@pytest.mark.parametrize(
    "number, code",
    [pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow), (signal.SIGINT, 130)],
    ids=["TERM", "INT"],
)
def test_train_saves_a_checkpoint_and_exits_on_a_signal(finished, tmp_path, number, code):
    folder, _ = finished
    changes = {"total_steps": 100_000, "log_every_steps": 1, **RESIDENT}
    flags = tiny_flags(folder, tmp_path / "run", **changes)
    run = command("train.py", *flags, **QUICK)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and run.poll() is None:
        path = tmp_path / "run" / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) > 2:
            break
        time.sleep(0.1)
    run.send_signal(number)
    _, err = run.communicate(timeout=300)
    assert run.returncode == code, err
    found = re.search(rf"{signal.Signals(number).name}: saved step (\d+), stopping", err)
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.restore_params(int(found[1]))
    assert "Traceback" not in err


def test_evaluate_scores_a_given_checkpoint_on_a_given_folder(
    finished_eddsrn, tmp_path, call
):
    folder, workdir = finished_eddsrn
    code, out, err = call(
        "evaluate",
        f"--workdir={workdir}",
        "--step=10",
        f"--dataset=mine={folder}",
        "--sigmas=1,2",
        "--max_photos=2",
        "--save_images",
        f"--output_dir={tmp_path}",
    )
    assert code == 0, err
    results = json.loads((tmp_path / "results.json").read_text())
    assert {(m["dataset"], m["images"]) for m in results["means"]} == {
        *(("photos-val", 1), ("mine", 2))
    }
    assert len(results["images"]) == 3 * 2 * 4
    assert "| mine (2)" in out and "checkpoint 10" in out
    assert (tmp_path / "images" / "mine" / "sigma_1" / "photo0_input.png").exists()


def test_evaluate_scores_photo_degradations_beside_the_gaussian_weights(
    finished, tmp_path, call
):
    folder, workdir = finished
    code, out, err = call(
        "evaluate",
        f"--workdir={workdir}",
        "--novalidation",
        "--degradation=photo",
        "--sigmas=1",
        f"--dataset=mine={folder}",
        "--max_photos=1",
        f"--output_dir={tmp_path}",
    )
    assert code == 0, err
    results = json.loads((tmp_path / "results.json").read_text())
    psnr = {
        (mean["method"], mean["noise"], mean["jpeg"]): mean["psnr_y_crop4"]
        for mean in results["means_by_sigma"]
        if mean["output"] == "sr"
    }
    cells = [(0, None), (5, None), (0, 75), (5, 75)]
    assert {key[1:] for key in psnr} == set(cells)
    # The rows of the printed table, without its head and its mean.
    rows = [line.split("|")[3:-1] for line in out.splitlines()[2:6]]
    for (noise, jpeg), (*_, gain) in zip(cells, rows, strict=True):
        expected = psnr["weights gaussian", noise, jpeg] - psnr["bicubic", noise, jpeg]
        assert float(gain) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    "name, flags, code, message",
    [
        ("evaluate", ["--workdir=/absent"], 1, "/absent: no checkpoints found"),
        ("evaluate", ["--weights=/absent"], 1, "/absent: cannot be read as"),
        ("evaluate", [], 1, "nothing to score: give --dataset=NAME=DIR"),
        (
            "evaluate",
            ["--workdir=/absent", "--weights=/absent"],
            *(2, "--workdir and --weights: give only one of them"),
        ),
        (
            "evaluate",
            ["--workdir=/absent", "--sigmas=1,x"],
            *(2, "--sigmas=1,x: expected numbers in [0, 10], separated by commas, or"),
        ),
        (
            "evaluate",
            ["--workdir=/absent", "--sigmas="],
            *(2, "flag --sigmas=: expected a value, got none"),
        ),
        ("evaluate", ["--workdir="], 2, "flag --workdir=: expected a value, got none"),
        ("restore", ["--weights=", "x"], 2, "flag --weights=: expected a value, got"),
        (
            "evaluate",
            ["--config=configs/table1.py", "--degradation=photo"],
            *(2, "--degradation=photo cannot be used with --config"),
        ),
        (
            "evaluate",
            ["--workdir=/absent", "--dataset=Set14"],
            *(2, "--dataset=Set14: expected NAME=DIR"),
        ),
        (
            "evaluate",
            ["--dataset=Set14=.", "--dataset=set14=.."],
            *(2, "--dataset=set14=..: another set is named Set14"),
        ),
        (
            "evaluate",
            ["--dataset=C:\\a=."],
            *(2, "--dataset=C:\\a=.: 'C:\\\\a' cannot be a file name"),
        ),
        ("evaluate", ["--step=x"], 2, "flag --step=x: "),
        ("evaluate", ["runs/mine"], 2, "unexpected arguments: runs/mine"),
        (
            "train",
            ["--config=configs/eddsrn.py", "--config.data.source=folder:/absent"],
            *(1, "/absent: no such folder"),
        ),
        (
            "train",
            ["--config=configs/eddsrn.py", "--config.data.soruce=bundled"],
            *(2, '--config: \'soruce\'. Did you mean "source" instead of "soruce"?'),
        ),
        (
            "train",
            ["--config=configs/absent.py"],
            *(2, "--config=configs/absent.py: no such file"),
        ),
        (
            "train",
            ["--config=configs/eddsrn.py", "--config.validation.every_steps=0"],
            *(1, "config.validation.every_steps=0: expected a whole number, 1"),
        ),
        (
            "train",
            ["--config=configs/eddsrn.py", "--coordinator=127.0.0.1:1", "--process_id=0"],
            *(2, "--coordinator=127.0.0.1:1 needs --num_processes and a --process_id"),
        ),
        (
            "train",
            ["--config=configs/eddsrn.py", "--coordinator=here"],
            *(2, "--coordinator=here: expected HOST:PORT"),
        ),
        (
            "train",
            ["--config=configs/eddsrn.py", "--max_minutes=nan"],
            *(2, "flag --max_minutes=nan: expected a number"),
        ),
        ("train", ["--config=README.md"], 2, "--config: "),
        ("train", [], 2, "--workdir="),
        ("train", ["--wrkdir=x"], 2, "Unknown command line flag 'wrkdir'. Did you"),
    ],
)
def test_wrong_flags_give_a_one_line_error(name, flags, code, message, tmp_path, call):
    flags = [*flags, f"--workdir={tmp_path / 'run'}"] if name == "train" else flags
    found, out, err = call(name, *flags)
    assert (found, out) == (code, "")
    assert err.startswith(f"error: {message}")
    assert len(err.strip().splitlines()) == 1


def test_a_process_prints_the_error_and_exits_with_its_code():
    run = command("evaluate.py", "--workdir=/absent", "--sigmas=x")
    out, err = run.communicate(timeout=300)
    assert (run.returncode, out) == (2, "")
    assert err == (
        "error: --sigmas=x: expected numbers in [0, 10], separated by commas,"
        " or 'random'\n"
    )


@pytest.mark.parametrize("name", ["train", "evaluate", "restore", "export", "demo"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_shows_all_flags(name, flag, call):
    code, out, err = call(name, flag)
    assert code == 0 and not err
    assert "--workdir: " in out
    assert ("--coordinator: " in out) == (name in ("train", "evaluate"))


def test_help_with_a_config_shows_its_values(call):
    flags = ("--config=configs/vdsr.py:lite", "--config.batch_size=3")
    code, out, err = call("train", *flags, "--help")
    assert code == 0 and not err
    values = out.partition("The values of this config")[2].splitlines()
    assert (
        "  --config.model.features=16" in values and "  --config.batch_size=3" in values
    )
    code, out, err = call("train", "--config=configs/absent.py", "--help")
    assert code == 2 and err.startswith("error: --config=configs/absent.py: no such file")


def test_the_package_runs_a_command_by_its_name():
    run = command("-m", "eddsrn_jax", "restore", "--outputs=x", "photo.png", cwd=ROOT)
    out, err = run.communicate(timeout=300)
    assert (run.returncode, out) == (2, "")
    assert err == "error: --outputs=x: expected sr, deblurred or sr,deblurred\n"


@pytest.mark.parametrize(
    "arguments, code, output",
    [
        ([], 0, "eddsrn COMMAND [flags]"),
        (["--help"], 0, "eddsrn COMMAND [flags]"),
        (["--version"], 0, f"{__version__}\n"),
        (["restroe"], 2, "error: unknown command 'restroe'\n"),
    ],
)
def test_the_package_lists_its_commands(arguments, code, output, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["eddsrn_jax", *arguments])
    with contextlib.suppress(SystemExit):
        main()
    out, err = capsys.readouterr()
    assert (err if code else out).startswith(output)


def test_exported_weights_score_the_same_as_their_run(finished, tmp_path, call):
    folder, workdir = finished
    path = tmp_path / "mine.safetensors"
    flags = [f"--workdir={workdir}", f"--out={path}", "--dtype=float32"]
    code, out, err = call("export", *flags)
    assert code == 0, err
    assert out.startswith(f"{path}: VDSR, step ")
    weights = tmp_path / "folder"
    code, out, err = call("export", f"--weights={path}", f"--out={weights}/", *flags[2:])
    assert code == 0, err
    assert out.startswith(f"{weights}: VDSR, step ")
    scores = []
    origins = (f"--workdir={workdir}", f"--weights={path}", f"--weights={weights}")
    for i, origin in enumerate(origins):
        flags = [f"--dataset=mine={folder}", "--max_photos=1", "--novalidation", origin]
        code, _, err = call("evaluate", *flags, f"--output_dir={tmp_path / str(i)}")
        assert code == 0, err
        results = json.loads((tmp_path / str(i) / "results.json").read_text())
        scores.append([row["psnr_y_crop4"] for row in results["images"]])
    assert scores[0] == scores[1] == scores[2]
    assert len(results["protocol"]["sha256"]) == 64
