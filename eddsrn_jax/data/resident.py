"""The photographs in device memory, where the crops of the same plan are cut.

For accelerators that take crops faster than a host can cut and send them, and where
TensorFlow is not installed.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from eddsrn_jax import parallel
from eddsrn_jax.data.crops import CropSampler
from eddsrn_jax.errors import InputError

# Bytes are addressed by a block and an offset after its start: one int32 ends at 2 GB.
_BLOCK = 256
# Of a device's memory, what photographs may take.
_MEMORY_SHARE = 0.6


def resident_batches(
    sampler: CropSampler, steps: range, mesh: Mesh, *, rows: slice = slice(None)
) -> Iterator[dict[str, jax.Array]]:
    """The batches of `steps`, in order, cut by the devices.

    Args:
        sampler: says which crops.
        steps: to deliver.
        mesh: every device of which gets all photographs.
        rows: the part of every batch that this process's devices need.

    Returns:
        What `split_batch` makes of `CropSampler.batch`.

    Raises:
        InputError: the photographs do not fit the devices' memory.
    """
    sizes = [3 * height * width for height, width in sampler.sizes]
    count = -(-sum(sizes) // _BLOCK) + _blocks_touched(sampler.patch_size)
    memory = parallel.device_memory(mesh.local_devices[0])
    if count * _BLOCK > _MEMORY_SHARE * memory:
        raise InputError(
            f"config.data.pipeline='resident': {count * _BLOCK / 1e9:.2f} GB of"
            f" photographs, more than {_MEMORY_SHARE:.0%} of the {memory / 1e9:.2f} GB of"
            " a device; 'stream' needs no room there"
        )
    data = np.zeros(count * _BLOCK, np.uint8)
    starts = np.cumsum([0, *sizes])
    for image, start in zip(sampler.images, starts, strict=False):
        data[start : start + image.size] = image.reshape(-1)
    blocks = parallel.replicate(data.reshape(count, _BLOCK), mesh)
    cut = jax.jit(
        jax.shard_map(
            functools.partial(_cut, side=sampler.patch_size),
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(parallel.DATA_AXIS)),
            out_specs=PartitionSpec(parallel.DATA_AXIS),
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
            yield cut(blocks, parallel.split_batch({**places, "key": plan.key}, mesh))

    return batches()


def _blocks_touched(side: int) -> int:
    """By a crop's row, wherever in a block it starts."""
    return -(-(3 * side - 1) // _BLOCK) + 1


def _cut(
    blocks: jax.Array, places: dict[str, jax.Array], *, side: int
) -> dict[str, jax.Array]:
    """Crops whose first byte is at `offset` after `block`, their rows `stride` apart."""
    count = _blocks_touched(side)

    def row(block: jax.Array, start: jax.Array) -> jax.Array:
        touched = blocks[block + start // _BLOCK + jnp.arange(count)].reshape(-1)
        return jax.lax.dynamic_slice_in_dim(touched, start % _BLOCK, 3 * side)

    def crop(block: jax.Array, offset: jax.Array, stride: jax.Array) -> jax.Array:
        starts = offset + stride * jnp.arange(side)
        return jax.vmap(row, in_axes=(None, 0))(block, starts).reshape(side, side, 3)

    hr = jax.vmap(crop)(places["block"], places["offset"], places["stride"])
    return {"hr": hr, "key": places["key"]}
