"""Weights in files: the included ones, one's own, and malformed ones."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from tiny import SMALL

from eddsrn_jax.checkpoints.found_weights import DEFAULT, SHIPPED, find_weights
from eddsrn_jax.checkpoints.weights import Network, read_network, write_network
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.baselines.bicubic import bicubic
from eddsrn_jax.evaluation.inputs import degrade_photo
from eddsrn_jax.evaluation.metrics import psnr_y
from eddsrn_jax.models import (
    EDDSRN,
    init_params,
)
from eddsrn_jax.restoration.restorer import Restorer

MODEL = EDDSRN(**SMALL)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_improve_psnr_over_bicubic_and_blurred_input(photo, name):
    lr_sharp, lr_blur = degrade_photo(photo, 1.5, max_sigma=2.0)
    found = Restorer.from_pretrained(weights=name)(lr_blur)
    plain = bicubic(lr_blur).sr
    assert psnr_y(found.sr, photo, border=4) > psnr_y(plain, photo, border=4) + 1.5
    gain = psnr_y(found.deblurred, lr_sharp, border=4) - psnr_y(
        lr_blur, lr_sharp, border=4
    )
    assert gain > 2


def test_find_weights_accepts_shipped_names_and_paths(tmp_path, monkeypatch):
    assert find_weights(None) == find_weights(DEFAULT) == SHIPPED[DEFAULT]
    assert find_weights("eddsrn-lite").name == "eddsrn_lite.safetensors"
    assert find_weights(tmp_path / "mine") == tmp_path / "mine"
    with pytest.raises(
        InputError,
        match="no weights 'gausian': expected a .safetensors file, a folder of",
    ):
        find_weights("gausian")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gausian").touch()
    assert find_weights("gausian") == Path("gausian")


def test_loads_weights_from_a_file_or_a_workdir(finished, photo, tmp_path):
    params = init_params(MODEL, jax.random.key(0))
    restorer = Restorer(MODEL, params)
    _, workdir = finished
    image = photo[:40, :40]
    from_run = Restorer.from_pretrained(workdir=workdir)(image)
    assert (from_run.sr != restorer(image).sr).any()
    path = tmp_path / "mine.safetensors"
    network = Network(MODEL, jax.device_get(params), "mine", 7, (0.5, 1.5))
    write_network(path, network, dtype="float32")
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode
    from_file = Restorer.from_pretrained(weights=str(path))
    np.testing.assert_array_equal(from_file(image).sr, restorer(image).sr)
    assert from_file.sigma_range == (0.5, 1.5)
    rounded = Restorer.from_pretrained(weights=str(path), dtype="bfloat16")(image)
    assert 0 < np.abs(rounded.sr - restorer(image).sr.astype(int)).max() < 8


def test_the_name_of_a_network_is_safe_for_terminals_and_tables(tmp_path):
    params = jax.device_get(init_params(MODEL, jax.random.key(0)))
    path = tmp_path / "w.safetensors"
    write_network(path, Network(MODEL, params, "a\x1b[2J|b\n", 1, (1.0, 2.0)))
    assert read_network(path).name == "a\\x1b[2J b\\n"


def test_int8_weights_halve_file_size_with_small_errors(tmp_path, photo):
    network = read_network("eddsrn-lite")
    sizes = {}
    for dtype in ("int8", "float16"):
        path = tmp_path / f"{dtype}.safetensors"
        write_network(path, network, dtype=dtype)
        sizes[dtype] = path.stat().st_size
    assert sizes["int8"] < 0.52 * sizes["float16"]
    found = read_network(tmp_path / "int8.safetensors").params
    kernels = zip(*map(jax.tree.leaves, (found, network.params)), strict=True)
    for kernel, expected in kernels:
        assert kernel.dtype == expected.dtype
        largest = np.abs(expected).max(axis=tuple(range(expected.ndim - 1)))
        assert (np.abs(kernel - expected) <= 0.501 / 127 * largest).all()
    images = [
        Restorer(network.model, params)(photo[:64, :80]).sr.astype(int)
        for params in (found, network.params)
    ]
    assert 0 < np.abs(images[0] - images[1]).mean() < 1


def test_rejects_an_int8_scale_without_its_kernel(tmp_path):
    path = tmp_path / "mine.safetensors"
    write_network(path, read_network("eddsrn-lite"), dtype="int8")
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    del arrays["trunk/stem/kernel"]
    safetensors.numpy.save_file(arrays, path, metadata=metadata)
    with pytest.raises(InputError, match="trunk/stem/kernel:scale belongs to no kernel"):
        read_network(path)


@pytest.mark.parametrize("content", [b"", b"not weights at all", None])
def test_error_names_files_that_are_not_weights(tmp_path, content):
    path = tmp_path / "mine.safetensors"
    if content is None:
        safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"mine.safetensors: (cannot be read|neither its metadata)"
    ):
        Restorer.from_pretrained(weights=path)
    with pytest.raises(InputError, match="absent: cannot be read"):
        Restorer.from_pretrained(weights=tmp_path / "absent")
    with pytest.raises(InputError, match="both weights"):
        Restorer.from_pretrained(weights=path, workdir=tmp_path)
