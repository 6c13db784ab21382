import pytest
from tiny import tiny_config, tiny_flags

from eddsrn_jax.errors import InputError
from eddsrn_jax.training.dry_run import dry_run


def test_train_with_dry_run_prints_costs_and_writes_nothing(tmp_path, call):
    flags = tiny_flags(tmp_path / "absent", tmp_path / "run", total_steps=100)
    code, out, err = call("train", *flags, "--dry_run")
    assert (code, err) == (0, "")
    network, batch, compiled, memory, step = out.splitlines()
    # Three 3x3 convolutions of the enlarged luminance with 4 features, without biases.
    weights = 9 * (1 * 4 + 4 * 4 + 4 * 1)
    assert f"VDSR, {weights} parameters, {16 * weights:,} multiply" in network
    assert "8 crops: [8, 16, 16, 3] -> sr [8, 64, 64, 3]" in batch
    assert compiled.startswith("compiled in ")
    # Adam keeps two averages of the parameters, and there are a few counters.
    state = float(memory.split(": ")[1].split(" MB")[0])
    assert state == pytest.approx(3 * 4 * weights / 1e6, abs=0.06)
    assert " crops per second; 100 steps take " in step
    assert not any(tmp_path.iterdir())


def test_dry_run_promises_no_length_that_the_photos_determine(tmp_path):
    *_, step = dry_run(tiny_config(tmp_path, total_steps=0, num_epochs=7))
    assert step.endswith("; the photos determine the number of steps in 7 epochs")


def test_dry_run_checks_the_config_first(tmp_path):
    with pytest.raises(InputError, match="over 8 devices; give config.batch_size=16"):
        list(dry_run(tiny_config(tmp_path, batch_size=12)))
