import jax.numpy as jnp
import numpy as np
import pytest

from eddsrn_jax.ops.resize import bicubic_downscale
from eddsrn_jax.training.losses import charbonnier, joint_loss, log_mse, mse

# The differences are 3, -4 and 0.
PRED = jnp.array([4.0, 1.0, 2.0]).reshape(1, 1, 1, 3)
TARGET = jnp.array([1.0, 5.0, 2.0]).reshape(1, 1, 1, 3)


def test_mse_is_a_mean_over_all_values():
    assert mse(PRED, TARGET) == pytest.approx((9 + 16) / 3)


def test_log_mse_is_a_mean_of_logarithms_over_images():
    pred, target = (jnp.concatenate([x, 0.1 * x]) for x in (PRED, TARGET))
    expected = (np.log(25 / 3 + 1e-4) + np.log(0.25 / 3 + 1e-4)) / 2
    assert log_mse(pred, target) == pytest.approx(expected)
    # A perfect image has a finite loss.
    assert log_mse(PRED, PRED) == pytest.approx(np.log(1e-4))


def test_charbonnier_matches_hand_computed_value():
    expected = (np.sqrt(9 + 0.25) + np.sqrt(16 + 0.25) + 0.5) / 3
    assert charbonnier(PRED, TARGET, eps=0.5) == pytest.approx(expected)


def test_joint_loss_weights_the_deblurring_loss():
    outputs = {"sr": PRED, "deblurred": PRED}
    targets = {"hr": TARGET, "lr_sharp": TARGET}
    losses = {"sr": "mse", "deblurred": "charbonnier", "alpha": 0.2, "eps": 1e-3}
    loss, parts = joint_loss(outputs, targets, **losses)
    assert parts["loss_sr"] == pytest.approx(25 / 3)
    assert parts["loss_db"] == pytest.approx((3 + 4 + 1e-3) / 3)
    assert loss == pytest.approx(25 / 3 + 0.2 * 7.001 / 3)


def test_joint_loss_without_a_deblurred_output_is_the_sr_loss():
    losses = {"deblurred": "l1", "alpha": 0.2, "eps": 1e-3}
    loss, parts = joint_loss({"sr": PRED}, {"hr": TARGET}, sr="mse", **losses)
    assert loss == pytest.approx(25 / 3)
    loss, _ = joint_loss({"sr": PRED}, {"hr": TARGET}, sr="charbonnier", **losses)
    assert loss == pytest.approx((3 + 4 + 1e-3) / 3)
    assert "loss_db" not in parts


def test_joint_loss_without_an_sr_output_is_the_deblurring_loss():
    losses = {"sr": "mse", "deblurred": "l1", "alpha": 0.2, "eps": 1e-3}
    loss, parts = joint_loss({"deblurred": PRED}, {"lr_sharp": TARGET}, **losses)
    assert loss == parts["loss_db"] == pytest.approx(7 / 3)
    assert set(parts) == {"loss", "loss_db"}


def test_joint_loss_ignores_outputs_that_it_does_not_know():
    outputs, targets = {"sr": PRED, "deblurred": PRED}, {"hr": TARGET, "lr_sharp": TARGET}
    options = {"sr": "mse", "deblurred": "l1", "alpha": 0.5, "eps": 1e-3}
    expected, _ = joint_loss(outputs, targets, **options)
    for name in ("deblurred_y", "edges", "sr_x2"):
        more = {**outputs, name: jnp.ones((1, 1, 1, 1))}
        assert joint_loss(more, targets, **options)[0] == expected


def test_joint_loss_adds_a_luminance_loss_at_each_scale():
    """Each level is compared with the HR luminance, downscaled to the level's size."""
    hr = jnp.linspace(0, 1, 8 * 8 * 3).reshape(1, 8, 8, 3)
    y = (
        16 / 255
        + (65.481 * hr[..., 0] + 128.553 * hr[..., 1] + 24.966 * hr[..., 2]) / 255
    )
    half = bicubic_downscale(y[..., None], 2)
    outputs = {"sr": hr, "sr_x2_y": half + 0.25, "sr_y": y[..., None] - 0.5}
    losses = {"sr": "l1", "deblurred": "mse", "alpha": 0.2, "eps": 1e-3}
    loss, parts = joint_loss(outputs, {"hr": hr}, **losses)
    assert loss == pytest.approx(0.75, abs=1e-5)
    assert set(parts) == {"loss", "loss_sr"}
