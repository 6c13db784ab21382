"""Trains within a time limit, start to weights: python -m benchmarks.train_in_minutes.

For an accelerator that is at hand for minutes: packs the photographs, measures the step,
sets the schedule to the time that is left, trains (without TensorFlow), evaluates, and
writes the best weights in bfloat16, in pieces. `cat weights.safetensors.*` joins them; a
later run goes on from there with --config.init_from.
"""

import time
from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from eddsrn_jax.runtime import make_folder, run_command

_CONFIG = config_flags.DEFINE_config_file("config", "configs/eddsrn_plus.py", "Recipe.")
_PHOTOS = flags.DEFINE_string("photos", None, "Folder to train on.", required=True)
_VALID = flags.DEFINE_string("valid", None, "Folder to validate on.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", "runs/in_minutes", "For the run.")
_OUT = flags.DEFINE_string("out", None, "Folder for weights and logs.", required=True)
_MINUTES = flags.DEFINE_float("minutes", 25, "For everything.", lower_bound=0.1)
_STEPS = flags.DEFINE_integer("steps", 0, "Instead of what the minutes allow.")
_PIECE = 15 * 2**20
# Of the time that is left after the first step: for validation, saving and evaluation.
_SHARE = 0.85
_TIMED_STEPS = 20


def main() -> None:
    """Trains by the flags."""
    # Here, so that --help answers at once.
    from benchmarks.steps import prepare_step, random_batch
    from eddsrn_jax.assembly import open_data
    from eddsrn_jax.checkpoint import read_run
    from eddsrn_jax.training import train_and_evaluate
    from eddsrn_jax.weights import write_network

    start = time.monotonic()
    out, workdir = Path(_OUT.value).expanduser(), Path(_WORKDIR.value).expanduser()
    make_folder(out, "--out")
    config = _CONFIG.value
    config.data.source = f"folder:{_PHOTOS.value}"
    config.data.validation_source = f"folder:{_VALID.value}"
    config.data.pipeline = "resident"
    sampler, held_out = open_data(config)
    print(
        f"{sampler.num_photos} photographs to train on, {len(held_out.photos)} to"
        f" validate on, packed after {time.monotonic() - start:.1f} s"
    )
    config.total_steps = _STEPS.value
    if not config.total_steps:
        batch = random_batch(config.batch_size, config.data.hr_patch_size)
        seconds = _time_step(*prepare_step(config, batch))
        left = 60 * _MINUTES.value - (time.monotonic() - start)
        config.total_steps = max(int(_SHARE * left / seconds), 1)
        print(f"{1e3 * seconds:.2f} ms a step: {config.total_steps:,} steps")
    stopped = train_and_evaluate(config, workdir)
    network = read_run(workdir)
    path = workdir / "weights.safetensors"
    write_network(path, network, dtype="bfloat16")
    content = path.read_bytes()
    for i, first in enumerate(range(0, len(content), _PIECE)):
        (out / f"{path.name}.{i}").write_bytes(content[first : first + _PIECE])
    for name in ("metrics.jsonl", "config.json"):
        (out / name).write_bytes((workdir / name).read_bytes())
    print(
        f"{path}: step {network.step}{' (stopped early)' if stopped else ''}, in"
        f" {(time.monotonic() - start) / 60:.1f} minutes; in pieces below {out}"
    )


def _time_step(step, state, batch) -> float:
    """Seconds, after those in which it is compiled."""
    for i in range(_TIMED_STEPS + 3):
        state, metrics = step(state, batch)
        if i == 2:
            jax.block_until_ready(metrics)
            start = time.perf_counter()
    jax.block_until_ready(metrics)
    return (time.perf_counter() - start) / _TIMED_STEPS


if __name__ == "__main__":
    run_command(main)
