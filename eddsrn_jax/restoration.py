"""From a blurry small photograph to both restored ones, for photographs of any size.

Photographs are uint8 RGB [h, w, 3].
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from eddsrn_jax.degradation import round_to_8_bits
from eddsrn_jax.models import EDDSRN, SCALE, STRIDE
from eddsrn_jax.resize import mirrored
from eddsrn_jax.weights import shipped_weights

# Sizes that programs are compiled for, beside multiples of _LARGE_STEP. A photograph is
# put onto the first that holds it.
_CANVASES = (
    (64, 64),
    (128, 128),
    (192, 192),
    (256, 256),
    (256, 384),
    (384, 256),
    (384, 384),
    (384, 512),
    (512, 384),
    (512, 512),
)
_LARGE_STEP = 256


def canvas_size(height: int, width: int) -> tuple[int, int]:
    """The size of the canvas that a photograph is put onto."""
    for rows, columns in _CANVASES:
        if height <= rows and width <= columns:
            return rows, columns
    return -(-height // _LARGE_STEP) * _LARGE_STEP, -(-width // _LARGE_STEP) * _LARGE_STEP


def extend(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Extends [h, w, 3] at the bottom and the right to a size, by reflection."""
    rows, columns = (
        mirrored(np.arange(new), old) for new, old in zip(size, image.shape, strict=False)
    )
    return image[rows[:, None], columns]


@functools.partial(jax.jit, static_argnames="model")
def _restore_canvas(
    params: Any, canvas: jax.Array, size: jax.Array, *, model: nn.Module
) -> dict[str, jax.Array]:
    """Applies the network as if the canvas ended at `size`, multiples of STRIDE.

    Beyond its edge a convolution sees zeros. So that a photograph's edge is one, and its
    result the same on any canvas, whatever lies beyond is zeroed before each convolution.
    """

    def end_at_size(next_call, args, kwargs, context):
        if isinstance(context.module, nn.Conv) and context.method_name == "__call__":
            (x,) = args
            # Within the network sizes are multiples or fractions of the canvas's.
            rows, columns = (
                jnp.arange(length) < size[i] * length // canvas.shape[i]
                for i, length in enumerate(x.shape[1:3])
            )
            keep = rows[:, None] & columns[None, :]
            args = (jnp.where(keep[None, :, :, None], x, 0),)
        return next_call(*args, **kwargs)

    with nn.intercept_methods(end_at_size):
        images = canvas[None].astype(jnp.float32) / 255.0
        outputs = model.apply({"params": params}, images)
    return {
        name: jnp.rint(round_to_8_bits(image[0]) * 255.0).astype(jnp.uint8)
        for name, image in outputs.items()
    }


class Restorer:
    """A network with its weights; photographs in, photographs out."""

    def __init__(self, model: nn.Module, params: Any):
        """Keeps the weights on the first device.

        Args:
            model: maps float [N, h, w, 3] in [0, 1] to images by name, see EDDSRN.
            params: of the model.
        """
        self._model = model
        self._params = jax.device_put(params, jax.local_devices()[0])
        self._prepared: set[tuple[int, int]] = set()

    @classmethod
    def from_pretrained(cls) -> "Restorer":
        """The lite network with the weights that come with the package."""
        fields, params = shipped_weights()
        return cls(EDDSRN(**fields), params)

    def prepare(self, height: int, width: int) -> None:
        """Compiles what photographs of this size need, so that calls are fast."""
        size = canvas_size(height, width)
        if size not in self._prepared:
            self._prepared.add(size)
            jax.block_until_ready(self._run(np.zeros((*size, 3), np.uint8)))

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Restores a photograph.

        Args:
            image: uint8 [h, w, 3].

        Returns:
            "sr": uint8 [4h, 4w, 3]; where the network has that output also
            "deblurred": uint8 [h, w, 3].
        """
        height, width, _ = image.shape
        outputs = jax.device_get(self._run(image))
        sizes = {"sr": (SCALE * height, SCALE * width), "deblurred": (height, width)}
        return {
            name: value[: sizes[name][0], : sizes[name][1]]
            for name, value in outputs.items()
        }

    def _run(self, image: np.ndarray) -> dict[str, jax.Array]:
        canvas = extend(image, canvas_size(*image.shape[:2]))
        size = -(-np.array(image.shape[:2]) // STRIDE) * STRIDE
        return _restore_canvas(self._params, canvas, size, model=self._model)
