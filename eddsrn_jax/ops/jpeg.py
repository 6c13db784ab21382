"""Applies JPEG compression to an image, as an array function on the device.

Only lossy steps are computed: colour conversion, chroma reduction and the quantised
cosine transform, and the decoder's inverse of each. The arithmetic is that of libjpeg,
because its rounding matters at high quality.

Source: ITU-T T.81 (annex K has the quantisation tables); colour: JFIF 1.02; chroma
enlargement: libjpeg's "fancy upsampling".
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eddsrn_jax.ops.resize import PRECISION

# Side of a block, and side of the area that one chroma block covers with 4:2:0.
_BLOCK, UNIT = 8, 16

_LUMINANCE_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMINANCE_TABLE = np.full((_BLOCK, _BLOCK), 99)
_CHROMINANCE_TABLE[:4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]
_TABLES = np.stack([_LUMINANCE_TABLE, _CHROMINANCE_TABLE, _CHROMINANCE_TABLE])


def _cosine_matrix() -> np.ndarray:
    """Returns the orthonormal matrix of the 8-point cosine transform."""
    frequencies, samples = np.mgrid[:_BLOCK, :_BLOCK]
    matrix = np.cos((2 * samples + 1) * frequencies * np.pi / (2 * _BLOCK)) / 2
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def jpeg(
    image: jax.Array,
    quality: jax.Array | int,
    *,
    reduce_chroma: jax.Array | bool = True,
    phase: Sequence[jax.Array | int] = (0, 0),
) -> jax.Array:
    """Returns the image after JPEG compression and decompression.

    Args:
        image: float32 RGB [H, W, 3], multiples of 1 / 255 in [0, 1].
        quality: libjpeg's quality, 1 to 100; may be traced.
        reduce_chroma: whether to store chroma at half size (4:2:0) instead of full size
            (4:4:4); may be traced.
        phase: numbers of rows and columns by which the block grid begins before the
            image, 0 to 15, as if the image were cut out of a larger one; may be traced.
            Pixels beyond the image repeat its edge.

    Returns:
        float32 [H, W, 3], multiples of 1 / 255 in [0, 1].
    """
    sizes = image.shape[:2]
    # The compressed area consists of whole units and holds the image at any phase.
    areas = [-(-(size + UNIT - 1) // UNIT) * UNIT for size in sizes]
    rows, columns = (
        jnp.clip(jnp.arange(area) - start, 0, size - 1)
        for area, start, size in zip(areas, phase, sizes, strict=True)
    )
    levels = jnp.rint(255.0 * image).astype(jnp.int32)[rows][:, columns]
    planes = _to_ycc(levels)
    tables = _scaled_tables(quality)
    luminance = _quantise(planes[..., :1], tables[:1])
    whole = _quantise(planes[..., 1:], tables[1:])
    half = _quantise(_halve(planes[..., 1:]), tables[1:])
    # Samples of the half-size planes that belong to the image.
    ends = [(start + size + 1) // 2 for start, size in zip(phase, sizes, strict=True)]
    enlarged = _enlarge(half, ends)
    chrominance = jnp.where(jnp.asarray(reduce_chroma), enlarged, whole)
    decoded = _to_rgb(jnp.concatenate([luminance, chrominance], axis=-1))
    decoded = jax.lax.dynamic_slice(decoded, (*phase, 0), image.shape)
    return decoded.astype(jnp.float32) / 255.0


def _scaled_tables(quality: jax.Array | int) -> jax.Array:
    """Returns the quantisation tables of a quality, int32 [3, 8, 8]."""
    quality = jnp.asarray(quality, jnp.int32)
    percent = jnp.where(quality < 50, 5000 // jnp.maximum(quality, 1), 200 - 2 * quality)
    return jnp.clip((_TABLES * percent + 50) // 100, 1, 255)


def _quantise(planes: jax.Array, tables: jax.Array) -> jax.Array:
    """Rounds the cosine coefficients of every block to multiples of a table.

    Args:
        planes: colour planes, int32 [H, W, C] in [0, 255], H and W multiples of 8.
        tables: quantisation tables, int32 [C, 8, 8].

    Returns:
        The decoded planes, int32 [H, W, C] in [0, 255].
    """
    height, width, channels = planes.shape
    blocks = planes.reshape(
        height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, channels
    ).astype(jnp.float32)
    matrix = _cosine_matrix()
    transform = lambda spec, x: jnp.einsum(spec, matrix, x, matrix, precision=PRECISION)  # noqa: E731
    coefficients = transform("ui,aibjc,vj->aubvc", blocks - 128.0)
    steps = tables.transpose(1, 2, 0)[None, :, None]
    # libjpeg's coefficients are multiples of 1 / 8. It rounds halves away from zero.
    eighths = jnp.rint(8 * coefficients).astype(jnp.int32)
    whole = jnp.sign(eighths) * ((jnp.abs(eighths) + 4 * steps) // (8 * steps))
    decoded = transform("ui,aubvc,vj->aibjc", (whole * steps).astype(jnp.float32))
    levels = jnp.clip(jnp.floor(decoded + 128.5), 0, 255)
    return levels.astype(jnp.int32).reshape(height, width, channels)


def _halve(planes: jax.Array) -> jax.Array:
    """Averages 2 x 2 pixels. The rounding alternates by column, as in libjpeg."""
    height, width, channels = planes.shape
    sums = planes.reshape(height // 2, 2, width // 2, 2, channels).sum(axis=(1, 3))
    bias = 1 + jnp.arange(width // 2) % 2
    return (sums + bias[None, :, None]) // 4


def _enlarge(planes: jax.Array, ends: list[jax.Array | int]) -> jax.Array:
    """Doubles the size. Along each axis, a sample has weight 3 and its neighbour 1.

    Args:
        planes: int32 [H, W, C].
        ends: numbers of rows and columns that are valid; the last ones are replicated.
    """

    def weighted(x: jax.Array, axis: int) -> jax.Array:
        samples = jnp.arange(2 * x.shape[axis]) // 2
        neighbours = samples + jnp.where(jnp.arange(len(samples)) % 2, 1, -1)
        near, far = (
            jnp.take(x, jnp.clip(indices, 0, ends[axis] - 1), axis)
            for indices in (samples, neighbours)
        )
        return 3 * near + far

    sums = weighted(weighted(planes, 0), 1)
    bias = 8 - jnp.arange(sums.shape[1]) % 2
    return (sums + bias[None, :, None]) // 16


# Half of 2^16, for rounding: the factors of the colour conversions are in units of 2^-16.
_HALF = 1 << 15


def _to_ycc(rgb: jax.Array) -> jax.Array:
    """Converts RGB to luminance and centred chroma, int32 in [0, 255]."""
    red, green, blue = (rgb[..., i] for i in range(3))
    luminance = 19595 * red + 38470 * green + 7471 * blue + _HALF
    centre = (128 << 16) + _HALF - 1
    cb = -11059 * red - 21709 * green + 32768 * blue + centre
    cr = 32768 * red - 27439 * green - 5329 * blue + centre
    return jnp.stack([luminance, cb, cr], axis=-1) >> 16


def _to_rgb(ycc: jax.Array) -> jax.Array:
    """Inverts `_to_ycc` and clips to [0, 255]."""
    luminance, cb, cr = ycc[..., 0], ycc[..., 1] - 128, ycc[..., 2] - 128
    red = luminance + ((91881 * cr + _HALF) >> 16)
    green = luminance + ((-22554 * cb - 46802 * cr + _HALF) >> 16)
    blue = luminance + ((116130 * cb + _HALF) >> 16)
    return jnp.clip(jnp.stack([red, green, blue], axis=-1), 0, 255)
