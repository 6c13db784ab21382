"""Networks, one file each, and what is asked of any of them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eddsrn_jax.models.eddsrn import EDDSRN, SCALE, STRIDE
from eddsrn_jax.models.srresnet import SRResNet

__all__ = ["EDDSRN", "SCALE", "STRIDE", "SRResNet", "abstract_params", "init_params"]


def init_params(model: nn.Module, key: jax.Array) -> Any:
    """Initial parameters; not jitted, which would take several times as long."""
    return model.init(key, jnp.zeros((1, STRIDE, STRIDE, 3)))["params"]


def abstract_params(model: nn.Module) -> Any:
    """Names, shapes and dtypes of the parameters, on the first device."""
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), shapes
    )
