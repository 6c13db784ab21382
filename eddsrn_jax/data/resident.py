"""Keeps the photos in device memory, and cuts the planned crops there.

This is for accelerators that take crops faster than a host can cut and send them, and for
hosts without TensorFlow.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from eddsrn_jax.data.crops import CropSampler
from eddsrn_jax.errors import InputError
from eddsrn_jax.machine import device_memory
from eddsrn_jax.mesh import DATA_AXIS, replicate, shard_batch

# A byte's address is a block and an offset in it, because one int32 ends at 2 GB.
_BLOCK = 256
# Largest share of a device's memory that the photos may take.
_MEMORY_SHARE = 0.6


def resident_batches(
    sampler: CropSampler, steps: range, mesh: Mesh, *, rows: slice = slice(None)
) -> Iterator[dict[str, jax.Array]]:
    """Cuts the batches of `steps`, in order, on the devices.

    Args:
        sampler: sampler that plans the crops and holds the photos.
        steps: steps to deliver.
        mesh: devices; each gets all photos.
        rows: rows of every batch that this process's devices need.

    Returns:
        An iterator over the batches, the same as `CropSampler.batch` would give after
        `shard_batch`.

    Raises:
        InputError: the photos do not fit in a device's memory.
    """
    assert not sampler.small, "config_checks refuses pairs"
    sizes = [3 * height * width for height, width in sampler.sizes]
    count = -(-sum(sizes) // _BLOCK) + _blocks_touched(sampler.patch_size)
    memory = device_memory(mesh.local_devices[0])
    if count * _BLOCK > _MEMORY_SHARE * memory:
        raise InputError(
            f"config.data.pipeline='resident': the photos take {count * _BLOCK / 1e9:.2f}"
            f" GB, more than {_MEMORY_SHARE:.0%} of the {memory / 1e9:.2f} GB of a"
            " device; use 'stream' instead"
        )
    data = np.zeros(count * _BLOCK, np.uint8)
    starts = np.cumsum([0, *sizes])
    for image, start in zip(sampler.images, starts, strict=False):
        data[start : start + image.size] = image.reshape(-1)
    blocks = replicate(data.reshape(count, _BLOCK), mesh)
    cut = jax.jit(
        jax.shard_map(
            functools.partial(_cut, side=sampler.patch_size),
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(DATA_AXIS)),
            out_specs=PartitionSpec(DATA_AXIS),
            check_vma=False,
        )
    )

    def batches() -> Iterator[dict[str, jax.Array]]:
        for step in steps:
            plan = sampler.plan(step, rows)
            width = sampler.sizes[plan.image, 1]
            first = starts[plan.image] + 3 * (plan.y * width + plan.x)
            block, offset = np.divmod(first, _BLOCK)
            places = {"block": block, "offset": offset, "stride": 3 * width}
            places = {name: x.astype(np.int32) for name, x in places.items()}
            yield cut(blocks, shard_batch({**places, "key": plan.key}, mesh))

    return batches()


def _blocks_touched(side: int) -> int:
    """Returns how many blocks a row of a crop touches at most."""
    return -(-(3 * side - 1) // _BLOCK) + 1


def _cut(
    blocks: jax.Array, places: dict[str, jax.Array], *, side: int
) -> dict[str, jax.Array]:
    """Cuts crops that start at `offset` in `block` and have rows `stride` bytes apart."""
    count = _blocks_touched(side)

    def row(block: jax.Array, start: jax.Array) -> jax.Array:
        touched = blocks[block + start // _BLOCK + jnp.arange(count)].reshape(-1)
        return jax.lax.dynamic_slice_in_dim(touched, start % _BLOCK, 3 * side)

    def crop(block: jax.Array, offset: jax.Array, stride: jax.Array) -> jax.Array:
        starts = offset + stride * jnp.arange(side)
        return jax.vmap(row, in_axes=(None, 0))(block, starts).reshape(side, side, 3)

    hr = jax.vmap(crop)(places["block"], places["offset"], places["stride"])
    return {"hr": hr, "key": places["key"]}
