"""The pack: a set of photographs decoded once into one memory-mapped uint8 file.

After that every crop is random access, decoding never happens again, and processes on
one host share the page cache.
"""

import concurrent.futures
import dataclasses
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from eddsrn_jax.data.sources import File, Source
from eddsrn_jax.errors import InputError
from eddsrn_jax.images import count_pixels, read_image

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Pack:
    """Photographs as uint8 [H, W, 3] views into one memory map, with their names."""

    images: Sequence[np.ndarray]
    names: Sequence[str]

    def at_least(self, side: int) -> "Pack":
        """Without the photographs that are smaller than a crop, which are named.

        Raises:
            InputError: none is left.
        """
        kept = []
        for i, image in enumerate(self.images):
            height, width, _ = image.shape
            if min(height, width) < side:
                _log.warning(
                    "%s: left out, %d x %d is smaller than the crop of %d x %d",
                    *(self.names[i], width, height, side, side),
                )
            else:
                kept.append(i)
        if not kept:
            raise InputError(
                f"all {len(self.images)} photographs are smaller than the crop of"
                f" {side} x {side} (config.data.hr_patch_size)"
            )
        return Pack([self.images[i] for i in kept], [self.names[i] for i in kept])


def open_pack(source: Source, cache_dir: Path) -> Pack:
    """Opens the pack of a source, and makes it first if it is not there yet.

    Files that cannot be decoded are left out with a warning that names them.

    Args:
        source: the photographs.
        cache_dir: holds packs, each named by its source's files, sizes and times.

    Raises:
        InputError: no file could be decoded.
        OSError: the disk has no room, with both numbers; nothing is written then.
    """
    stem = f"{source.name}-{source.fingerprint()}"
    index_path = cache_dir / f"{stem}.json"
    if not index_path.exists():
        _make_pack(source, index_path)
    index = json.loads(index_path.read_text())
    data = np.memmap(index_path.with_suffix(".u8"), np.uint8, mode="r")
    images, names = [], []
    for entry in index:
        height, width, offset = entry["height"], entry["width"], entry["offset"]
        flat = data[offset : offset + height * width * 3]
        images.append(flat.reshape(height, width, 3))
        names.append(entry["name"])
    return Pack(images, names)


def _make_pack(source: Source, index_path: Path) -> None:
    pixels = list(_pixels(source))
    total = 3 * sum(pixels)
    index_path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(index_path.parent).free
    if total > free:
        raise OSError(
            f"{index_path.parent}: packing {source.name} needs {total / 1e9:.2f} GB,"
            f" free are {free / 1e9:.2f} GB (config.data.cache_dir sets another place)"
        )
    # Written aside and renamed, the index last: a pack is whole or absent.
    data_path = index_path.with_suffix(".u8")
    partial = index_path.with_suffix(f".{os.getpid()}.tmp")
    try:
        index = _decode_into(partial, source, pixels)
        if not index:
            raise InputError(f"{source.name}: none of {len(pixels)} files is an image")
        os.replace(partial, data_path)
        partial.write_text(json.dumps(index))
        os.replace(partial, index_path)
    finally:
        partial.unlink(missing_ok=True)


def _pixels(source: Source) -> Iterator[int]:
    """The pixel count of every file; 0 and a warning where it has no header."""
    for file in source.files():
        try:
            yield count_pixels(file.content, file.place)
        except InputError as error:
            _log.warning("%s; left out", error)
            yield 0


def _decode_into(path: Path, source: Source, pixels: list[int]) -> list[dict]:
    """Decodes all files, in threads, and returns the index of those that could be."""
    data = np.memmap(path, np.uint8, mode="w+", shape=(max(3 * sum(pixels), 1),))

    def decode(file: File, count: int, offset: int) -> dict | None:
        try:
            image = read_image(file.content, file.place)
            if image.size != 3 * count:
                raise InputError(
                    f"{file.place}: {image.size // 3} pixels, its header says {count}"
                )
        except InputError as error:
            _log.warning("%s; left out", error)
            return None
        data[offset : offset + image.size] = image.reshape(-1)
        height, width, _ = image.shape
        return {"name": file.place, "height": height, "width": width, "offset": offset}

    def jobs() -> Iterator[tuple[File, int, int]]:
        offset = 0
        for file, count in zip(source.files(), pixels, strict=True):
            if count:
                yield file, count, offset
            offset += 3 * count

    index = []
    bar = tqdm(
        total=sum(count > 0 for count in pixels),
        desc=f"packing {source.name}",
        unit="photo",
        disable=not sys.stderr.isatty(),
    )
    workers = os.cpu_count() or 1
    with bar, concurrent.futures.ThreadPoolExecutor(workers) as pool:
        pending: list[concurrent.futures.Future] = []
        for job in jobs():
            pending.append(pool.submit(decode, *job))
            # A window, not all at once: the files of a stream are held in memory.
            if len(pending) >= 2 * workers:
                index.append(pending.pop(0).result())
                bar.update()
        for future in pending:
            index.append(future.result())
            bar.update()
    data.flush()
    return [entry for entry in index if entry]
