"""Whole runs on photographs, of a network small enough to compile in seconds."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest
from test_models import SMALL

from configs import eddsrn
from eddsrn_jax.checkpoint import Checkpoints
from eddsrn_jax.errors import InputError
from eddsrn_jax.images import read_image
from eddsrn_jax.models import EDDSRN, init_params
from eddsrn_jax.reporting import Reporter
from eddsrn_jax.steps import create_train_state
from eddsrn_jax.training import train_and_evaluate
from eddsrn_jax.weights import load_weights, save_weights


def tiny_config(photo_folder, **changes):
    """Four steps an epoch, ten in all; a validation and a checkpoint every six."""
    config = eddsrn.get_config()
    changes = {
        **{f"model.{name}": value for name, value in SMALL.items()},
        "data.source": f"folder:{photo_folder}",
        "data.cache_dir": str(photo_folder.parent / "packs"),
        "data.hr_patch_size": 64,
        "data.crops_per_image": 5,
        "batch_size": 8,
        "total_steps": 10,
        "log_every_steps": 3,
        "validation.every_steps": 6,
        "checkpoint.every_steps": 6,
        **changes,
    }
    config.update_from_flattened_dict(changes)
    return config


def final_state(workdir, step):
    model = EDDSRN(**SMALL)
    params = init_params(model, jax.random.key(0))
    like = create_train_state(
        params,
        optax.chain(optax.identity(), optax.adam(optax.constant_schedule(1.0))),
        losses=("loss", "loss_sr", "loss_db"),
    )
    with Checkpoints(workdir) as checkpoints:
        state, _ = checkpoints.restore_latest(like)
    assert state.step == step
    return jax.device_get(state)


def metrics_rows(workdir, *, with_times=False):
    rows = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    if with_times:
        return rows
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


@pytest.fixture
def stop_at(monkeypatch):
    """Makes a run receive SIGTERM after a step."""

    advance = Reporter.advance

    def arrange(step):
        def interrupt(self, now):
            if now == step:
                os.kill(os.getpid(), signal.SIGTERM)
            advance(self, now)

        monkeypatch.setattr(Reporter, "advance", interrupt)

    return arrange


@pytest.fixture(scope="module")
def finished(tmp_path_factory, photo):
    """An uninterrupted run: its photographs, its workdir and what it printed."""
    from PIL import Image

    root = tmp_path_factory.mktemp("run")
    folder = root / "photos"
    folder.mkdir()
    for i in range(8):
        part = photo[10 * i : 10 * i + 96 + 4 * i, 20 * i : 20 * i + 128 - 4 * i]
        Image.fromarray(part).save(folder / f"photo{i}.png")
    assert train_and_evaluate(tiny_config(folder), root / "run") is None
    return folder, root / "run"


def test_a_run_leaves_checkpoints_metrics_tables_and_pictures(finished):
    _, workdir = finished
    rows = metrics_rows(workdir, with_times=True)
    assert [r["step"] for r in rows if "train/loss" in r] == [3, 6, 9, 10]
    assert [r["step"] for r in rows if "val/psnr_y_crop4" in r] == [6, 10]
    assert rows[0]["train/learning_rate"] == pytest.approx(5e-4)
    assert 0 <= rows[0]["time/share_waiting_for_data"] <= 1
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    scores = {r["step"]: r["val/psnr_y_crop4"] for r in rows if "val/psnr_y_crop4" in r}
    # Evaluated is the best step, not the last.
    folder = workdir / "evaluation" / str(max(scores, key=scores.get))
    results = json.loads((folder / "results.json").read_text())
    assert {m["method"] for m in results["means"]} == {
        *("bicubic", "blurred input", "ED-DSRN")
    }
    assert results["protocol"]["config"]["model"]["features"] == [8, 8, 16, 16]
    (picture,) = folder.glob("before_after_*.png")
    assert read_image(picture).shape[0] > 100
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["batch_size"] == 8


def test_tensorboard_has_scalars_and_pictures(finished):
    _, workdir = finished
    from tensorboardX.proto import event_pb2

    # A record: length (8 bytes), its check (4), the event, its check (4).
    found = {}
    for path in (workdir / "tensorboard").iterdir():
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            for value in event.summary.value:
                found[value.tag] = value.WhichOneof("value")
            data = data[16 + length :]
    assert found["train/loss"] == found["val/psnr_y_crop4"] == "simple_value"
    assert [kind for tag, kind in found.items() if tag.startswith("val/photo")] == [
        "image"
    ]


def test_a_resumed_run_is_bit_identical(finished, tmp_path, stop_at, caplog):
    """Stopped in the middle of an epoch of four steps, continued across its end."""
    folder, reference = finished
    config, workdir = tiny_config(folder), tmp_path / "run"
    stop_at(4)  # seen, and saved, after the step that follows
    with caplog.at_level(logging.INFO):
        assert train_and_evaluate(config, workdir) == signal.SIGTERM
    assert "SIGTERM: saved step 5, stopping" in caplog.text
    stop_at(None)
    assert train_and_evaluate(config, workdir) is None
    jax.tree.map(
        np.testing.assert_array_equal,
        final_state(workdir, 10),
        final_state(reference, 10),
    )
    assert metrics_rows(workdir) == metrics_rows(reference)


def test_a_finished_run_is_only_evaluated_again(finished):
    folder, workdir = finished
    before = metrics_rows(workdir, with_times=True)
    assert train_and_evaluate(tiny_config(folder), workdir) is None
    assert metrics_rows(workdir, with_times=True) == before


def test_changed_values_are_named_on_resuming(finished, caplog):
    folder, workdir = finished
    train_and_evaluate(tiny_config(folder, **{"loss.alpha": 0.3}), workdir)
    assert "config.loss.alpha is now 0.3, it was 0.2" in caplog.text


def test_another_architecture_in_the_workdir_is_refused(finished):
    folder, workdir = finished
    config = tiny_config(folder, **{"model.deblur_features": 0})
    with pytest.raises(InputError, match="another architecture: deblur_head"):
        train_and_evaluate(config, workdir)


def test_starting_from_weights(finished, tmp_path):
    """From a workdir and from safetensors, with a fresh optimiser and step 0."""
    folder, source = finished
    with Checkpoints(source, read_only=True) as checkpoints:
        _, _, trained = checkpoints.restore_params()
    save_weights(tmp_path / "w.safetensors", trained, metadata={})
    states = []
    for i, origin in enumerate((source, tmp_path / "w.safetensors")):
        config = tiny_config(folder, init_from=str(origin), total_steps=1)
        train_and_evaluate(config, tmp_path / f"run{i}")
        states.append(final_state(tmp_path / f"run{i}", 1))
    jax.tree.map(np.testing.assert_array_equal, *states)
    # Adam's first step moves every value by the learning rate at most.
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), states[0].params, trained)
    assert 0 < max(jax.tree.leaves(moved)) <= 5.01e-4


def test_weights_of_another_architecture_are_refused(finished, tmp_path):
    folder, _ = finished
    other = EDDSRN(**SMALL | {"sr_features": (8, 8, 8)})
    save_weights(
        tmp_path / "w.safetensors", init_params(other, jax.random.key(0)), metadata={}
    )
    config = tiny_config(folder, init_from=str(tmp_path / "w.safetensors"))
    with pytest.raises(InputError, match=r"w.safetensors is of another .*sr_head"):
        train_and_evaluate(config, tmp_path / "run")
    with pytest.raises(InputError, match=r"absent.safetensors: cannot be read"):
        load_weights(tmp_path / "absent.safetensors", {})


def test_edsrn_has_no_deblurred_rows_anywhere(finished, tmp_path):
    folder, _ = finished
    config = tiny_config(folder, total_steps=2, **{"model.deblur_features": 0})
    train_and_evaluate(config, tmp_path / "run")
    names = {name for row in metrics_rows(tmp_path / "run") for name in row}
    assert names == {
        *("step", "train/loss", "train/loss_sr", "train/grad_norm"),
        *("train/learning_rate", "val/psnr_y_crop4"),
    }
    results = (tmp_path / "run" / "evaluation" / "2" / "results.json").read_text()
    assert {m["output"] for m in json.loads(results)["means"]} == {"sr"}


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(finished, tmp_path):
    folder, _ = finished
    config = tiny_config(
        folder, **{"optimizer.learning_rate": 1e18, "checkpoint.every_steps": 1}
    )
    with pytest.raises(FloatingPointError, match="not finite at step [23];"):
        train_and_evaluate(config, tmp_path / "run")
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.restore_params()[0] in (1, 2)


def test_a_workdir_that_cannot_be_made(finished, tmp_path):
    folder, _ = finished
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        train_and_evaluate(tiny_config(folder), tmp_path / "file" / "run")


# The commands ---------------------------------------------------------------------------


def command(script, *flags, cache=None):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    del environment["XLA_FLAGS"]
    if cache:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    return subprocess.Popen(
        [sys.executable, script, *flags],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def tiny_flags(folder, workdir, **changes):
    config = tiny_config(folder, **changes)
    default = eddsrn.get_config()
    changed = {k: v for k, v in flatten(config).items() if v != flatten(default)[k]}
    return [
        "--config=configs/eddsrn.py",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in changed.items()),
    ]


def flatten(config):
    import flax.traverse_util

    return flax.traverse_util.flatten_dict(config.to_dict(), sep=".")


def test_untouched_runs_agree_with_a_cold_and_a_warm_compilation_cache(
    finished, tmp_path
):
    folder, _ = finished
    states, rows, programs = [], [], []
    for i in range(2):
        run = command(
            "train.py", *tiny_flags(folder, tmp_path / str(i)), cache=tmp_path / "xla"
        )
        out, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
        assert "| photos-val (1) | x4 SR" in out
        programs.append(sorted(path.name for path in (tmp_path / "xla").iterdir()))
        states.append(final_state(tmp_path / str(i), 10))
        rows.append(metrics_rows(tmp_path / str(i)))
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert rows[0] == rows[1]
    # The second run found its step in the cache; smaller programs may not be kept.
    steps = [[n for n in names if n.startswith("jit_train_step")] for names in programs]
    assert steps[0] and steps[0] == steps[1]


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
def test_a_signal_saves_and_ends_the_command(finished, tmp_path, number, code):
    folder, _ = finished
    flags = tiny_flags(folder, tmp_path / "run", total_steps=100_000, log_every_steps=1)
    run = command("train.py", *flags)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and run.poll() is None:
        path = tmp_path / "run" / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) > 2:
            break
        time.sleep(0.1)
    run.send_signal(number)
    _, err = run.communicate(timeout=120)
    assert run.returncode == code, err
    found = re.search(rf"{signal.Signals(number).name}: saved step (\d+), stopping", err)
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.restore_params(int(found[1]))
    assert "Traceback" not in err


def test_two_processes_train_as_one(finished, tmp_path):
    """The same crops and losses, four rows of every batch in each process."""
    folder, _ = finished
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    changes = {"validation.every_steps": 5, "log_every_steps": 1, "total_steps": 5}
    pair = [
        command(
            "train.py",
            *tiny_flags(folder, tmp_path / "two", **changes),
            f"--coordinator=127.0.0.1:{port}",
            "--num_processes=2",
            f"--process_id={i}",
        )
        for i in range(2)
    ]
    output = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], output
    # One writer, one table.
    assert "| photos-val (1) | x4 SR" in output[0][0]
    assert "photos-val" not in output[1][0] + output[1][1]
    train_and_evaluate(tiny_config(folder, **changes), tmp_path / "one")
    one, two = (metrics_rows(tmp_path / name) for name in ("one", "two"))
    assert [row["step"] for row in two] == [1, 2, 3, 4, 5, 5]
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_evaluate_scores_any_checkpoint_and_folder(finished, tmp_path):
    folder, workdir = finished
    run = command(
        "evaluate.py",
        f"--workdir={workdir}",
        "--step=10",
        f"--dataset=mine={folder}",
        "--sigmas=1,2",
        "--max_photos=2",
        "--save_images",
        f"--output_dir={tmp_path}",
    )
    out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    results = json.loads((tmp_path / "results.json").read_text())
    assert {(m["dataset"], m["images"]) for m in results["means"]} == {
        *(("photos-val", 1), ("mine", 2))
    }
    assert len(results["images"]) == 3 * 2 * 4
    assert "| mine (2)" in out and "checkpoint 10" in out
    assert (tmp_path / "images" / "mine" / "sigma_1" / "photo0_input.png").exists()


@pytest.mark.parametrize(
    "script, flags, message",
    [
        ("evaluate.py", ["--workdir=/absent"], "error: /absent: no checkpoints in it"),
        (
            "evaluate.py",
            ["--workdir=/absent", "--sigmas=1,x"],
            "error: --sigmas=1,x: expected numbers in (0, 10] with commas, or 'random'",
        ),
        (
            "evaluate.py",
            ["--workdir=/absent", "--dataset=Set14"],
            "error: --dataset=Set14: expected NAME=DIR",
        ),
        (
            "train.py",
            ["--config=configs/eddsrn.py", "--config.data.source=folder:/absent"],
            "error: /absent: no such folder",
        ),
        (
            "train.py",
            ["--config=configs/eddsrn.py", "--config.data.soruce=bundled"],
            'error: --config: \'soruce\' Did you mean "source" instead of "soruce"?',
        ),
        (
            "train.py",
            ["--config=configs/absent.py"],
            "error: --config=configs/absent.py: no such file",
        ),
        (
            "train.py",
            ["--config=configs/eddsrn.py", "--config.validation.every_steps=0"],
            "error: config.validation.every_steps=0: expected 1 or more",
        ),
        (
            "train.py",
            ["--config=configs/eddsrn.py", "--coordinator=127.0.0.1:1", "--process_id=0"],
            "error: --coordinator=127.0.0.1:1 needs --num_processes and a --process_id",
        ),
        ("train.py", [], "FATAL Flags parsing error: flag --config=None"),
        ("train.py", ["--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean"),
    ],
)
def test_wrong_flags_end_in_one_line(script, flags, message, tmp_path):
    flags = [*flags, f"--workdir={tmp_path / 'run'}"] if script == "train.py" else flags
    run = command(script, *flags)
    out, err = run.communicate(timeout=120)
    assert run.returncode != 0
    assert message in err
    assert not out
    lines = err.strip().splitlines()
    # absl's own messages have a second line about --help.
    assert len(lines) == 1 if message.startswith("error") else len(lines) == 2
