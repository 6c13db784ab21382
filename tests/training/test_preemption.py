import time

import pytest

from eddsrn_jax import distributed
from eddsrn_jax.distributed import AnyFlag, require_equal
from eddsrn_jax.errors import InputError
from eddsrn_jax.training.preemption import StopSignal


def test_a_flag_is_reported_two_calls_later():
    any_flag = AnyFlag()
    flags = (True, False, True, False, False, False)
    assert [any_flag(flag) for flag in flags] == [False, False, True, False, True, False]


def test_all_processes_stop_two_steps_after_the_time_limit_of_one(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 1)
    stop = StopSignal(deadline=time.monotonic())
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with stop:
        time.sleep(0.01)
        reasons = [stop.reason() for _ in range(3)]
    assert reasons == [None, None, "the time limit is reached"]
    assert stop.received is None


@pytest.mark.parametrize(
    ("others", "first", "second"),
    [
        ({"a": 1, "b": 2}, "b=None", "b=2"),
        ({"a": 1}, "b=None", "no b"),
        ({"a": 1, "b": None, "c": [1]}, "no c", r"c=\[1\]"),
        ([1], "{'a': 1, 'b': None}", r"\[1\]"),
    ],
)
def test_names_the_first_difference_between_processes(monkeypatch, others, first, second):
    monkeypatch.setattr(distributed, "gather", lambda value: [value, value, others])
    with pytest.raises(
        InputError, match=f"process 0 has {first}, process 2 has {second}"
    ):
        require_equal({"a": 1, "b": None}, "the configs differ")
