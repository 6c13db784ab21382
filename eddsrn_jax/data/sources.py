"""Sources of photos: div2k of tensorflow-datasets, a folder, or scikit-image's wheel.

A source lists its files without decoding them; `pack.py` decodes them.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eddsrn_jax.errors import InputError
from eddsrn_jax.images import list_images, read_image


@dataclasses.dataclass(frozen=True)
class File:
    """An image file.

    Attributes:
        name: unique name within the source.
        content: path, bytes, or the pixels if the file is decoded already.
    """

    name: str
    content: Path | bytes | np.ndarray

    @property
    def place(self) -> str:
        """Path of the file, or its name if it has no path, for messages."""
        return str(self.content) if isinstance(self.content, Path) else self.name

    def read(self) -> np.ndarray:
        """Returns the file's pixels, see `read_image`."""
        if isinstance(self.content, np.ndarray):
            return self.content
        return read_image(self.content, self.place)


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
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


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


@dataclasses.dataclass(frozen=True)
class Split:
    """Photos to train on, and photos to validate on."""

    train: Source
    validation: Source


def open_split(
    source: str,
    *,
    validation_source: str = "",
    tfds_data_dir: str = "",
    tfds_download: bool = False,
) -> Split:
    """Finds the photos of a config's `data.source`.

    Args:
        source: "tfds:div2k" (has its own validation set), "folder:DIR" (holds out 5 % of
            the files for validation, chosen by their names), or "bundled" (photos inside
            scikit-image's wheel).
        validation_source: separate source for validation, in the same form. Folders are
            then used whole; other sources keep their own split.
        tfds_data_dir: folder of tensorflow-datasets' data; empty for its default.
        tfds_download: whether tensorflow-datasets may download and prepare missing data.

    Raises:
        InputError: the source is unknown, or its photos are not there.
    """
    tfds_options = {"data_dir": tfds_data_dir, "download": tfds_download}
    if validation_source:
        return Split(
            train=_open_whole(source, "train", tfds_options),
            validation=_open_whole(validation_source, "validation", tfds_options),
        )
    kind, _, where = source.partition(":")
    if kind == "tfds":
        return Split(
            train=_tfds_source(where, "train", **tfds_options),
            validation=_tfds_source(where, "validation", **tfds_options),
        )
    if kind == "folder" and where:
        return _split_folder(Path(where).expanduser())
    if source == "bundled":
        return _bundled_split()
    raise InputError(
        f"config.data.source={source!r}: expected 'tfds:div2k', 'folder:DIR' or 'bundled'"
    )


def _open_whole(source: str, part: str, tfds_options: dict[str, Any]) -> Source:
    """Opens a folder as a whole, or the named part of a source with its own split."""
    kind, _, where = source.partition(":")
    if kind == "folder" and where:
        return folder_source(Path(where).expanduser())
    if kind == "tfds":
        return _tfds_source(where, part, **tfds_options)
    return getattr(open_split(source), part)


def folder_source(folder: Path, name: str = "") -> Source:
    """Returns a source of all images below a folder.

    Args:
        folder: folder to search.
        name: name of the source; empty for the folder's name.

    Raises:
        InputError: the folder does not exist or has no image in it.
    """
    return _paths_source(name or folder.name, folder, list_images(folder))


def _paths_source(name: str, folder: Path, paths: list[Path]) -> Source:
    def files() -> Iterator[File]:
        for path in paths:
            yield File(path.relative_to(folder).as_posix(), path)

    return Source(name, tuple(paths), files)


def _split_folder(folder: Path) -> Split:
    paths = list_images(folder)
    if len(paths) < 2:
        raise InputError(
            f"{folder}: only {len(paths)} image found; training and validation need one"
            " each"
        )

    # Drawn by name, so that files added later move few others between the two sets.
    def draw(path: Path) -> str:
        return hashlib.sha256(path.relative_to(folder).as_posix().encode()).hexdigest()

    held_out = set(sorted(paths, key=draw)[: -(-len(paths) // 20)])
    return Split(
        train=_paths_source(folder.name, folder, [p for p in paths if p not in held_out]),
        validation=_paths_source(f"{folder.name}-val", folder, sorted(held_out)),
    )


# The colour photos in scikit-image's wheel. The validation photos are in the public
# domain or CC0, so that they can be shown. The stereo pair is in one set, not in both.
BUNDLED_TRAIN = (
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
BUNDLED_VALIDATION = ("astronaut.png", "chelsea.png")


def _bundled_split() -> Split:
    # Only the folder is looked up: importing skimage.data imports all of scikit-image.
    import importlib.util

    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise InputError(
            "config.data.source=bundled needs scikit-image; run pip install scikit-image"
        )
    folder = Path(spec.origin).parent / "data"
    train, validation = (
        [folder / name for name in names] for names in (BUNDLED_TRAIN, BUNDLED_VALIDATION)
    )
    return Split(
        train=_paths_source("bundled", folder, train),
        validation=_paths_source("bundled-val", folder, validation),
    )


def import_tensorflow():
    """Imports TensorFlow, silenced, and hides the accelerators that JAX uses from it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    for kind in ("GPU", "TPU"):
        tf.config.set_visible_devices([], kind)
    return tf


def _tfds_source(name: str, split: str, *, data_dir: str, download: bool) -> Source:
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
