"""The choice of the best checkpoint: infinite scores, changed validation sets."""

import json

import pytest
from states import PROGRESS, make_config, make_state, steps_on_disk
from tiny import tiny_config

from eddsrn_jax.checkpoints.manager import Checkpoints
from eddsrn_jax.checkpoints.ranking import BEST_METRICS, VALIDATION_SET, best_step
from eddsrn_jax.training.loop import train_and_evaluate

SCORE = BEST_METRICS[0]


@pytest.mark.parametrize(
    "metrics, best",
    [
        ({}, None),
        ({1: None}, None),
        ({1: {SCORE: 24.0}, 2: {SCORE: 26.0}, 3: {SCORE: 25.0}}, 2),
        ({1: {SCORE: 24.0}, 2: {SCORE: 24.0}}, 2),
        # Version 0.1 could save an infinite score.
        ({1: {SCORE: 24.0}, 2: {SCORE: float("inf")}, 3: {SCORE: 23.0}}, 1),
        # Another set of validation photos has scores of its own.
        ({1: {SCORE: 40.0, VALIDATION_SET: 7}, 2: {SCORE: 24.0, VALIDATION_SET: 8}}, 2),
        ({1: {SCORE: 40.0, VALIDATION_SET: 7}, 2: None}, 1),
        ({1: {SCORE: 26.0}, 2: {SCORE: 24.0, VALIDATION_SET: 8}}, 1),
    ],
)
def test_best_step_is_the_highest_finite_score_of_the_newest_set(metrics, best):
    assert best_step(metrics) == best


def save(workdir, scores):
    """Saves checkpoints; `scores` has a validation score and its set for each step."""
    with Checkpoints(workdir) as checkpoints:
        for step, (score, number) in scores.items():
            metrics = {SCORE: score, VALIDATION_SET: number}
            checkpoints.save(
                make_state(step), make_config(), progress=PROGRESS, metrics=metrics
            )
        checkpoints.wait()


def test_scores_of_an_earlier_validation_set_do_not_keep_a_checkpoint(tmp_path):
    save(tmp_path, {1: (40.0, 7), 2: (24.0, 8), 3: (26.0, 8), 4: (25.0, 8)})
    assert steps_on_disk(tmp_path) == [3, 4]
    save(tmp_path, {5: (25.0, 8), 6: (25.5, 8)})
    assert steps_on_disk(tmp_path) == [3, 5, 6]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore_params()[0] == 3


def test_an_infinite_score_of_version_01_does_not_stay_the_best(tmp_path):
    save(tmp_path, {1: (float("inf"), 8), 2: (24.0, 8), 3: (23.0, 8), 4: (22.0, 8)})
    assert steps_on_disk(tmp_path) == [2, 3, 4]


def test_a_run_that_is_validated_otherwise_starts_a_new_ranking(tmp_path, photo_folder):
    """The second validation has more blur, so that its scores are lower."""
    workdir = tmp_path / "run"
    every = {"validation.every_steps": 1, "checkpoint.every_steps": 1}
    sharp = {**every, "total_steps": 1, "validation.sigmas": (0.0,)}
    train_and_evaluate(tiny_config(photo_folder, **sharp), workdir)
    blurred = {**every, "total_steps": 2, "validation.sigmas": (8.0,)}
    train_and_evaluate(tiny_config(photo_folder, **blurred), workdir)
    scores, sets = {}, set()
    for step in (1, 2):
        path = workdir / "checkpoints" / str(step) / "metrics" / "metrics"
        metrics = json.loads(path.read_text())
        scores[step] = metrics[SCORE]
        sets.add(metrics[VALIDATION_SET])
    assert scores[1] > scores[2] and len(sets) == 2
    with Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.restore_params()[0] == 2


def save_steps(workdir, steps, *, keep_every_steps):
    config = make_config()
    config.checkpoint.keep_every_steps = keep_every_steps
    with Checkpoints(workdir, keep_every_steps=keep_every_steps) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step), config, progress=PROGRESS, metrics=None)


def test_keeps_the_checkpoints_at_multiples_of_a_number_of_steps(tmp_path):
    save_steps(tmp_path, range(1, 9), keep_every_steps=3)
    assert steps_on_disk(tmp_path) == [3, 6, 7, 8]
    # A resumed run with another number deletes none of those.
    save_steps(tmp_path, range(9, 12), keep_every_steps=5)
    assert steps_on_disk(tmp_path) == [3, 6, 10, 11]
    save_steps(tmp_path, [12, 13], keep_every_steps=0)
    assert steps_on_disk(tmp_path) == [3, 6, 10, 12, 13]
