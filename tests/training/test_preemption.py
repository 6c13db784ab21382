import signal
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


def test_only_a_signal_a_second_later_ends_the_process(monkeypatch):
    clock = iter([10.0, 10.5, 12.0, 12.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGINT)
            # A shell may pass on the signal that its command has received as well.
            signal.raise_signal(signal.SIGINT)
            # The terminal is closed: nobody asks again.
            signal.raise_signal(signal.SIGHUP)
            assert stop.received is signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, previous)


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
