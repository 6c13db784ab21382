"""The tf.data pipeline: cuts the crops of coming steps while the device works."""

import collections
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from eddsrn_jax.data.crops import CropSampler
from eddsrn_jax.data.sources import import_tensorflow

Batch = dict[str, np.ndarray]


def stream_batches(
    sampler: CropSampler,
    steps: range,
    *,
    rows: slice = slice(None),
    num_threads: int = 2,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """The batches of `steps`, in order, gathered ahead by tf.data.

    The content of a batch depends on its step alone, so the sequence is the same for
    any number of threads, and resuming is starting at a later step.

    Args:
        sampler: cuts the crops of a step.
        steps: to deliver.
        rows: the part of every batch that this process needs.
        num_threads: that gather.
        prefetch: batches kept ready.
    """
    tf = import_tensorflow()

    def gather(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        batch = sampler.batch(int(step), rows)
        return batch["hr"], batch["key"]

    # Nothing is left to tune, and the end of an iterator waits for the thread that would,
    # which sleeps for up to a minute.
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = (
        tf.data.Dataset.range(steps.start, steps.stop)
        .map(
            lambda step: tf.numpy_function(gather, [step], [tf.uint8, tf.uint32]),
            num_parallel_calls=num_threads,
            deterministic=True,
        )
        .prefetch(prefetch)
        .with_options(options)
    )
    for hr, key in dataset.as_numpy_iterator():
        yield {"hr": hr, "key": key}


def prefetch_to_device(
    batches: Iterable[Batch],
    place: Callable[[Batch], dict[str, jax.Array]],
    *,
    size: int = 2,
) -> Iterator[dict[str, jax.Array]]:
    """Places batches on the devices ahead of their use, `size` of them."""
    queue: collections.deque = collections.deque()
    for batch in batches:
        queue.append(place(batch))
        if len(queue) == size:
            yield queue.popleft()
    yield from queue
