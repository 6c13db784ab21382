"""The log of a run, and resuming from the workdir alone."""

import logging

import jax
import pytest
from tiny import tiny_config

from eddsrn_jax.config_values import from_json, read_config
from eddsrn_jax.data import progress
from eddsrn_jax.errors import InputError
from eddsrn_jax.training.loop import train_and_evaluate


def test_a_run_writes_its_messages_and_the_versions_to_its_workdir(
    photo_folder, tmp_path, caplog
):
    config = tiny_config(photo_folder, total_steps=1, **{"data.pipeline": "resident"})
    with caplog.at_level(logging.INFO, "eddsrn_jax"):
        train_and_evaluate(config, tmp_path / "run")
    text = (tmp_path / "run" / "train.log").read_text()
    assert f"jax {jax.__version__}, " in text.splitlines()[0]
    for part in ("compiling the training step", "first step after", "step 1/1: loss"):
        assert part in text
    assert not any(x.__module__.endswith("run_log") for x in _handlers())
    # The saved config is the one of the run.
    assert read_config(tmp_path / "run" / "config.json").to_dict() == config.to_dict()


def _handlers():
    return [type(x) for x in logging.getLogger("eddsrn_jax").handlers]


def test_train_resumes_from_the_workdir_alone(finished, call):
    _, workdir = finished
    code, out, err = call("train", f"--workdir={workdir}")
    assert code == 0, err
    assert "x4 SR" in out


@pytest.mark.parametrize("content", ["", "[]", "5", "[" * 100_000])
def test_rejects_a_damaged_saved_config(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config.json: not the config of a run \("):
        read_config(tmp_path / "config.json")


def test_a_config_without_later_values_keeps_its_behaviour():
    config = from_json({"checkpoint": {"every_steps": 5}})
    assert config.checkpoint.to_dict() == {"every_steps": 5, "keep_every_steps": 0}


def test_progress_is_logged_without_a_terminal(monkeypatch, caplog):
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    with caplog.at_level(logging.INFO), progress.Progress("packing photos", 3) as bar:
        bar.update()
        bar.update()
    assert caplog.messages == [f"packing photos: {i} of 3 photos" for i in (1, 2)]
