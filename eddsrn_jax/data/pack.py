"""The pack: a set of photographs decoded once into one memory-mapped uint8 file.

After that every crop is random access, decoding never happens again, and processes on
one host share the page cache.
"""

import collections
import concurrent.futures
import dataclasses
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
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

    def at_least(self, side: int, purpose: str) -> "Pack":
        """Without the photographs that are too small, which are named.

        Args:
            side: smallest height and width, in pixels.
            purpose: what needs it, for the messages.

        Raises:
            InputError: none is left.
        """
        kept = []
        for i, image in enumerate(self.images):
            height, width, _ = image.shape
            if min(height, width) < side:
                _log.warning(
                    "%s: left out, %d x %d is smaller than %d x %d, %s",
                    *(self.names[i], width, height, side, side, purpose),
                )
            else:
                kept.append(i)
        if not kept:
            raise InputError(
                f"all {len(self.images)} photographs are smaller than {side} x {side},"
                f" {purpose}"
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
    index_path = cache_dir / f"{source.name}-{source.fingerprint()}.json"
    if not index_path.exists():
        _make_pack(source, index_path)
    entries = json.loads(index_path.read_text())
    data = np.memmap(index_path.with_suffix(".u8"), np.uint8, mode="r")
    images, names = [], []
    for entry in entries:
        if "left_out" in entry:
            _log.warning("%s; left out", entry["left_out"])
            continue
        height, width, offset = entry["height"], entry["width"], entry["offset"]
        flat = data[offset : offset + height * width * 3]
        images.append(flat.reshape(height, width, 3))
        names.append(entry["name"])
    return Pack(images, names)


def _make_pack(source: Source, index_path: Path) -> None:
    with _progress(f"looking through {source.name}") as bar:
        pixels = []
        for file in source.files():
            pixels.append(_count_pixels(file))
            bar.update()
    total = 3 * sum(pixels)
    index_path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(index_path.parent).free
    if total > free:
        raise OSError(
            f"{index_path.parent}: packing {source.name} needs {total / 1e6:,.1f} MB,"
            f" free are {free / 1e6:,.1f} MB (config.data.cache_dir sets another place)"
        )
    # Written aside and renamed, the index last: a pack is whole or absent.
    partial = index_path.with_suffix(f".{os.getpid()}.tmp")
    try:
        entries = _decode_into(partial, source, pixels)
        if all("left_out" in entry for entry in entries):
            raise InputError(
                f"{source.name}: none of {len(entries)} files is an image (the first:"
                f" {entries[0]['left_out']})"
            )
        os.replace(partial, index_path.with_suffix(".u8"))
        partial.write_text(json.dumps(entries))
        os.replace(partial, index_path)
    finally:
        partial.unlink(missing_ok=True)


def _count_pixels(file: File) -> int:
    """From the header; what has none is found out again, and named, when decoded."""
    try:
        return count_pixels(file.content, file.place)
    except InputError:
        return 0


def _decode_into(path: Path, source: Source, pixels: list[int]) -> list[dict]:
    """Decodes all files, in threads, and returns the index's entries."""
    size = max(3 * sum(pixels), 1)
    with path.open("wb") as file:
        # Where the space can be reserved, a disk that fills up meanwhile is an error
        # here rather than the end of the process on the first page that has no place.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
    data = np.memmap(path, np.uint8, mode="r+")

    def decode(file: File, count: int, offset: int) -> dict:
        try:
            image = read_image(file.content, file.place)
        except InputError as error:
            return {"left_out": str(error)}
        height, width, _ = image.shape
        if height * width != count:
            return {"left_out": f"{file.place}: not of the size that its header says"}
        data[offset : offset + image.size] = image.reshape(-1)
        return {"name": file.place, "height": height, "width": width, "offset": offset}

    entries = []
    workers = os.cpu_count() or 1
    with (
        _progress(f"packing {source.name}", len(pixels)) as bar,
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):
        pending: collections.deque[concurrent.futures.Future] = collections.deque()
        offset = 0
        for file, count in zip(source.files(), pixels, strict=True):
            pending.append(pool.submit(decode, file, count, offset))
            offset += 3 * count
            # A window, not all at once: the files of a stream are held in memory.
            if len(pending) >= 2 * workers:
                entries.append(pending.popleft().result())
                bar.update()
        for future in pending:
            entries.append(future.result())
            bar.update()
    data.flush()
    return entries


def _progress(title: str, total: int | None = None) -> tqdm:
    return tqdm(total=total, desc=title, unit="photo", disable=not sys.stderr.isatty())
