"""Measures the time to pack photos, and the crops per second from the pack.

No network takes part.

    python -m benchmarks.data_pipeline --photos=DIR
"""

import itertools
import statistics
import tempfile
import time
from pathlib import Path

from absl import flags

from eddsrn_jax.commands.command_line import run_command
from eddsrn_jax.data.crops import CropSampler
from eddsrn_jax.data.pack import open_pack
from eddsrn_jax.data.sources import folder_source
from eddsrn_jax.data.streaming import stream_batches

_PHOTOS = flags.DEFINE_string("photos", None, "Folder of photos.", required=True)
_PATCH_SIZE = flags.DEFINE_integer("patch_size", 256, "Side of a crop in pixels.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Crops in a batch.")
_BATCHES = flags.DEFINE_integer("batches", 200, "Batches in a measurement.")


def main() -> None:
    """Prints the packing time and the crops per second."""
    source = folder_source(Path(_PHOTOS.value))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        pack = open_pack(source, Path(folder))
        seconds = time.perf_counter() - start
        megapixels = sum(image.size for image in pack.images) / 3e6
        print(
            f"packed {len(pack.images)} photos of {megapixels:.0f} megapixels in"
            f" {seconds:.1f} s ({megapixels / seconds:.0f} megapixels/s)"
        )
        sampler = CropSampler(
            pack,
            seed=0,
            batch_size=_BATCH_SIZE.value,
            crops_per_image=40,
            patch_size=_PATCH_SIZE.value,
        )
        rates = []
        for repeat in range(5):
            first = repeat * _BATCHES.value
            batches = stream_batches(sampler, range(first, first + _BATCHES.value + 8))
            # The first batch is not timed, because it waits for TensorFlow's start.
            next(batches)
            start = time.perf_counter()
            count = sum(1 for _ in itertools.islice(batches, _BATCHES.value))
            rates.append(count * _BATCH_SIZE.value / (time.perf_counter() - start))
        side = _PATCH_SIZE.value
        print(
            f"crops of {side} x {side}: {statistics.median(rates):.0f} per second (median"
            f" of {len(rates)}; {min(rates):.0f} to {max(rates):.0f})"
        )


if __name__ == "__main__":
    run_command(main, flags.FLAGS)
