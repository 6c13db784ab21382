import json

import numpy as np
from processes import ROOT, command
from tiny import tiny_flags

from eddsrn_jax.weights import read_network


def test_trains_within_the_minutes_and_writes_weights_in_pieces(photo_folder, tmp_path):
    flags = tiny_flags(photo_folder, tmp_path / "run", log_every_steps=1)
    kept = [flag for flag in flags if "source" not in flag and "total" not in flag]
    out = tmp_path / "out"
    run = command(
        *("-m", "benchmarks.train_in_minutes", "--minutes=0.1", f"--out={out}"),
        *(f"--photos={photo_folder}", f"--valid={photo_folder}", *kept),
        cwd=ROOT,
    )
    printed, err = run.communicate(timeout=300)
    assert run.returncode == 0, err
    assert "8 photographs to train on, 8 to validate on" in printed
    assert "ms a step: " in printed and "| x4 SR" in printed
    rows = (out / "metrics.jsonl").read_text().splitlines()
    steps = json.loads((out / "config.json").read_text())["total_steps"]
    assert json.loads(rows[-1])["step"] == steps >= 1
    path = tmp_path / "w.safetensors"
    pieces = sorted(out.glob("weights.safetensors.*"))
    path.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    network = read_network(path)
    assert network.step == steps
    assert np.isfinite(network.params["trunk"]["stem"]["kernel"]).all()
