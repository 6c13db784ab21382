"""Tests whole training runs, with a network that compiles in seconds."""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from processes import ROOT
from tiny import PLAIN, final_state, metrics_rows, tiny_config, tiny_flags

from eddsrn_jax.checkpoints.manager import Checkpoints, read_run
from eddsrn_jax.checkpoints.weights import Network, load_weights, write_network
from eddsrn_jax.errors import InputError
from eddsrn_jax.images import read_image
from eddsrn_jax.models import VDSR, init_params
from eddsrn_jax.training import validator
from eddsrn_jax.training.loop import train_and_evaluate
from eddsrn_jax.training.preemption import StopSignal
from eddsrn_jax.training.progress import Reporter, Tracer


@pytest.fixture
def stop_at(monkeypatch):
    """Returns a function that makes runs receive SIGTERM after the given step."""

    advance = Reporter.advance

    def arrange(step):
        def interrupt(self, now):
            if now == step:
                os.kill(os.getpid(), signal.SIGTERM)
            advance(self, now)

        monkeypatch.setattr(Reporter, "advance", interrupt)

    return arrange


def test_run_writes_metrics_results_figure_and_config(finished_eddsrn):
    _, workdir = finished_eddsrn
    rows = metrics_rows(workdir, with_times=True)
    assert [r["step"] for r in rows if "train/loss" in r] == [3, 6, 9, 10]
    assert [r["step"] for r in rows if "val/psnr_y_crop4" in r] == [6, 10]
    assert rows[0]["train/learning_rate"] == pytest.approx(5e-4)
    assert 0 <= rows[0]["time/share_waiting_for_data"] <= 1
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    scores = {r["step"]: r["val/psnr_y_crop4"] for r in rows if "val/psnr_y_crop4" in r}
    # The best step is evaluated, not the last.
    folder = workdir / "evaluation" / str(max(scores, key=scores.get))
    results = json.loads((folder / "results.json").read_text())
    assert {m["method"] for m in results["means"]} == {
        *("bicubic", "blurred input", "ED-DSRN")
    }
    assert results["protocol"]["config"]["model"]["features"] == [4, 4, 4, 4]
    (picture,) = folder.glob("before_after_*.png")
    assert read_image(picture).shape[0] > 100
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["batch_size"] == 8


def test_tensorboard_has_scalars_and_pictures(finished):
    _, workdir = finished
    from tensorboardX.proto import event_pb2

    # A record is a length (8 bytes), its checksum (4), an event and its checksum (4).
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
    """The run stops within an epoch of four steps and continues across its end."""
    folder, reference = finished
    config, workdir = tiny_config(folder), tmp_path / "run"
    stop_at(5)
    with caplog.at_level(logging.INFO, "eddsrn_jax"):
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


def test_signal_during_the_last_save_skips_the_final_evaluation(
    finished, tmp_path, monkeypatch, caplog
):
    folder, _ = finished
    config, workdir = tiny_config(folder, total_steps=2), tmp_path / "run"
    with caplog.at_level(logging.INFO, "eddsrn_jax"), monkeypatch.context() as patched:
        patched.setattr(Reporter, "keep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        assert train_and_evaluate(config, workdir) == signal.SIGTERM
    assert "stopped: trained and saved, but not evaluated" in caplog.text
    assert not (workdir / "evaluation").exists()
    assert train_and_evaluate(config, workdir) is None
    assert (workdir / "evaluation" / "2").is_dir()


def test_reporter_drops_malformed_and_later_metrics_rows(tmp_path):
    rows = [json.dumps({"step": step, "loss": 0.5}).encode() for step in (1, 2, 3)]
    spoilt = [b"5", b"[]", b"{}", b'{"step": "a"}', b"\xff\xfe", bytes(4), rows[0][:9]]
    lines = [rows[0], *spoilt, *rows[1:], spoilt[-1]]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    with Reporter(tmp_path, range(2, 9), active=True) as reporter:
        reporter.scalars(3, {"loss": 0.25})
    assert metrics_rows(tmp_path) == [
        {"step": step, "loss": loss} for step, loss in ((1, 0.5), (2, 0.5), (3, 0.25))
    ]


def test_a_hang_up_stops_a_run_except_under_nohup():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason() is None
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason() == "SIGHUP"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_trace_ends_with_a_run_that_has_too_few_steps_left(tmp_path):
    with Tracer(tmp_path, 5) as tracer:
        tracer.after_step(jax.numpy.zeros(1))
    assert [*tmp_path.rglob("*.xplane.pb")]


def test_restarting_a_finished_run_adds_no_metrics(finished):
    folder, workdir = finished
    before = metrics_rows(workdir, with_times=True)
    assert train_and_evaluate(tiny_config(folder), workdir) is None
    assert metrics_rows(workdir, with_times=True) == before


def test_resuming_logs_changed_config_values(finished, tmp_path, caplog):
    folder, workdir = finished
    workdir = shutil.copytree(workdir, tmp_path / "run")
    config = tiny_config(folder, total_steps=11, **{"loss.alpha": 0.3})
    train_and_evaluate(config, workdir)
    assert "config.loss.alpha is now 0.3, it was 0.2" in caplog.text


def test_rejects_a_workdir_of_another_architecture(finished):
    folder, workdir = finished
    config = tiny_config(folder, **{"model.num_layers": 4})
    with pytest.raises(InputError, match="another architecture: conv1"):
        train_and_evaluate(config, workdir)


def test_run_starts_from_the_weights_of_a_workdir_or_file(finished, tmp_path):
    """Weights from a workdir or a file start at step 0, with a fresh optimizer."""
    folder, source = finished
    network = read_run(source)
    trained = network.params
    write_network(tmp_path / "w.safetensors", network, dtype="float32")
    states = []
    for i, origin in enumerate((source, tmp_path / "w.safetensors")):
        config = tiny_config(folder, init_from=str(origin), total_steps=1)
        train_and_evaluate(config, tmp_path / f"run{i}")
        states.append(final_state(tmp_path / f"run{i}", 1))
    jax.tree.map(np.testing.assert_array_equal, *states)
    # Adam's first step moves each value by at most the learning rate.
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), states[0].params, trained)
    assert 0 < max(jax.tree.leaves(moved)) <= 5.01e-4


def test_rejects_initial_weights_of_another_architecture(finished, tmp_path):
    folder, _ = finished
    other = VDSR(**PLAIN | {"features": 5})
    params = init_params(other, jax.random.key(0))
    network = Network(other, params, "other", 0, (1.0, 2.0))
    write_network(tmp_path / "w.safetensors", network)
    config = tiny_config(folder, init_from=str(tmp_path / "w.safetensors"))
    with pytest.raises(InputError, match=r"w.safetensors has another .*conv0"):
        train_and_evaluate(config, tmp_path / "run")
    with pytest.raises(InputError, match=r"absent.safetensors: cannot be read"):
        load_weights(tmp_path / "absent.safetensors", {})


def test_run_without_a_deblurring_head_writes_no_deblurring_metrics(finished):
    _, workdir = finished
    names = {name for row in metrics_rows(workdir) for name in row}
    assert names == {
        *("step", "train/loss", "train/loss_sr", "train/grad_norm"),
        *("train/learning_rate", "val/psnr_y_crop4"),
    }
    best = str(read_run(workdir).step)
    results = (workdir / "evaluation" / best / "results.json").read_text()
    assert {m["output"] for m in json.loads(results)["means"]} == {"sr"}


@pytest.mark.parametrize("rate", [1e3, pytest.param(1e12, marks=pytest.mark.slow)])
def test_nonfinite_value_stops_the_run_and_names_step_and_batch(finished, tmp_path, rate):
    folder, _ = finished
    config = tiny_config(
        folder, **{"optimizer.learning_rate": rate, "checkpoint.every_steps": 1}
    )
    with pytest.raises(
        FloatingPointError,
        match=r"step [23]: non-finite values, first in .*; its batch: photo\d.png at \(",
    ):
        train_and_evaluate(config, tmp_path / "run")
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.restore_params()[0] in (1, 2)


def test_run_ends_after_more_than_ten_consecutive_nonfinite_steps(
    finished, tmp_path, caplog
):
    folder, _ = finished
    changes = {"optimizer.learning_rate": 1e3, "on_bad_step": "skip", "total_steps": 30}
    config = tiny_config(folder, **changes, **{"validation.every_steps": 30})
    with pytest.raises(FloatingPointError, match=r"step 12: non-finite values, first in"):
        train_and_evaluate(config, tmp_path / "run")
    assert "skipped 3 steps with non-finite values" in caplog.text


def test_run_continues_when_all_steps_since_the_last_log_were_skipped(
    finished, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "eddsrn_jax")
    folder, _ = finished
    changes = {"optimizer.learning_rate": 1e12, "on_bad_step": "skip", "total_steps": 6}
    config = tiny_config(folder, **changes, log_every_steps=1)
    # All steps run, but the first one may leave a network that cannot be scored.
    with contextlib.suppress(FloatingPointError):
        train_and_evaluate(config, tmp_path / "run")
    rows = [r for r in metrics_rows(tmp_path / "run") if "train/learning_rate" in r]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert "train/loss" in rows[0] and "train/loss" not in rows[-1]
    assert "step 6/6: no loss (all steps skipped)" in caplog.text


def test_validation_of_nonfinite_results_names_the_step(finished, tmp_path, monkeypatch):
    folder, _ = finished
    message = "the network's result is not finite"

    def overflow(*_, **__):
        raise FloatingPointError(message)

    monkeypatch.setattr(validator, "validate", overflow)
    with pytest.raises(FloatingPointError, match=f"^step 1: validation: {message}"):
        train_and_evaluate(tiny_config(folder, total_steps=1), tmp_path / "run")


def test_rejects_a_workdir_that_cannot_be_created(finished, tmp_path):
    folder, _ = finished
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--workdir=.*file/run: the folder cannot be"):
        train_and_evaluate(tiny_config(folder), tmp_path / "file" / "run")


def test_resident_pipeline_matches_streaming_without_tensorflow(finished, tmp_path):
    """A resident run equals a streaming one bit for bit, and imports no TensorFlow."""
    folder, workdir = finished
    flags = tiny_flags(folder, tmp_path / "run", **{"data.pipeline": "resident"})
    code = (
        "import runpy, sys; sys.modules['tensorflow'] = None;"
        "sys.modules['tensorflow_datasets'] = None;"
        "runpy.run_path('train.py', run_name='__main__')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    jax.tree.map(
        np.testing.assert_array_equal,
        final_state(tmp_path / "run", 10),
        final_state(workdir, 10),
    )
    assert metrics_rows(tmp_path / "run") == metrics_rows(workdir)


def test_checkpoint_params_are_the_averaged_weights(finished_eddsrn):
    _, workdir = finished_eddsrn
    with Checkpoints(workdir) as checkpoints:
        kept = checkpoints.restore_params(10)[2]
    raw = final_state(workdir, 10, ema=True)
    jax.tree.map(np.testing.assert_array_equal, kept, raw.ema_params)
    apart = jax.tree.map(lambda a, b: np.abs(a - b).max(), raw.params, raw.ema_params)
    assert max(jax.tree.leaves(apart)) > 1e-4


def test_a_run_with_muon_resumes_bit_for_bit_and_only_with_muon(finished, tmp_path):
    folder, adam = finished
    config = tiny_config(folder, total_steps=3, **{"optimizer.name": "muon"})
    train_and_evaluate(config, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    assert train_and_evaluate(config, stopped, max_minutes=0.0) is None
    train_and_evaluate(config, stopped)
    whole, resumed = (
        final_state(tmp_path / name, 3, optimizer="muon") for name in ("whole", "stopped")
    )
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    for workdir, name in ((stopped, "adam"), (adam, "muon")):
        config = tiny_config(folder, total_steps=12, **{"optimizer.name": name})
        with pytest.raises(
            InputError,
            match="saved by another optimizer or version of it, and .*init_from",
        ):
            train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_the_average_is_bit_identical_in_a_run_that_stops_and_resumes(finished, tmp_path):
    folder, _ = finished
    config = tiny_config(folder, ema_decay=0.9)
    train_and_evaluate(config, tmp_path / "whole")
    raw = final_state(tmp_path / "whole", 10, ema=True)
    stopped = tmp_path / "stopped"
    assert train_and_evaluate(config, stopped, max_minutes=0.0) is None
    assert not (stopped / "evaluation").exists()
    assert metrics_rows(stopped) == []
    train_and_evaluate(config, stopped)
    jax.tree.map(np.testing.assert_array_equal, final_state(stopped, 10, ema=True), raw)
    with pytest.raises(InputError, match="saved with an average .* config.ema_decay"):
        train_and_evaluate(tiny_config(folder), stopped)


def test_profile_steps_writes_a_trace(finished, tmp_path):
    folder, _ = finished
    config = tiny_config(folder, total_steps=4)
    train_and_evaluate(config, tmp_path / "run", profile_steps=2)
    (trace,) = (tmp_path / "run" / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000


def test_photo_degradations_reach_steps_validation_and_evaluation(tmp_path, photo_folder):
    photo = {
        "degradation.sigma_range": (1.0, 2.0),
        "degradation.anisotropic_share": 0.3,
        "degradation.noise_share": 0.5,
        "degradation.max_noise": 12.0,
        "degradation.jpeg_share": 0.5,
        "degradation.jpeg_quality": (30, 100),
    }
    rows, cells = {}, {}
    for name, degradation in {"paper": {}, "photo": photo}.items():
        changes = {
            "total_steps": 1,
            "validation.sigmas": (0.0, 2.0),
            "validation.degradation": name,
            **degradation,
        }
        config = tiny_config(photo_folder, **changes)
        assert train_and_evaluate(config, tmp_path / name) is None
        rows[name] = metrics_rows(tmp_path / name)
        path = tmp_path / name / "evaluation/1/results.json"
        means = json.loads(path.read_text())["means_by_sigma"]
        cells[name] = {(mean["sigma"], mean["noise"], mean["jpeg"]) for mean in means}
    for key in ("train/loss", "val/psnr_y_crop4"):
        paper, photo = ([r[key] for r in rows[name] if key in r] for name in rows)
        assert len(paper) == len(photo) == 1 and paper != photo
    assert cells["paper"] == {(s, 0, None) for s in (1, 1.25, 1.5, 1.75, 2)}
    assert cells["photo"] == {
        (s, n, j) for s in (0, 2) for n in (0, 5) for j in (None, 75)
    }
