"""Resumed runs whose configs ask for something that a resumption cannot do."""

import os
import shutil

import pytest
from tiny import SMALL, tiny_config

from eddsrn_jax.checkpoints.manager import Checkpoints
from eddsrn_jax.errors import InputError
from eddsrn_jax.models import EDDSRN
from eddsrn_jax.training.loop import train_and_evaluate
from eddsrn_jax.training.resuming import check_resumption, count_steps
from eddsrn_jax.training.setup import load_params

COSINE = {"optimizer.schedule": "warmup_cosine", "optimizer.learning_rate": 1e-3}


def resume(saved, config, tmp_path, *, step=10):
    # Five crops of each of seven photos make four steps an epoch.
    check_resumption(saved, config, tmp_path, step=step, num_photos=7)


def test_initial_weights_are_refused_for_a_workdir_that_holds_a_run(finished, tmp_path):
    folder, workdir = finished
    workdir = shutil.copytree(workdir, tmp_path / "run")
    config = tiny_config(folder, init_from=str(finished[1]), total_steps=12)
    message = f"init_from={finished[1]}: {workdir} already holds a run of 10 steps"
    with pytest.raises(InputError, match=message):
        train_and_evaluate(config, workdir)


def test_a_run_that_began_with_initial_weights_can_resume_with_them(tmp_path, caplog):
    config = tiny_config(tmp_path, init_from="runs/before", total_steps=20)
    resume(config, config, tmp_path)
    assert not caplog.text


@pytest.mark.parametrize(
    "name, value",
    [
        *(("optimizer.learning_rate", 1e-4), ("loss.sr", "l1")),
        *(("model.dtype", "bfloat16"), ("data.source", "folder:/other")),
        *(("batch_size", 16), ("degradation.sigma_range", (0.0, 3.0))),
    ],
)
def test_a_complete_run_refuses_values_that_would_have_no_effect(tmp_path, name, value):
    old, new = tiny_config(tmp_path), tiny_config(tmp_path, **{name: value})
    with pytest.raises(InputError, match="is complete after 10 steps") as caught:
        resume(old, new, tmp_path)
    assert f"config.{name}={value!r} (it was " in str(caught.value)
    # An incomplete run takes the new value for its other steps.
    resume(old, new, tmp_path, step=9)


def test_a_complete_run_may_be_scored_again_with_other_validation_settings(tmp_path):
    changes = {"validation.sigmas": (2.0,), "pipeline.prefetch": 2, "num_epochs": 7}
    resume(tiny_config(tmp_path), tiny_config(tmp_path, **changes), tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"total_steps": 9}, "config.total_steps=9: the run in .* has done 10 steps"),
        ({"total_steps": 0, "num_epochs": 2}, "config.num_epochs=2: .* than these 8;"),
    ],
)
def test_refuses_fewer_steps_than_are_done(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        resume(tiny_config(tmp_path), tiny_config(tmp_path, **changes), tmp_path)


def test_a_jump_of_the_learning_rate_is_reported_with_a_remedy(tmp_path, caplog):
    old = tiny_config(tmp_path, **COSINE)
    resume(old, tiny_config(tmp_path, **COSINE, total_steps=20), tmp_path)
    (message,) = (text for text in caplog.messages if "jumps" in text)
    # Half a cosine of 20 steps is at its middle after 10: (1e-3 + 1e-5) / 2. The last
    # rate of the shorter one is 1e-5 + (1e-3 - 1e-5) * (1 + cos(0.9 pi)) / 2.
    assert "jumps from 3.42e-05 to 0.000505 at step 10" in message
    remedy = {
        "optimizer.schedule": "warmup_constant_decay",
        "optimizer.learning_rate": 3.42e-5,
        "optimizer.warmup_steps": 0,
    }
    assert "--config.optimizer.learning_rate=3.42e-05" in message
    caplog.clear()
    resume(old, tiny_config(tmp_path, **{**COSINE, **remedy}, total_steps=20), tmp_path)
    assert "jumps" not in caplog.text


def test_a_jump_because_an_epoch_has_fewer_steps_is_reported(tmp_path, caplog):
    paper = {"optimizer.schedule": "step_decay", "optimizer.halve_every_epochs": 3}
    old = tiny_config(tmp_path, **paper, total_steps=40)
    resume(
        old,
        tiny_config(tmp_path, **paper, total_steps=40, **{"loss.alpha": 0.3}),
        tmp_path,
    )
    assert "jumps" not in caplog.text
    resume(old, tiny_config(tmp_path, **paper, total_steps=40, batch_size=16), tmp_path)
    # Step 10 is in the third epoch of four steps, but in the sixth of two.
    assert "at step 10, because an epoch has 2 steps now instead of 4" in caplog.text


def test_rejects_more_steps_than_JAX_can_count(tmp_path):
    config = tiny_config(tmp_path, num_epochs=10**8, total_steps=0)
    assert count_steps(config, 21) == 2_100_000_000
    with pytest.raises(
        InputError, match="config.num_epochs=100000000: these are 22000000"
    ):
        count_steps(config, 22)


def test_other_processes_may_have_their_photos_elsewhere(tmp_path, monkeypatch):
    saved, config = (tiny_config(tmp_path / name) for name in ("first", "second"))
    with pytest.raises(InputError, match="config.data.source="):
        resume(saved, config, tmp_path)
    monkeypatch.setattr("jax.process_index", lambda: 1)
    resume(saved, config, tmp_path)


def test_a_refused_run_leaves_the_record_of_its_photos(finished, tmp_path):
    folder, workdir = finished
    workdir = shutil.copytree(workdir, tmp_path / "run")
    before = (workdir / "photographs.json").read_text()
    other = shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(InputError, match="is complete after 10 steps"):
        train_and_evaluate(tiny_config(other), workdir)
    assert (workdir / "photographs.json").read_text() == before


def test_initial_weights_are_looked_for_before_the_photos_are_packed(tmp_path):
    config = tiny_config(tmp_path / "no photos", init_from=str(tmp_path / "absent"))
    with pytest.raises(InputError, match="config.init_from=.*absent: no such file"):
        train_and_evaluate(config, tmp_path / "run")


def test_more_steps_of_a_constant_rate_are_no_jump(tmp_path, caplog):
    resume(tiny_config(tmp_path), tiny_config(tmp_path, total_steps=20), tmp_path)
    assert caplog.messages == ["config.total_steps is now 20, it was 10"]


# places of weights --------------------------------------------------------------------


def test_errors_about_initial_weights_name_the_kind_of_fault(finished, tmp_path):
    _, workdir = finished
    (tmp_path / "net.pth").write_bytes(b"x")
    for place, message in {
        tmp_path / "absent": "absent: no such file or folder",
        tmp_path / "net.pth": r"net.pth: files of the format .pth cannot be read; expec",
        workdir / "checkpoints": f"a part of a run, whose workdir is {workdir}",
        workdir / "checkpoints" / "10": f"a part of a run, whose workdir is {workdir}",
        tmp_path: "no checkpoints found; is it a run's workdir",
    }.items():
        with pytest.raises(InputError, match=message):
            load_params(place, EDDSRN(**SMALL))


def test_errors_about_workdirs_name_the_kind_of_fault(tmp_path):
    (tmp_path / "file").touch()
    for name, message in {
        "absent": "absent: no checkpoints found; there is no such folder",
        "file": "file: no checkpoints found; this is a file, not the workdir of a run",
    }.items():
        with pytest.raises(InputError, match=message):
            Checkpoints(tmp_path / name, read_only=True)
    assert os.listdir(tmp_path) == ["file"]
