"""Tests the real tensorflow-datasets builder on a div2k of a few small photos."""

import json
import re
import signal
import time
import warnings

import numpy as np
import pytest
from PIL import Image
from processes import QUICK, command
from tiny import metrics_rows, tiny_flags

from eddsrn_jax.data.pack import open_pack
from eddsrn_jax.data.sources import open_split
from eddsrn_jax.errors import InputError

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def div2k(tmp_path_factory, photo):
    """Returns data that the builder prepared from folders in the original's layout."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tfds = pytest.importorskip("tensorflow_datasets")
    raw = tmp_path_factory.mktemp("raw")
    urls = {}
    for split, first, count in (("train", 1, 3), ("valid", 801, 2)):
        for kind, folder in (("lr", f"lr_{split}"), ("hr", f"DIV2K_{split}_HR")):
            parent = raw / f"{split}_{kind}"
            (parent / folder).mkdir(parents=True)
            urls[f"{split}_{kind}_url"] = str(parent)
            for i in range(count):
                part = photo[10 * i : 10 * i + 96, : 128 + 4 * i]
                name = f"{first + i:04d}" + ("x4" if kind == "lr" else "")
                Image.fromarray(part).save(parent / folder / f"{name}.png")
    data_dir = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tfds.download.DownloadManager,
            "download_and_extract",
            lambda self, wanted: {name: urls[name] for name in wanted},
        )
        open_split("tfds:div2k", tfds_data_dir=str(data_dir), tfds_download=True)
    return data_dir


def test_div2k_splits_are_read_completely_and_unchanged(div2k, photo, tmp_path):
    split = open_split("tfds:div2k", tfds_data_dir=str(div2k))
    assert (split.train.name, split.validation.name) == ("DIV2K", "DIV2K-val")
    expected = {96 * (128 + 4 * i) * 3: i for i in range(3)}
    for source, count in ((split.train, 3), (split.validation, 2)):
        pack = open_pack(source, tmp_path)
        assert len(pack.images) == count
        for image in pack.images:
            i = expected.pop(image.size) if count == 3 else (image.shape[1] - 128) // 4
            part = photo[10 * i : 10 * i + 96, : 128 + 4 * i]
            np.testing.assert_array_equal(image, part)
    assert not expected


def test_error_for_missing_div2k_says_how_to_prepare_it(tmp_path):
    with pytest.raises(InputError) as caught:
        open_split("tfds:div2k", tfds_data_dir=str(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    assert f"{tmp_path}/div2k/bicubic_x4/2.0.0" in message
    assert "--config.data.tfds_download=true" in message
    assert "--config.data.source=folder:DIR" in message


def test_error_names_an_unknown_dataset(tmp_path):
    with pytest.raises(InputError, match="tfds:div3k"):
        open_split("tfds:div3k", tfds_data_dir=str(tmp_path))


@pytest.mark.slow
def test_eddsrn_trains_stops_resumes_and_is_evaluated_on_div2k(div2k, tmp_path):
    """The commands are those of the README; only the widths and the data are small."""
    workdir = tmp_path / "run"
    changes = {
        "data.source": "tfds:div2k",
        "data.tfds_data_dir": str(div2k),
        "data.cache_dir": str(tmp_path / "packs"),
        "log_every_steps": 1,
    }

    def train(total_steps):
        flags = tiny_flags(
            tmp_path, workdir, network="EDDSRN", total_steps=total_steps, **changes
        )
        assert "--config=configs/eddsrn.py" in flags
        return command("train.py", *flags, **QUICK)

    run = train(100_000)
    deadline = time.monotonic() + 600
    while run.poll() is None and time.monotonic() < deadline:
        path = workdir / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) > 2:
            break
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    _, err = run.communicate(timeout=600)
    assert run.returncode == 0, err
    saved = int(re.search(r"SIGTERM: saved step (\d+), stopping", err)[1])

    run = train(saved + 4)
    out, err = run.communicate(timeout=600)
    assert run.returncode == 0, err
    assert f", steps {saved} to {saved + 4} (" in err
    assert "photos: 3 for training, 2 for validation" in err
    assert "| DIV2K-val (2) | x4 SR" in out
    steps = [row["step"] for row in metrics_rows(workdir) if "train/loss" in row]
    assert steps == [*range(1, saved + 5)]

    flags = [f"--workdir={workdir}", f"--step={saved + 4}", "--sigmas=1,2"]
    run = command("evaluate.py", *flags, f"--output_dir={tmp_path / 'scores'}", **QUICK)
    out, err = run.communicate(timeout=600)
    assert run.returncode == 0, err
    assert "| DIV2K-val (2) | deblurred" in out
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert results["protocol"]["step"] == saved + 4
