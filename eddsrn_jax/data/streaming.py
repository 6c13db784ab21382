"""The tf.data pipeline, which cuts the crops of coming steps while the device works.

Where there is no TensorFlow, as on Python 3.14, grain takes its place.
"""

import atexit
import collections
import contextlib
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

import jax
import numpy as np

from eddsrn_jax.data import STREAMING_LIBRARY
from eddsrn_jax.data.crops import CropSampler
from eddsrn_jax.data.source_files import import_tensorflow

Batch = dict[str, np.ndarray]
_Batch = TypeVar("_Batch")
_streams: weakref.WeakSet[Generator] = weakref.WeakSet()


@atexit.register
def _close_streams() -> None:
    """Closes the streams that are still open when Python ends.

    Later, their threads could not run Python code any more, and TensorFlow would wait for
    them for ever.
    """
    for stream in [*_streams]:
        # A thread may still be reading it.
        with contextlib.suppress(ValueError):
            stream.close()


def stream_batches(
    sampler: CropSampler,
    steps: range,
    *,
    rows: slice = slice(None),
    num_threads: int = 2,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Yields the batches of `steps` in order, cut ahead of use by tf.data or grain.

    A batch depends on its step alone. So the sequence does not depend on the number of
    threads, and a resumed run starts at a later step.

    Args:
        sampler: sampler that cuts the crops of a step.
        steps: steps to deliver.
        rows: rows of every batch that this process needs.
        num_threads: number of threads that cut crops.
        prefetch: number of batches that are kept ready.
    """
    makers = {"tensorflow": _stream_by_tensorflow, "grain": _stream_by_grain}
    make = makers[STREAMING_LIBRARY]
    stream = make(sampler, steps, rows, num_threads, prefetch)
    _streams.add(stream)
    return stream


def _stream_by_grain(
    sampler: CropSampler, steps: range, rows: slice, num_threads: int, prefetch: int
) -> Generator[Batch, None, None]:
    import grain  # pyright: ignore[reportMissingImports]

    options = grain.ReadOptions(num_threads, max(prefetch, num_threads))
    dataset = grain.MapDataset.source(steps).map(lambda step: sampler.batch(step, rows))
    yield from dataset.to_iter_dataset(options)


def _stream_by_tensorflow(
    sampler: CropSampler, steps: range, rows: slice, num_threads: int, prefetch: int
) -> Generator[Batch, None, None]:
    tf = import_tensorflow()
    types = {"hr": tf.uint8, "key": tf.uint32}
    if sampler.small:
        types["lr"] = tf.uint8

    def gather(step: np.ndarray) -> tuple[np.ndarray, ...]:
        batch = sampler.batch(int(step), rows)
        return tuple(batch[name] for name in types)

    # Autotuning has nothing to tune here, and its thread sleeps for up to a minute: the
    # end of an iterator would wait for it.
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = (
        tf.data.Dataset.range(steps.start, steps.stop)
        .map(
            lambda step: tf.numpy_function(gather, [step], [*types.values()]),
            num_parallel_calls=num_threads,
            deterministic=True,
        )
        .prefetch(prefetch)
        .with_options(options)
    )
    for arrays in dataset.as_numpy_iterator():
        yield dict(zip(types, arrays, strict=True))


def prefetch_to_device(
    batches: Iterable[_Batch],
    place: Callable[[_Batch], dict[str, jax.Array]],
    *,
    size: int = 2,
) -> Iterator[dict[str, jax.Array]]:
    """Yields batches placed on the devices ahead of use; at most `size` wait there."""
    queue: collections.deque = collections.deque()
    for batch in batches:
        queue.append(place(batch))
        if len(queue) == size:
            yield queue.popleft()
    yield from queue
