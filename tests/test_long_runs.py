"""Long runs stay flat: memory, open files and threads of the real processes."""

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
    """Resident memory in kB, threads, and open files of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = [re.search(rf"^{n}:\s+(\d+)", status, re.M) for n in ("VmRSS", "Threads")]
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    return *(int(match[1]) for match in found), files


def assert_flat(run, log, done, *, first, last):
    """Watches a run; what it holds at the end it held when `first` things were done.

    Args:
        run: a process.
        log: the file with its messages.
        done: returns how many are done.
        first: by then everything that repeats has been done once.
        last: all of them.
    """
    samples = []
    # What comes after the last one is another thing.
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
    # The least of a while: what is saved or validated for that time takes more of all.
    for name, i in (("kB of memory", 1), ("threads", 2), ("open files", 3)):
        low, halfway, high = (min(s[i] for s in part) for part in (begin, middle, end))
        print(f"\n{name}: {low} at {begin[0][0]}, then {halfway}, {high} at {end[-1][0]}")
        if i == 1:
            assert high <= 1.05 * low
            # Nor what it grew by after something that the start alone has was freed.
            assert high <= 1.05 * halfway
        else:
            # Pools start threads when they first need them; one a save would be dozens.
            assert high <= low + (2 if i == 2 else 0)


def test_three_thousand_steps(finished, tmp_path):
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
    """Small photographs of four sizes."""
    folder = tmp_path_factory.mktemp("many")
    places = itertools.product(range(0, 200, 10), range(0, 300, 12))
    for i, (top, left) in enumerate(places):
        part = photo[top : top + 80 + 8 * (i % 2), left : left + 96 + 8 * (i // 2 % 2)]
        Image.fromarray(part).save(folder / f"{i:03}.png")
    assert i == 499
    return folder


@pytest.mark.parametrize("script", ["evaluate.py", "restore.py"])
def test_five_hundred_photographs(five_hundred, tmp_path, script):
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
