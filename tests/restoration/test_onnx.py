"""Networks as ONNX files: ONNX Runtime computes the same as JAX."""

import math
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
from tiny import PLAIN, SMALL, TwoOutputs

from eddsrn_jax.checkpoints.weights import Network, write_network
from eddsrn_jax.errors import InputError
from eddsrn_jax.models import STRIDE, abstract_outputs, abstract_params, apply
from eddsrn_jax.models.layers import Conv
from eddsrn_jax.models.registry import NETWORKS
from eddsrn_jax.ops.pixel_shuffle import depth_to_space
from eddsrn_jax.restoration.onnx_graph import write_onnx
from eddsrn_jax.restoration.restorer import Restorer

BANK = "gaussian-1-084c6179"
FIELDS = {
    "EDDSRN": {**SMALL, "front_end": BANK},
    "HalfSizeEDDSRN": {
        "features": (4, 4, 4),
        "num_pairs": (1, 1, 1, 1, 1),
        "detail_features": 4,
    },
    "SRResNet": {"features": 4, "num_blocks": 1},
    "LapSRN": {"features": 4, "num_layers": 2},
    "VDSR": PLAIN,
    "EDSR": {"features": 4, "num_blocks": 1},
    "DeblurCNN": {"layers": ((9, 4), (1, 3))},
    "SCGAN": {"features": 4, "num_layers": 3},
}
NETS = {name: network(**FIELDS[name]) for name, network in NETWORKS.items()}


def with_random_params(model):
    rng = np.random.default_rng(0)

    def draw(path, x):
        # Feature maps keep about unit variance.
        fan_in = max(4, math.prod(x.shape[:-1]))
        values = rng.normal(0, fan_in**-0.5, x.shape).astype(x.dtype)
        # Variances are not negative.
        return np.abs(values) if path[-1].key == "var" else values

    return jax.tree.map_with_path(draw, abstract_params(model))


class Dilated(nn.Module):
    """Convolutions with gaps, with steps, and within groups of channels."""

    stride = 2
    receptive_radius = 8
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), kernel_dilation=2)(x)
        x = nn.Conv(12, (3, 3), feature_group_count=3)(x)
        return {"deblurred": depth_to_space(nn.Conv(12, (3, 3), strides=2)(x), 2)}


class Recomputed(Dilated):
    """A network that computes its activations again for the gradients."""

    @nn.compact
    def __call__(self, x):
        return {"deblurred": x + nn.remat(Conv)(3, name="conv")(x)}


class Transposed(Dilated):
    @nn.compact
    def __call__(self, x):
        return {"sr": nn.ConvTranspose(3, (8, 8), strides=(4, 4))(x)}


def test_a_convolution_that_onnx_export_lacks_is_named(tmp_path):
    pytest.importorskip("onnx")
    model = Transposed()
    with pytest.raises(InputError, match="transposed convolution cannot be written"):
        write_onnx(tmp_path / "x.onnx", model, with_random_params(model))


@pytest.mark.parametrize(
    "model",
    [
        *(
            pytest.param(
                model,
                id=name,
                marks=() if name in ("HalfSizeEDDSRN", "VDSR") else pytest.mark.slow,
            )
            for name, model in NETS.items()
        ),
        TwoOutputs(),
        Dilated(),
        Recomputed(),
    ],
    ids=type,
)
def test_onnx_runtime_computes_the_same_as_jax(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    params = with_random_params(model)
    write_onnx(tmp_path / "x.onnx", model, params)
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    names = sorted(abstract_outputs(model))
    assert [x.name for x in session.get_outputs()] == names
    images = np.random.default_rng(1).random((2, 24, 40, 3), np.float32)
    # No size is fixed in the file. A second one takes seconds for the large networks.
    smaller = [images[:1, :16, :8]] * isinstance(model, TwoOutputs)
    for image in (images, *smaller):
        expected = jax.jit(apply, static_argnums=0)(model, params, image)
        found = session.run(names, {"image": image})
        for name, values in zip(names, found, strict=True):
            assert np.abs(expected[name]).max() > 0.1
            np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-4)


class Looping(nn.Module):
    """A network that applies one layer three times, as a loop of JAX."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x):
        weight = self.param("weight", nn.initializers.normal(), (3, 3))
        return {"deblurred": jax.lax.fori_loop(0, 3, lambda _, y: y @ weight, x)}


def test_a_loop_is_named_instead_of_written_once(tmp_path):
    pytest.importorskip("onnx")
    model = Looping()
    with pytest.raises(InputError, match="operation 'scan' cannot be written as ONNX"):
        write_onnx(tmp_path / "x.onnx", model, with_random_params(model))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("size", [(21, 34), (1, 3), (8, 5)])
def test_onnx_files_take_images_of_any_size(size, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = TwoOutputs()
    params = with_random_params(model)
    write_onnx(tmp_path / "x.onnx", model, params)
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    image = np.random.default_rng(1).random((2, *size, 3), np.float32)
    missing = [(0, -n % STRIDE) for n in size]
    extended = np.pad(image, ((0, 0), *missing, (0, 0)), mode="symmetric")
    expected = apply(model, params, extended)
    found = session.run(["sr", "deblurred"], {"image": image})
    for name, scale, values in zip(("sr", "deblurred"), (4, 1), found, strict=True):
        height, width = (scale * n for n in size)
        cut = expected[name][:, :height, :width]
        np.testing.assert_allclose(values, cut, rtol=1e-4, atol=1e-4)


def test_export_writes_an_onnx_file(tmp_path, call, photo):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    path, weights = tmp_path / "mine.onnx", tmp_path / "mine.safetensors"
    model = NETS["VDSR"]
    network = Network(model, with_random_params(model), "mine", 1, (1.0, 2.0))
    write_network(weights, network, dtype="float32")
    flags = [f"--weights={weights}", "--format=onnx", f"--out={path}"]
    code, out, err = call("export", *flags)
    assert code == 0, err
    assert out.startswith(f"{path}: ") and out.endswith(" parameters in float32\n")
    image = photo[:24, :32]
    session = onnxruntime.InferenceSession(str(path))
    (sr,) = session.run(["sr"], {"image": image[None].astype(np.float32) / 255})
    expected = Restorer(model, network.params)(image).sr
    found = np.floor(255 * np.clip(sr[0], 0, 1) + 0.5)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--out=x.onnx"], "--format=safetensors --out=x.onnx: files of the format onnx"),
        (["--out=x", "--format=onnx"], "--format=onnx --out=x: files of the format onnx"),
        (
            ["--out=x.onnx", "--format=onnx", "--dtype=int8"],
            "--dtype cannot be used with",
        ),
        (["--out=x", "--workdir=a"], "give either --workdir or --weights"),
        (["--out=x", "--step=3"], "--step=3 needs --workdir"),
    ],
)
def test_wrong_export_flags_are_named(flags, message, call):
    code, _, err = call("export", "--weights=photo", *flags)
    assert code == 2 and err.startswith(f"error: {message}")


def test_a_missing_onnx_library_is_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r'run pip install "eddsrn_jax\[onnx\]"'):
        write_onnx(tmp_path / "x.onnx", TwoOutputs(), {})
    assert not [*tmp_path.iterdir()]
