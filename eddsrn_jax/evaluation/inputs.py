"""Test inputs and ground truth made from photos, in 8 bits.

The paper's protocol shrinks a photo and blurs it. Beyond the paper, sensor noise and JPEG
compression can follow. These come from NumPy and Pillow, so they are independent of the
degradations that networks are trained with. A user's own degradation can take the place
of the blur. Photos are uint8 RGB [H, W, 3].
"""

import dataclasses
import functools
import io
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from eddsrn_jax.errors import InputError
from eddsrn_jax.images.pixels import rounded
from eddsrn_jax.models import SCALE
from eddsrn_jax.ops.degradation import degrade, degrade_by, round_to_8_bits
from eddsrn_jax.restoration.tiles import cut

HEADLINE_SIGMAS = (1.0, 1.25, 1.5, 1.75, 2.0)
RANDOM_SIGMA_RANGE = (1.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Spoiling:
    """Degradations by camera and file after the blur; none by default.

    Attributes:
        noise: standard deviation of white Gaussian noise, in grey levels.
        jpeg: JPEG quality, 1 to 100, with 4:2:0 chroma; None for no compression.
    """

    noise: float = 0.0
    jpeg: int | None = None

    def __str__(self) -> str:
        parts = [f"noise {self.noise:.4g}"] * (self.noise > 0)
        parts += [f"JPEG {self.jpeg}"] * (self.jpeg is not None)
        return ", ".join(parts) or "clean"


# The paper's protocol, and a grid for everyday photos.
SPOILINGS: Mapping[str, tuple[Spoiling, ...]] = {
    "paper": (Spoiling(),),
    "photo": (
        Spoiling(),
        Spoiling(noise=5.0),
        Spoiling(jpeg=75),
        Spoiling(noise=5.0, jpeg=75),
    ),
}

# Sizes of the small image that `degrade` is compiled for, besides multiples of
# _LARGE_STEP. A photo goes onto the first canvas that holds it.
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
    """Returns the size of the canvas for a small image of this size."""
    for rows, columns in _CANVASES:
        if height <= rows and width <= columns:
            return rows, columns
    return -(-height // _LARGE_STEP) * _LARGE_STEP, -(-width // _LARGE_STEP) * _LARGE_STEP


@functools.partial(jax.jit, static_argnames="max_sigma")
def _degrade_canvas(
    hr: jax.Array, sigma: jax.Array, size: jax.Array, *, max_sigma: float
) -> tuple[jax.Array, jax.Array]:
    sharp, blurred = degrade(
        hr, sigma, scale=SCALE, max_sigma=max_sigma, size=(size[0], size[1])
    )
    return _to_uint8(sharp), _to_uint8(blurred)


def _to_uint8(image: jax.Array) -> jax.Array:
    return jnp.rint(round_to_8_bits(image) * 255.0).astype(jnp.uint8)


def degrade_photo(
    hr: np.ndarray, sigma: float, *, max_sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Applies `degrade` to a photo of any size; compiles for a few canvas sizes only.

    Args:
        hr: uint8 [H, W, 3], H and W multiples of 4.
        sigma: standard deviation of the blur in pixels of the small image.
        max_sigma: upper bound of `sigma`; a new value causes another compilation.

    Returns:
        lr_sharp and lr_blur, uint8 [H / 4, W / 4, 3].
    """
    height, width = hr.shape[0] // SCALE, hr.shape[1] // SCALE
    rows, columns = canvas_size(height, width)
    # The canvas's pixels outside the photo do not affect the result.
    canvas = cut(hr, 0, 0, (SCALE * rows, SCALE * columns))
    images = _degrade_canvas(
        canvas, np.float32(sigma), np.array(hr.shape[:2]), max_sigma=max_sigma
    )
    lr_sharp, lr_blur = (x[:height, :width] for x in jax.device_get(images))
    return lr_sharp, lr_blur


def degrade_photo_by(
    path: str, hr: np.ndarray, *, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Shrinks a photo and applies a user's own degradation; compiles for each size.

    Args:
        path: import path of the degradation, see `degrade_by`.
        hr: uint8 [H, W, 3], H and W multiples of 4.
        seed: seed of the degradation. Equal seeds and names give equal random numbers.
        name: name of the photo.

    Returns:
        lr_sharp and lr_blur, uint8 [H / 4, W / 4, 3].

    Raises:
        InputError: see `degrade_by`; or the degradation returned a value that is not
            finite.
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    lr_sharp, lr_blur, is_finite = jax.device_get(_degrade_by(hr, key, path=path))
    if not is_finite:
        raise InputError(f"{path}: returned values for {name} that are not finite")
    return lr_sharp, lr_blur


@functools.partial(jax.jit, static_argnames="path")
def _degrade_by(
    hr: jax.Array, key: jax.Array, *, path: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    sharp, _ = degrade(hr, jnp.float32(0), scale=SCALE, max_sigma=0.0)
    degraded = degrade_by(path, key, sharp)
    return _to_uint8(sharp), _to_uint8(degraded), jnp.isfinite(degraded).all()


def spoil(image: np.ndarray, spoiling: Spoiling, *, seed: int, name: str) -> np.ndarray:
    """Adds noise, rounds to 8 bits, and compresses.

    Args:
        image: uint8 [h, w, 3].
        spoiling: noise and compression to apply.
        seed: seed of the noise. Equal seeds, names and image sizes give equal noise.
        name: name of the photo.

    Returns:
        uint8 [h, w, 3].
    """
    if spoiling.noise:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        noisy = image + spoiling.noise * rng.standard_normal(image.shape)
        image = rounded(noisy, np.uint8)
    if spoiling.jpeg is not None:
        file = io.BytesIO()
        Image.fromarray(image).save(
            file, "JPEG", quality=spoiling.jpeg, subsampling="4:2:0"
        )
        with Image.open(file) as decoded:
            image = np.asarray(decoded)
    return image


def cut_to_scale(hr: np.ndarray) -> np.ndarray:
    """Drops the last rows and columns that do not fill a pixel of the small image."""
    height, width, _ = hr.shape
    return hr[: height - height % SCALE, : width - width % SCALE]


def random_sigma(seed: int, name: str) -> float:
    """Draws a sigma in [1, 2] that depends only on the seed and the photo's name."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return float(rng.uniform(*RANDOM_SIGMA_RANGE))
