import json

import numpy as np
import pytest
from processes import QUICK, ROOT, command
from tiny import tiny_flags

from benchmarks.train_in_minutes import learning_rate_at
from eddsrn_jax.checkpoints.weights import read_network


def run(*flags):
    process = command("-m", "benchmarks.train_in_minutes", *flags, cwd=ROOT, **QUICK)
    printed, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return printed


@pytest.mark.slow
def test_trains_on_compressed_photos_and_writes_log_and_weights(photo_folder, tmp_path):
    # The photos are compressed first, as for their transfer to the training machine.
    copies, out = tmp_path / "copies", tmp_path / "out"
    folders = (f"--photos={photo_folder}", f"--out={copies}")
    assert "8 photos" in run(*folders, "--write_photos=80")
    assert {path.read_bytes()[8:12] for path in copies.iterdir()} == {b"WEBP"}

    flags = tiny_flags(photo_folder, tmp_path / "run", ema_decay=0.9)
    kept = [
        flag
        for flag in flags
        if not any(word in flag for word in ("source", "total", "workdir"))
    ]
    # A photo that is held out must have the size that scores need.
    kept.append(f"--config.data.validation_source=folder:{photo_folder}")
    printed = run(*kept, f"--photos={copies}", f"--out={out}", "--minutes=0.1")
    assert "first step after" in printed
    steps = int(printed.splitlines()[-1].split()[0])
    for line in (out / "log.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["step"] <= steps and row["loss"] > 0 and row["skipped"] == 0
    path = tmp_path / "w.safetensors"
    pieces = sorted(out.glob("weights.safetensors.*"))
    path.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    network = read_network(path)
    assert network.step == steps >= 2
    assert np.isfinite(network.params["conv0"]["kernel"]).all()


def test_learning_rate_rises_and_falls_with_elapsed_time():
    assert learning_rate_at(0) == 0
    assert learning_rate_at(0.015) == pytest.approx(0.5)
    assert learning_rate_at(0.03) == pytest.approx(1)
    assert learning_rate_at(0.515) == pytest.approx(0.5)
    assert learning_rate_at(1) == pytest.approx(0)
