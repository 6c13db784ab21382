"""Tests how the metrics of steps are averaged on the host, and when they stop a run."""

import numpy as np
import pytest

from eddsrn_jax.training.step import CHECKED_PARTS
from eddsrn_jax.training.step_metrics import StepMetrics


def make(on_bad_step="skip", saved=None):
    return StepMetrics(
        on_bad_step=on_bad_step, describe=lambda step: f"crops of {step}", saved=saved
    )


def add(metrics, step, loss, bad_part=-1):
    metrics.add(step, {"loss": np.float32(loss), "bad_part": np.int32(bad_part)})


def test_means_are_those_of_the_steps_since_the_last_call():
    metrics = make()
    for step, loss in enumerate((0.5, 1.0, 3.0), 1):
        add(metrics, step, loss)
    assert metrics.pop_means() == {"loss": 1.5}
    add(metrics, 4, 0.25)
    assert metrics.pop_means() == {"loss": 0.25}
    assert metrics.pop_means() == {}


def test_means_are_empty_if_the_saved_sums_have_no_step():
    metrics = make(saved={"sums": {"loss": 0.0}, "count": 0, "bad_in_row": 3})
    add(metrics, 4, np.nan, bad_part=1)
    assert metrics.pop_means() == {}


def test_skipped_steps_count_in_no_mean_and_are_reported_once(caplog):
    metrics = make()
    add(metrics, 1, 2.0)
    add(metrics, 2, np.nan, bad_part=1)
    assert metrics.pop_means() == {"loss": 2.0}
    assert caplog.messages == ["skipped 1 steps with non-finite values"]
    metrics.finish()
    assert len(caplog.messages) == 1


def test_sums_and_consecutive_skips_survive_an_interruption():
    metrics = make()
    for step in range(1, 9):
        add(metrics, step, 1.0, bad_part=1 if step > 3 else -1)
    metrics.finish()
    resumed = make(saved=metrics.to_json())
    for step in range(9, 15):
        add(resumed, step, 1.0, bad_part=1)
    # Steps 4 to 14 are eleven in a row.
    with pytest.raises(FloatingPointError, match="step 14: non-finite .* in the loss"):
        resumed.finish()
    resumed = make(saved=metrics.to_json())
    add(resumed, 9, 5.0)
    assert resumed.pop_means() == {"loss": 2.0}


@pytest.mark.parametrize("index, part", list(enumerate(CHECKED_PARTS)))
def test_the_first_nonfinite_step_stops_a_run_that_skips_none(index, part):
    metrics = make("stop")
    add(metrics, 1, 1.0)
    add(metrics, 2, np.nan, bad_part=index)
    message = f"step 2: non-finite values, first in the {part}; its batch: crops of 1; ea"
    with pytest.raises(FloatingPointError, match=message):
        metrics.finish()


def test_a_nonfinite_step_is_noticed_at_most_two_steps_later():
    metrics = make("stop")
    add(metrics, 1, np.nan, bad_part=2)
    add(metrics, 2, 1.0)
    with pytest.raises(FloatingPointError, match="step 1: non-finite .* in the gradient"):
        add(metrics, 3, 1.0)


def test_ten_consecutive_skips_are_allowed_and_a_good_step_restarts_the_count():
    metrics = make()
    for step in range(1, 22):
        add(metrics, step, 1.0, bad_part=-1 if step == 11 else 1)
    metrics.finish()
    add(metrics, 22, 1.0, bad_part=1)
    with pytest.raises(FloatingPointError, match="step 22"):
        metrics.finish()
