"""Tests that memory, threads and open files stay flat in long runs of real processes."""

import itertools
import re
import time
from pathlib import Path

import pytest
from PIL import Image
from processes import command
from tiny import tiny_flags

pytestmark = pytest.mark.slow


def sizes(pid):
    """Returns resident memory in kB, thread count and open-file count of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = [re.search(rf"^{n}:\s+(\d+)", status, re.M) for n in ("VmRSS", "Threads")]
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return *(int(match[1]) for match in found), files


def assert_flat(run, log, done, *, first, last):
    """Asserts that a process needs no more resources at its end than after `first` items.

    Args:
        run: process to watch.
        log: file with its messages.
        done: function that returns the number of finished items.
        first: number of items after which all repeated work has happened once.
        last: number of all items.
    """
    samples = []
    # Work after the last item is of another kind, so it is not sampled.
    while run.poll() is None and (now := done()) < last:
        if now >= first:
            samples.append((now, *sizes(run.pid)))
        time.sleep(0.05)
    run.communicate(timeout=300)
    assert run.returncode == 0, log.read_text()
    tenth = (last - first) / 10
    begin, middle, end = (
        [sample for sample in samples if start <= sample[0] <= start + tenth]
        for start in (first, first + 4.5 * tenth, last - tenth)
    )
    # The minimum of each part counts, because saving and validating briefly take more.
    for name, i in (("kB of memory", 1), ("threads", 2), ("open files", 3)):
        low, halfway, high = (min(s[i] for s in part) for part in (begin, middle, end))
        print(f"\n{name}: {low} at {begin[0][0]}, then {halfway}, {high} at {end[-1][0]}")
        if i == 1:
            assert high <= 1.05 * low
            # Memory that only the start needs could hide growth, so the middle counts.
            assert high <= 1.05 * halfway
        else:
            # Pools start threads late, so two more are allowed. A leak of one thread for
            # each save would add dozens.
            assert high <= low + (2 if i == 2 else 0)


def test_resources_stay_flat_over_3000_training_steps(finished, tmp_path):
    folder, _ = finished
    log = tmp_path / "log"
    flags = tiny_flags(
        folder,
        tmp_path / "run",
        **{"total_steps": 3000, "log_every_steps": 10, "batch_size": 4},
        **{"checkpoint.every_steps": 50, "validation.every_steps": 100},
    )
    with log.open("w") as file:
        run = command("train.py", *flags, stderr=file)

    def done():
        return max(map(int, re.findall(r" step (\d+)/", log.read_text())), default=0)

    assert_flat(run, log, done, first=300, last=3000)


@pytest.fixture(scope="module")
def five_hundred(tmp_path_factory, photo):
    """Makes a folder of 500 small photos of four sizes."""
    folder = tmp_path_factory.mktemp("many")
    places = itertools.product(range(0, 200, 10), range(0, 300, 12))
    for i, (top, left) in enumerate(places):
        part = photo[top : top + 80 + 8 * (i % 2), left : left + 96 + 8 * (i // 2 % 2)]
        Image.fromarray(part).save(folder / f"{i:03}.png")
    assert i == 499
    return folder


@pytest.mark.parametrize("script", ["evaluate.py", "restore.py"])
def test_resources_stay_flat_over_500_photos(five_hundred, tmp_path, script):
    log, out = tmp_path / "log", tmp_path / "out"
    flags = [f"--output_dir={out}"]
    if script == "evaluate.py":
        flags += [f"--dataset=many={five_hundred}", "--sigmas=1", "--save_images"]
    else:
        flags += [str(five_hundred)]
    with log.open("w") as file:
        run = command(script, *flags, stderr=file)
    names = "*_x4.png" if script == "restore.py" else "images/many/*/*_input.png"
    assert_flat(run, log, lambda: len(list(out.glob(names))), first=50, last=500)
