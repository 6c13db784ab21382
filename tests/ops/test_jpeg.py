"""Compares JPEG compression on the device with Pillow, which uses libjpeg."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from eddsrn_jax.ops.jpeg import jpeg

compress = jax.jit(jpeg)


def pillow_jpeg(levels, quality, reduce_chroma):
    buffer = io.BytesIO()
    subsampling = "4:2:0" if reduce_chroma else "4:4:4"
    Image.fromarray(levels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    with Image.open(buffer) as image:
        return np.asarray(image)


def on_device(levels, *args, **options):
    image = compress(levels.astype(np.float32) / 255, *args, **options)
    return np.rint(255 * np.asarray(image)).astype(np.uint8)


def distance(a, b):
    return np.abs(a.astype(float) - b).mean(axis=(0, 1))


@pytest.mark.parametrize("size", [(160, 192), (101, 135)])
@pytest.mark.parametrize("reduce_chroma", [False, True], ids=["444", "420"])
@pytest.mark.parametrize(
    "quality, share", [(10, 0.02), (30, 0.02), (50, 0.02), (75, 0.03), (95, 0.12)]
)
def test_is_close_to_libjpeg_in_every_channel(photo, quality, share, reduce_chroma, size):
    levels = photo[: size[0], 3 : 3 + size[1]]
    expected = pillow_jpeg(levels, quality, reduce_chroma)
    found = on_device(levels, quality, reduce_chroma=reduce_chroma)
    # libjpeg's transform is in integers, so it rounds some coefficients differently.
    limit = share * distance(levels, expected)
    np.testing.assert_array_less(distance(found, expected), limit)


def test_phase_aligns_blocks_with_those_of_a_larger_image(photo):
    whole = pillow_jpeg(photo[:192, :256], 40, True)
    found = on_device(photo[21:85, 39:103], 40, phase=(21 % 16, 39 % 16))
    # Blocks that extend beyond the part differ, and so does the chroma beside them.
    inner = (slice(12, 58), slice(10, 56))
    difference = distance(found[inner], whole[21:85, 39:103][inner])
    np.testing.assert_array_less(difference, 0.05)
    unaligned = on_device(photo[21:85, 39:103], 40)
    shift = distance(unaligned[inner], whole[21:85, 39:103][inner])
    assert (shift > 1).all()
