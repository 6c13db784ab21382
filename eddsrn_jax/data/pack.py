"""Packs: a pack is a set of photos, decoded once into one memory-mapped uint8 file.

Crops are then read by random access, without decoding. Processes on one host share the
page cache.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import itertools
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from eddsrn_jax.data.progress import Progress
from eddsrn_jax.data.sources import File, Listing, Source
from eddsrn_jax.errors import InputError
from eddsrn_jax.files import delete_leftovers, locked, write_text, written_beside
from eddsrn_jax.images import count_pixels
from eddsrn_jax.machine import usable_cores

_log = logging.getLogger(__name__)

_NO_LISTING = Listing("", ())
# Errors of the system that say nothing about a file's content.
_SYSTEM = {
    getattr(errno, name, None)
    for name in (
        *("EACCES", "EPERM", "ENOENT", "EMFILE", "ENFILE", "ENOMEM", "EIO"),
        *("EAGAIN", "EBUSY", "EINTR"),
        # A network file system is away. Not every platform has all of these.
        *("ETIMEDOUT", "ESTALE", "ENOTCONN", "ECONNRESET", "ECONNABORTED", "EREMOTEIO"),
        *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "EPROTO"),
    )
} - {None}
# A photo, and the small photo of the same scene, if there is one.
_Pair = tuple[np.ndarray, np.ndarray | None]


@dataclasses.dataclass(frozen=True)
class Pack:
    """Photos as uint8 [H, W, 3] views into one memory map.

    Attributes:
        images: photos.
        names: names of the photos.
        listing: files that the pack was made from.
        left_out: error message of each file that could not be decoded.
        small: the small photos of the same scenes, uint8 [H // 4, W // 4, 3], if the
            photos are those of pairs; else empty.
    """

    images: Sequence[np.ndarray]
    names: Sequence[str]
    listing: Listing = _NO_LISTING
    left_out: Sequence[str] = ()
    small: Sequence[np.ndarray] = ()

    @property
    def name(self) -> str:
        """Name of the set."""
        return self.listing.name

    @property
    def photos(self) -> list[tuple[str, np.ndarray] | tuple[str, np.ndarray, np.ndarray]]:
        """Tuples of a name, a photo and, of a pair, the small photo."""
        if self.small:
            return list(zip(self.names, self.images, self.small, strict=True))
        return list(zip(self.names, self.images, strict=True))

    def take(self, indices: Sequence[int]) -> "Pack":
        """Returns a pack of the photos at these indices."""
        names, images, small = (
            [column[i] for i in indices] if column else ()
            for column in (self.names, self.images, self.small)
        )
        return dataclasses.replace(self, names=names, images=images, small=small)

    def at_least(self, side: int, purpose: str) -> "Pack":
        """Returns a pack without the photos that are too small; a warning names each.

        Args:
            side: smallest height and width, in pixels.
            purpose: meaning of this size, for messages.

        Raises:
            InputError: all photos are too small.
        """
        kept = []
        for i, image in enumerate(self.images):
            height, width, _ = image.shape
            if min(height, width) < side:
                _log.warning(
                    "%s: left out, because %d x %d is smaller than %d x %d, %s",
                    self.names[i],
                    width,
                    height,
                    side,
                    side,
                    purpose,
                )
            else:
                kept.append(i)
        if not kept:
            raise InputError(
                f"all {len(self.images)} photos are smaller than {side} x {side},"
                f" {purpose}"
            )
        return self.take(kept)

    def announce(self, on_error: str) -> None:
        """Reports the files that could not be decoded.

        Args:
            on_error: "skip" warns of each file, "raise" raises the error of the first.

        Raises:
            InputError: `on_error` is "raise" and a file was left out.
        """
        for reason in self.left_out:
            if on_error == "raise":
                raise InputError(reason)
            _log.warning("%s; left out", reason)

    def as_source(self) -> Source:
        """Returns the pack as a source of files that are decoded already."""
        return Source(self.name, (), lambda: itertools.starmap(File, self.photos))


def open_pack(source: Source, cache_dir: Path, *, on_error: str = "skip") -> Pack:
    """Opens the pack of a source, and makes it first if it does not exist.

    One process makes the pack; the others wait.

    Args:
        source: source of the photos.
        cache_dir: folder of the packs, each named after its source's `Listing.key`.
        on_error: treatment of files that cannot be decoded, see `Pack.announce`.

    Raises:
        InputError: no file could be decoded, or `on_error` is "raise" and one could not,
            or a file could not be read at present (access, memory, disk).
        OSError: the disk has no room. The message has both sizes; nothing is written.
    """
    listing = source.listing()
    pack = read_pack(listing, cache_dir)
    if pack is None:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with locked(cache_dir, name=".lock-packs", wait=True) as alone:
            if alone:
                delete_leftovers(cache_dir)
            # Another process may have made the pack while this one waited.
            if read_pack(listing, cache_dir) is None:
                _make_pack(source, _index_path(listing, cache_dir), on_error)
        pack = read_pack(listing, cache_dir)
        if pack is None:
            raise OSError(f"{cache_dir}: the new pack of {source.name} cannot be read")
    pack.announce(on_error)
    return pack


def read_pack(listing: Listing, cache_dir: Path) -> Pack | None:
    """Opens the pack of a listing; None if it does not exist or is damaged."""
    index_path = _index_path(listing, cache_dir)
    data_path = index_path.with_suffix(".u8")
    if not (index_path.exists() and data_path.exists()):
        return None
    # The index may be damaged, or the data truncated.
    with contextlib.suppress(ValueError, TypeError, LookupError):
        entries = json.loads(index_path.read_text())
        kept = [entry for entry in entries if "left_out" not in entry]
        data = np.memmap(data_path, np.uint8, mode="r")
        images = [_view(data, entry) for entry in kept]
        small = [_view(data, entry["small"]) for entry in kept if "small" in entry]
        names = [entry["name"] for entry in kept]
        left_out = [entry["left_out"] for entry in entries if "left_out" in entry]
        # An index without photos is damaged: no such pack is made.
        if images and len(small) in (0, len(images)):
            return Pack(images, names, listing, left_out, small)
    return None


def _view(data: np.ndarray, place: dict[str, int]) -> np.ndarray:
    height, width, offset = (place[key] for key in ("height", "width", "offset"))
    return data[offset : offset + 3 * height * width].reshape(height, width, 3)


def _append(data: BinaryIO, image: np.ndarray) -> dict[str, int]:
    """Writes an image to the end of a pack; returns its place there."""
    height, width, _ = image.shape
    place = {"height": height, "width": width, "offset": data.tell()}
    data.write(np.ascontiguousarray(image))
    return place


def _index_path(listing: Listing, cache_dir: Path) -> Path:
    return cache_dir / f"{listing.key}.json"


def _make_pack(source: Source, index_path: Path, on_error: str) -> None:
    with Progress(f"scanning {source.name}") as bar:
        pixels = []
        for file in source.files():
            pixels.append(_count_pixels(file))
            bar.update()
    _check_room(source, index_path.parent, pixels)
    entries = []
    data_path = index_path.with_suffix(".u8")
    with written_beside(data_path) as temporary, temporary.open("wb") as data:
        for file, found in _decode(source, len(pixels)):
            if isinstance(found, InputError):
                if _is_of_the_system(found):
                    # The file may be intact; the pack would lack it from now on.
                    raise InputError(f"{found}; if it stays so, remove it") from found
                if on_error == "raise":
                    raise found
                entries.append({"left_out": str(found)})
                continue
            hr, lr = found
            entry = {"name": file.name, **_append(data, hr)}
            entries.append(entry if lr is None else {**entry, "small": _append(data, lr)})
        if all("left_out" in entry for entry in entries):
            raise InputError(
                f"{source.name}: none of {len(entries)} files can be used (first error:"
                f" {entries[0]['left_out']})"
            )
    # The index is written last, so that a pack is complete or absent.
    write_text(index_path, json.dumps(entries))


def _is_of_the_system(error: InputError) -> bool:
    """Returns whether a photo was not decoded for another reason than its content."""
    cause = error.__cause__
    return isinstance(cause, MemoryError) or getattr(cause, "errno", None) in _SYSTEM


def _check_room(source: Source, folder: Path, pixels: Sequence[int]) -> None:
    total, free = 3 * sum(pixels), shutil.disk_usage(folder).free
    if total > free:
        # Damaged headers may claim any size, so count the pixels that can be decoded.
        decoded = _decode(source, len(pixels))
        found = (x for _, x in decoded if not isinstance(x, InputError))
        total = sum(image.size for pair in found for image in pair if image is not None)
    if total > free:
        raise OSError(
            f"{folder}: packing {source.name} needs {total / 1e6:,.1f} MB, but only"
            f" {free / 1e6:,.1f} MB are free; config.data.cache_dir sets another folder"
        )


def _count_pixels(file: File) -> int:
    """Returns the pixel count in the headers; 0 if decoding will report a broken one."""
    # Only a pack has files that are decoded already, and it is not packed again.
    assert not isinstance(file.content, np.ndarray)
    assert not isinstance(file.lr, np.ndarray)
    try:
        small = count_pixels(file.lr, str(file.lr)) if file.lr else 0
        return count_pixels(file.content, file.place) + small
    except InputError:
        return 0


def _decode(source: Source, total: int) -> Iterator[tuple[File, _Pair | InputError]]:
    """Decodes files in threads; yields each in order with its pixels or its error."""

    def decode(file: File) -> tuple[File, _Pair | InputError]:
        try:
            return file, file.read_pair()
        except InputError as error:
            return file, error

    workers = usable_cores()
    with (
        Progress(f"packing {source.name}", total) as bar,
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
    ):
        pending: collections.deque[concurrent.futures.Future] = collections.deque()
        for file in source.files():
            pending.append(pool.submit(decode, file))
            # A bounded window, because decoded photos wait in memory.
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
                bar.update()
        while pending:
            yield pending.popleft().result()
            bar.update()
