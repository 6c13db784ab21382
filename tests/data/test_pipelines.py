"""The pipelines that deliver crops: tf.data, grain, and photos in device memory."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from processes import ROOT

from eddsrn_jax.data import resident, streaming
from eddsrn_jax.data.crops import CropSampler
from eddsrn_jax.data.pack import Pack, open_pack
from eddsrn_jax.data.resident import resident_batches
from eddsrn_jax.data.sources import folder_source
from eddsrn_jax.data.streaming import prefetch_to_device, stream_batches
from eddsrn_jax.errors import InputError
from eddsrn_jax.mesh import make_mesh


@pytest.fixture
def sampler(photo_folder, tmp_path):
    pack = open_pack(folder_source(photo_folder), tmp_path / "cache")
    return CropSampler(pack, seed=0, batch_size=4, crops_per_image=3, patch_size=64)


@pytest.fixture(params=["tensorflow", "grain"])
def library(request, monkeypatch):
    """Makes one of the libraries stream the crops."""
    pytest.importorskip(request.param)
    monkeypatch.setattr(streaming, "STREAMING_LIBRARY", request.param)


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.usefixtures("library")
def test_streams_planned_batches_for_any_number_of_threads(sampler, threads):
    steps = range(4, 15)  # crosses the ends of two epochs
    found = list(stream_batches(sampler, steps, num_threads=threads, prefetch=3))
    assert len(found) == len(steps)
    for step, batch in zip(steps, found, strict=True):
        expected = sampler.batch(step)
        assert batch["hr"].dtype == np.uint8 and batch["key"].dtype == np.uint32
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name])


@pytest.mark.usefixtures("library")
def test_streams_only_the_rows_of_one_process(sampler):
    (batch,) = stream_batches(sampler, range(2, 3), rows=slice(2, 4))
    np.testing.assert_array_equal(batch["hr"], sampler.batch(2)["hr"][2:])


@pytest.mark.parametrize("devices", [1, 4])
def test_resident_batches_equal_those_of_the_sampler(sampler, devices):
    steps, mesh = range(4, 15), make_mesh(jax.devices()[:devices])
    found = list(resident_batches(sampler, steps, mesh))
    assert len(found) == len(steps)
    for step, batch in zip(steps, found, strict=True):
        expected = sampler.batch(step)
        assert batch.keys() == expected.keys()
        for name in expected:
            assert len(batch[name].sharding.device_set) == devices
            assert batch[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(batch[name], expected[name])


def test_resident_batches_include_crops_at_the_last_corners(photo):
    """Crops that are 1 to 3 pixels smaller than the images reach both corners."""
    images = [np.ascontiguousarray(photo[:33, :35]), photo[40:74, 7:40].copy()]
    pack = Pack(images, ["a", "b"])
    sampler = CropSampler(pack, seed=0, batch_size=2, crops_per_image=9, patch_size=32)
    mesh = make_mesh(jax.devices()[:1])
    corners = set()
    for step, batch in enumerate(resident_batches(sampler, range(36), mesh)):
        np.testing.assert_array_equal(batch["hr"], sampler.batch(step)["hr"])
        plan = sampler.plan(step)
        corners |= set(zip(plan.image, plan.y, plan.x, strict=True))
    assert {(0, 1, 3), (1, 2, 1)} <= corners


def test_rejects_resident_photos_larger_than_device_memory(sampler, monkeypatch):
    monkeypatch.setattr(resident, "device_memory", lambda _: 100_000)
    mesh = make_mesh(jax.devices()[:1])
    with pytest.raises(InputError, match=r"'resident': the photos take 0.00 GB, more"):
        resident_batches(sampler, range(2), mesh)


def test_prefetching_keeps_order_and_runs_ahead():
    placed = []

    def place(batch):
        placed.append(batch)
        return batch

    batches = prefetch_to_device(iter(range(5)), place, size=3)
    assert next(batches) == 0
    assert placed == [0, 1, 2]
    assert list(batches) == [1, 2, 3, 4]


@pytest.mark.usefixtures("library")
def test_stream_batches_passes_on_errors_of_the_sampler(sampler):
    sampler.batch = None
    with pytest.raises(Exception, match="not callable"):
        list(stream_batches(sampler, range(2)))


# A script that ends while batches are being cut.
UNFINISHED = """
import sys, time, types, numpy as np
from eddsrn_jax.data import streaming

def batch(step, rows):
    time.sleep(0.01)
    return {"hr": np.zeros(1, np.uint8), "key": np.zeros(2, np.uint32)}

streaming.STREAMING_LIBRARY = sys.argv[1]
sampler = types.SimpleNamespace(small=None, batch=batch)
stream = streaming.stream_batches(sampler, range(1000))
print(next(stream)["hr"])
"""


@pytest.mark.parametrize(
    "library", [pytest.param("tensorflow", marks=pytest.mark.slow), "grain"]
)
def test_a_script_can_end_before_its_stream_does(library):
    pytest.importorskip(library)
    script = [sys.executable, "-c", UNFINISHED, library]
    run = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout) == (0, "[0]\n"), run.stderr
