import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import shared_data
from jax import lax

from eddsrn_jax.checkpoints.torch_weights import PEERS, read_peer, read_peers
from eddsrn_jax.errors import InputError
from eddsrn_jax.evaluation.baselines.bicubic import bicubic
from eddsrn_jax.models import VDSR, init_params
from eddsrn_jax.models.complexity import count_parameters
from eddsrn_jax.models.layers import TransposedConv
from eddsrn_jax.ops.color import LUMINANCE, luminance
from eddsrn_jax.restoration.restorer import Restorer


@pytest.mark.parametrize(
    "name, published", [("vdsr", 0.665e6), ("lapsrn", 0.812e6)], ids=["VDSR", "LapSRN"]
)
def test_published_weights_reproduce_reference_outputs(name, published):
    folder = shared_data("peers")
    params = read_peer(folder / f"{name}.npz", PEERS[name]).params
    # LapSRN's paper counts 0.81 M. These arrays hold 0.87 M: ten convolutions a level.
    assert count_parameters(params) == pytest.approx(published, rel=0.08)
    with np.load(folder / "golden_comic.npz") as golden:
        y, expected = golden["lr_y"][None, :, :, None], golden[f"{name}_y"]
    # The input is a gray photo with that luminance.
    gray = np.repeat((y - 16 / 255) / LUMINANCE.sum(), 3, axis=3).astype(np.float32)
    outputs = jax.jit(PEERS[name].model.apply)({"params": params}, gray)
    np.testing.assert_allclose(outputs["sr_y"][0, :, :, 0], expected, atol=1e-4)
    again = luminance(outputs["sr"])[0, :, :, 0]
    np.testing.assert_allclose(again, expected, atol=1e-4)


def test_transposed_conv_equals_dilated_conv_with_flipped_kernel():
    layer = TransposedConv(5)
    x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3))
    variables = layer.init(jax.random.key(1), x)
    kernel = variables["params"]["kernel"]
    expected = lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1],
        (1, 1),
        [(2, 2), (2, 2)],
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    assert expected.shape == (2, 12, 14, 5)
    np.testing.assert_allclose(layer.apply(variables, x), expected, atol=1e-5)


def test_vdsr_with_zero_weights_is_bicubic_interpolation(photo):
    """In colour, chroma is interpolated, and luminance survives its conversion."""
    model = VDSR(features=4, num_layers=3)
    zeros = jax.tree.map(jnp.zeros_like, init_params(model, jax.random.key(0)))
    image = photo[:20, :30]
    found = Restorer(model, zeros)(image).sr
    difference = np.abs(found.astype(int) - bicubic(image).sr)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_read_peers_rejects_missing_corrupt_and_mismatched_weights(tmp_path):
    with pytest.raises(InputError, match=r"no weights found, expected vdsr.npz"):
        read_peers(tmp_path)
    path = tmp_path / "vdsr.npz"
    path.write_bytes(b"no")
    with pytest.raises(InputError, match=r"vdsr.npz: cannot be read as arrays"):
        read_peers(tmp_path)
    # NumPy pickles object arrays, and unpickling can run code.
    np.savez(path, x=np.array([print], dtype=object))
    with pytest.raises(InputError, match=r"vdsr.npz: cannot be read as arrays"):
        read_peers(tmp_path)
    kernel = np.zeros((64, 1, 3, 3), np.float32)
    np.savez(path, **{"input.weight": kernel, "body.weight": kernel})
    with pytest.raises(InputError, match=r"vdsr.npz: body.weight belongs to no known l"):
        read_peers(tmp_path)
    np.savez(path, **{"input.weight": kernel})
    with pytest.raises(InputError, match=r"conv0/kernel has nothing"):
        read_peers(tmp_path)
    whole = (shared_data("peers") / "vdsr.npz").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"vdsr.npz: cannot be read as arrays"):
        read_peers(tmp_path)
