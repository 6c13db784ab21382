"""The log of a run, and resuming from the workdir alone."""

import logging
import sys

import jax
import pytest
from tiny import metrics_rows, tiny_config

from eddsrn_jax import config_values
from eddsrn_jax.config_values import from_json, read_config
from eddsrn_jax.data import progress
from eddsrn_jax.errors import InputError
from eddsrn_jax.training import loop
from eddsrn_jax.training.loop import train_and_evaluate
from eddsrn_jax.training.wandb_run import wandb_run


class Wandb:
    """A stand-in for the package wandb, with the part of its interface that is used."""

    def __init__(self):
        self.starts, self.rows, self.exit_codes = [], [], []

    def init(self, *, project, id, resume, dir, config, allow_val_change):
        assert resume == "allow" and allow_val_change
        self.starts.append((project, id, dir, config))
        return self

    def log(self, values, *, step):
        self.rows.append({"step": step, **values})

    def finish(self, exit_code):
        self.exit_codes.append(exit_code)


@pytest.fixture
def wandb(monkeypatch):
    package = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", package)
    return package


def test_a_run_writes_its_messages_and_the_versions_to_its_workdir(
    photo_folder, tmp_path, caplog, wandb
):
    config = tiny_config(photo_folder, total_steps=1, **{"data.pipeline": "resident"})
    with caplog.at_level(logging.INFO, "eddsrn_jax"):
        train_and_evaluate(config, tmp_path / "run", wandb_project="photos")
    text = (tmp_path / "run" / "train.log").read_text()
    assert f"jax {jax.__version__}, " in text.splitlines()[0]
    for part in ("compiling the training step", "first step after", "step 1/1: loss"):
        assert part in text
    assert not any(x.__module__.endswith("run_log") for x in _handlers())
    # The saved config is the one of the run.
    assert read_config(tmp_path / "run" / "config.json").to_dict() == config.to_dict()
    # Weights & Biases has the same values as the run's own log.
    assert wandb.rows == metrics_rows(tmp_path / "run", with_times=True)
    assert {"train/loss", "val/psnr_y_crop4"} <= {x for row in wandb.rows for x in row}
    ((project, _, folder, shown),) = wandb.starts
    assert (project, folder) == ("photos", str(tmp_path / "run"))
    assert shown == config.to_dict() and wandb.exit_codes == [0]


def test_a_script_that_sets_no_level_gets_all_messages_in_the_log(photo_folder, tmp_path):
    logger = logging.getLogger("eddsrn_jax")
    assert logger.level == logging.NOTSET
    config = tiny_config(photo_folder, total_steps=1, **{"data.pipeline": "resident"})
    train_and_evaluate(config, tmp_path)
    assert "step 1/1: loss" in (tmp_path / "train.log").read_text()
    assert logger.level == logging.NOTSET


def test_a_resumed_run_continues_its_run_on_weights_and_biases(tmp_path, wandb):
    config = tiny_config(tmp_path)
    with wandb_run("photos", tmp_path, config) as record:
        record(5, {"train/loss": 0.5})
    with pytest.raises(KeyError), wandb_run("photos", tmp_path, config) as record:
        raise KeyError
    assert wandb.rows == [{"step": 5, "train/loss": 0.5}]
    assert wandb.exit_codes == [0, 1]
    (_, first, *_), (_, second, *_) = wandb.starts
    assert first == second == (tmp_path / "wandb-id.txt").read_text().strip()
    (tmp_path / "other").mkdir()
    with wandb_run("photos", tmp_path / "other", config):
        assert wandb.starts[-1][1] != first


def test_a_run_that_weights_and_biases_refuses_does_not_start(
    tmp_path, wandb, monkeypatch
):
    def refuse(**_):
        raise RuntimeError("No API key configured.\nUse `wandb login`.")

    monkeypatch.setattr(wandb, "init", refuse)
    message = (
        r"--wandb=p: no run can be started \(RuntimeError: No API key configured.\)$"
    )
    with (
        pytest.raises(InputError, match=message),
        wandb_run("p", tmp_path, tiny_config(tmp_path)),
    ):
        pass


def test_a_missing_wandb_gives_one_line(call, finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, _, err = call("train", f"--workdir={finished[1]}", "--wandb=photos")
    message = 'error: wandb is not installed; run pip install "eddsrn_jax[wandb]"'
    assert (code, err.splitlines()) == (1, [message])


def _handlers():
    return [type(x) for x in logging.getLogger("eddsrn_jax").handlers]


def test_train_resumes_from_the_workdir_alone(finished, call):
    _, workdir = finished
    code, out, err = call("train", f"--workdir={workdir}")
    assert code == 0, err
    assert "x4 SR" in out


def test_changes_beside_the_workdir_apply_to_the_saved_config(
    finished, call, monkeypatch
):
    _, workdir = finished
    started = []
    monkeypatch.setattr(loop, "train_and_evaluate", lambda *a, **_: started.append(a))
    changes = ["--config.total_steps=12", "--config.optimizer.learning_rate=1e-5"]
    code, _, err = call("train", *changes, "--workdir", workdir)
    assert code == 0, err
    ((config, place),) = started
    saved = read_config(workdir / "config.json")
    assert place == workdir
    assert config_values.differences(saved, config) == {
        "total_steps": (10, 12),
        "optimizer.learning_rate": (saved.optimizer.learning_rate, 1e-5),
    }


@pytest.mark.parametrize(
    "change, code, message",
    [
        ("total_steps=9", 1, "config.total_steps=9: the run in {} has done 10 steps"),
        (
            "loss.alpha=0.3",
            1,
            "{}: this run is complete after 10 steps, so that config.loss.alpha=0.3 (it",
        ),
        (
            "seed=1",
            1,
            "config.seed=1: {} holds a run of seed 0; give another --workdir",
        ),
        ("sede=1", 2, '--config: \'sede\'. Did you mean "seed" instead of "sede"?'),
        ("data.x=1", 2, "--config: config.data has no value 'x'"),
        ("seed=-1", 1, "config.seed=-1: expected a whole number"),
    ],
)
def test_wrong_changes_beside_the_workdir_are_refused(
    finished, call, change, code, message
):
    _, workdir = finished
    found, out, err = call("train", f"--workdir={workdir}", f"--config.{change}")
    assert (found, out) == (code, "")
    assert err.splitlines()[-1].startswith(f"error: {message.format(workdir)}"), err


@pytest.mark.parametrize(
    "workdir, message",
    [
        ([], "give --config for a new run, or the --workdir of a run to resume"),
        (
            ["--workdir=/absent"],
            "--workdir=/absent: no run to resume (it has no config.js",
        ),
    ],
)
def test_changes_need_a_config_or_the_workdir_of_a_run(call, workdir, message):
    code, _, err = call("train", "--config.seed=1", *workdir)
    assert code == 2 and err.startswith(f"error: --config.seed: {message}"), err


def test_a_run_can_start_from_the_saved_config_of_another_one(
    finished, call, monkeypatch, tmp_path
):
    _, workdir = finished
    started = []
    monkeypatch.setattr(loop, "train_and_evaluate", lambda *a, **_: started.append(a))
    path = workdir / "config.json"
    code, _, err = call("train", f"--config={path}", f"--workdir={tmp_path / 'new'}")
    assert code == 0, err
    assert started == [(read_config(path), tmp_path / "new")]


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
    with (
        caplog.at_level(logging.INFO, "eddsrn_jax"),
        progress.Progress("packing photos", 3) as bar,
    ):
        bar.update()
        bar.update()
    assert caplog.messages == [f"packing photos: {i} of 3 photos" for i in (1, 2)]
