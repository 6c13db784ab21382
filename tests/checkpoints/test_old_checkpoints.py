"""Checkpoints of earlier versions, which still resume and evaluate."""

import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from states import PROGRESS, assert_same, make_config, make_state, steps_on_disk
from tiny import metrics_rows, tiny_config

from eddsrn_jax.checkpoints.manager import Checkpoints, read_run
from eddsrn_jax.models import EDDSRN, init_params
from eddsrn_jax.training.loop import train_and_evaluate
from eddsrn_jax.training.optimizer import make_optimizer
from eddsrn_jax.training.state import create_train_state


def test_resumes_and_evaluates_a_run_of_version_0_1(tmp_path, photo_folder):
    """The archive has step 5 of a run on another folder, saved two steps after a log."""
    with zipfile.ZipFile(Path(__file__).with_name("run_of_version_0.1.zip")) as archive:
        archive.extractall(tmp_path)
    config = tiny_config(photo_folder, network="EDDSRN", ema_decay=0.9)
    assert read_run(tmp_path).step == 5
    model = EDDSRN(**config.model)
    optimizer, _ = make_optimizer(
        **config.optimizer, steps_per_epoch=4, total_steps=config.total_steps
    )
    like = create_train_state(init_params(model, jax.random.key(0)), optimizer, ema=True)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore_latest(like)
    # The program that saved the checkpoint printed these numbers.
    state, sums = restored.state, restored.progress["sums"]
    assert (state.step, restored.progress["count"]) == (5, 2)
    assert sums["loss"] == pytest.approx(0.02975842)
    assert sums["grad_norm"] == pytest.approx(0.13474105)
    stems = (tree["trunk"]["stem"]["kernel"] for tree in (state.params, state.ema_params))
    totals = [float(np.abs(stem).sum()) for stem in stems]
    assert totals == pytest.approx([52.306007, 52.302849], abs=1e-4)
    assert train_and_evaluate(config, tmp_path) is None
    first, *_ = metrics_rows(tmp_path)
    assert first["step"] == 6 and first["train/loss"] > 0.02975842 / 3
    assert steps_on_disk(tmp_path) == [6, 10]
    assert (tmp_path / "evaluation").is_dir()


class StateOfVersion01:
    """A training state that is split as version 0.1 did, with counters of its metrics."""

    def __init__(self, state):
        self.state, self.step = state, state.step

    def split(self):
        params, rest = self.state.split()
        number = jnp.asarray
        counters = {name: number(0) for name in ("skipped", "bad_step", "bad_part")}
        counters |= {"sums": {"loss": number(6.0)}, "count": number(3)}
        return params, {**rest, **counters, "bad_in_row": number(2)}


@pytest.mark.parametrize(
    "step, expected", [(7, ({"loss": 6.0}, 3)), (200, ({}, 0))], ids=["between", "at"]
)
def test_sums_of_version_0_1_are_dropped_if_they_were_logged(tmp_path, step, expected):
    """Version 0.1 kept the sums at a log step; the config logs every 100 steps."""
    with Checkpoints(tmp_path) as checkpoints:
        state = StateOfVersion01(make_state(step))
        checkpoints.save(state, make_config(), progress=PROGRESS, metrics=None)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore_latest(make_state())
    assert_same(restored.state, make_state(step))
    progress = restored.progress
    assert (progress["sums"], progress["count"]) == expected
    assert progress["bad_in_row"] == 2
