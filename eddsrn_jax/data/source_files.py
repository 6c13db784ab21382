"""Sources of photos: folders, and div2k of tensorflow-datasets.

A source lists its files without decoding them; `pack.py` decodes them.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from eddsrn_jax.data.folders import PhotoFile, find_photos
from eddsrn_jax.errors import InputError
from eddsrn_jax.images import read_image
from eddsrn_jax.models import SCALE
from eddsrn_jax.paths import local_path, printable


@dataclasses.dataclass(frozen=True)
class File:
    """An image file.

    Attributes:
        name: unique name within the source.
        content: path, bytes, or the pixels if the file is decoded already.
        lr: path or pixels of the small blurry photo of the same scene, if there is one.
    """

    name: str
    content: Path | bytes | np.ndarray
    lr: Path | np.ndarray | None = None

    @property
    def place(self) -> str:
        """Path of the file, or its name if it has no path, for messages."""
        return str(self.content) if isinstance(self.content, Path) else self.name

    def read(self) -> np.ndarray:
        """Returns the file's pixels, see `read_image`."""
        if isinstance(self.content, np.ndarray):
            return self.content
        return read_image(self.content, self.place)

    def read_pair(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the file's pixels, and those of the small photo, if there is one.

        Raises:
            InputError: a photo cannot be read, or the small one is not a quarter as high
                and as wide.
        """
        hr = self.read()
        if not isinstance(self.lr, Path):
            return hr, self.lr
        lr = read_image(self.lr, str(self.lr))
        (height, width, _), (rows, columns, _) = lr.shape, hr.shape
        if (height, width) != (rows // SCALE, columns // SCALE):
            raise InputError(
                f"{self.lr}: {width} x {height} pixels, but {self.place} has {columns} x"
                f" {rows}; expected {columns // SCALE} x {rows // SCALE}"
            )
        return hr, lr


@dataclasses.dataclass(frozen=True)
class Listing:
    """State of the files that hold a set of photos, at one time.

    Attributes:
        name: name of the set.
        files: path, size and modification time (nanoseconds) of each file.
    """

    name: str
    files: tuple[tuple[str, int, int], ...]

    @property
    def key(self) -> str:
        """The set's name, and a hash of the paths, sizes and times of its files."""
        text = repr((self.name, list(self.files)))
        # File names have up to 255 bytes; the hash and an extension follow.
        name = self.name.encode()[:200].decode(errors="ignore")
        return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclasses.dataclass(frozen=True)
class Source:
    """A set of photos.

    Attributes:
        name: name in messages and tables.
        origin: files on disk that hold the set and identify it.
        files: function that yields every photo once, in a fixed order.
    """

    name: str
    origin: tuple[Path, ...]
    files: Callable[[], Iterator[File]]

    def listing(self) -> Listing:
        """Returns the state of the source's files now."""
        stats = [(str(path.resolve()), path.stat()) for path in self.origin]
        files = ((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
        return Listing(self.name, tuple(files))


def paths_source(name: str, photos: Sequence[PhotoFile]) -> Source:
    """Returns a source of image files."""

    def files() -> Iterator[File]:
        for photo in photos:
            yield File(*photo)

    small = (photo.lr for photo in photos if photo.lr)
    return Source(name, (*(photo.path for photo in photos), *small), files)


def folder_source(folder: Path | str, name: str = "") -> Source:
    """Returns a source of all images below a folder, see `find_photos`.

    Args:
        folder: folder to search.
        name: name of the source; empty for the folder's name.

    Raises:
        InputError: the folder does not exist or has no image in it.
    """
    folder = local_path(folder, "folder")
    return paths_source(name or folder_name(folder), find_photos(folder))


def folder_name(folder: Path) -> str:
    """Returns the name of a folder in messages and tables."""
    return printable(folder.name or folder.resolve().name)


def import_tensorflow():
    """Imports TensorFlow, silenced, and hides the accelerators that JAX uses from it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf


def tfds_source(name: str, split: str, *, data_dir: str, download: bool) -> Source:
    """Returns a split of a dataset of tensorflow-datasets as a source.

    Args:
        name: name of the dataset, such as "div2k".
        split: "train" or "validation".
        data_dir: folder of the datasets; empty for the library's default.
        download: whether missing data may be downloaded and prepared.

    Raises:
        InputError: the dataset is unknown, or it is not prepared.
        ModuleNotFoundError: TensorFlow is not installed.
    """
    import_tensorflow()
    import tensorflow_datasets as tfds

    dataset, _, config = name.partition("/")
    # The HR photos are the same in all of div2k's configs; x4 is this project's scale.
    full_name = f"{dataset}/{config or 'bicubic_x4'}"
    try:
        builder = tfds.builder(full_name, data_dir=data_dir or None)
    # The library's own message is a page long.
    except (ValueError, tfds.core.DatasetNotFoundError) as error:
        raise InputError(
            f"config.data.source=tfds:{name}: tensorflow-datasets has no {full_name}"
        ) from error
    if download:
        builder.download_and_prepare()
    if not builder.is_prepared():
        raise InputError(
            f"{full_name} is not prepared in {builder.data_path}. Let"
            " tensorflow-datasets download it (4.3 GB) with"
            " --config.data.tfds_download=true, or train on a folder of photos with"
            " --config.data.source=folder:DIR"
        )

    def files() -> Iterator[File]:
        decoders = {"hr": tfds.decode.SkipDecoding(), "lr": tfds.decode.SkipDecoding()}
        # A decorator hides the parameters of this method from type checkers.
        examples = builder.as_dataset(split=split, decoders=decoders)  # pyright: ignore[reportCallIssue]
        for i, example in enumerate(examples.as_numpy_iterator()):
            yield File(f"{full_name}-{split}-{i:04d}", example["hr"])

    title = "DIV2K" if dataset == "div2k" else dataset
    return Source(
        title if split == "train" else f"{title}-val",
        tuple(sorted(Path(p) for p in builder.info.splits[split].filepaths)),
        files,
    )
