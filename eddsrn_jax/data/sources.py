"""Where photographs come from: div2k of tensorflow-datasets, a folder, a package.

A source knows its files without decoding them; `pack.py` decodes.
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
        name: one of its own within its source.
        content: its path, its bytes, or its pixels where it is decoded already.
    """

    name: str
    content: Path | bytes | np.ndarray

    @property
    def place(self) -> str:
        """Where to find it, for messages."""
        return str(self.content) if isinstance(self.content, Path) else self.name

    def read(self) -> np.ndarray:
        """Its pixels, see `read_image`."""
        if isinstance(self.content, np.ndarray):
            return self.content
        return read_image(self.content, self.place)


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files that hold a set of photographs, as they were at some time.

    Attributes:
        name: of the set.
        files: path, size and time of change (nanoseconds) of each.
    """

    name: str
    files: tuple[tuple[str, int, int], ...]

    @property
    def key(self) -> str:
        """The set's name with what changes when any file's name, size or time does."""
        text = repr((self.name, list(self.files)))
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclasses.dataclass(frozen=True)
class Source:
    """A set of photographs.

    Attributes:
        name: for messages and tables.
        origin: the files on disk that hold it; they identify the set.
        files: opens it: yields every photograph once, in a fixed order.
    """

    name: str
    origin: tuple[Path, ...]
    files: Callable[[], Iterator[File]]

    def listing(self) -> Listing:
        """Its files as they are now."""
        stats = [(str(path.resolve()), path.stat()) for path in self.origin]
        files = ((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
        return Listing(self.name, tuple(files))


@dataclasses.dataclass(frozen=True)
class Split:
    """Photographs to train on, and others to validate on."""

    train: Source
    validation: Source


def open_split(
    source: str,
    *,
    validation_source: str = "",
    tfds_data_dir: str = "",
    tfds_download: bool = False,
) -> Split:
    """Finds the photographs of a config's `data.source`.

    Args:
        source: "tfds:div2k" (its own validation set), "folder:DIR" (5 % of the files,
            chosen by their names, are set apart for validation), or "bundled" (photos
            inside scikit-image's wheel).
        validation_source: another source to validate on; `source` is then trained on
            whole.
        tfds_data_dir: where tensorflow-datasets keeps its data; its default where empty.
        tfds_download: whether tensorflow-datasets may fetch and prepare what is missing.

    Raises:
        InputError: unknown source, or its photographs are not there.
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
    """A folder as a whole, or the part of that name of a source that has its own."""
    kind, _, where = source.partition(":")
    if kind == "folder" and where:
        return folder_source(Path(where).expanduser())
    if kind == "tfds":
        return _tfds_source(where, part, **tfds_options)
    return getattr(open_split(source), part)


def folder_source(folder: Path, name: str = "") -> Source:
    """All images below a folder.

    Raises:
        InputError: no such folder, or no image in it.
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
            f"{folder}: {len(paths)} image; training and validation need one each"
        )

    # By name: adding files later moves few others from one side to the other.
    def draw(path: Path) -> str:
        return hashlib.sha256(path.relative_to(folder).as_posix().encode()).hexdigest()

    held_out = set(sorted(paths, key=draw)[: -(-len(paths) // 20)])
    return Split(
        train=_paths_source(folder.name, folder, [p for p in paths if p not in held_out]),
        validation=_paths_source(f"{folder.name}-val", folder, sorted(held_out)),
    )


# The colour photographs in scikit-image's wheel. Those held out are in the public
# domain or CC0, so that they can be shown. The stereo pair stays on one side.
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
    # Their folder alone: importing skimage.data would import all of scikit-image.
    import importlib.util

    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise InputError("config.data.source=bundled needs scikit-image (pip install it)")
    folder = Path(spec.origin).parent / "data"
    train, validation = (
        [folder / name for name in names] for names in (BUNDLED_TRAIN, BUNDLED_VALIDATION)
    )
    return Split(
        train=_paths_source("bundled", folder, train),
        validation=_paths_source("bundled-val", folder, validation),
    )


def import_tensorflow():
    """TensorFlow, silent, and kept away from the accelerators that JAX uses."""
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
    # The hr photographs are the same in all of div2k's configs; x4 fits this project.
    full_name = f"{dataset}/{config or 'bicubic_x4'}"
    try:
        builder = tfds.builder(full_name, data_dir=data_dir or None)
    # Its message is a page long.
    except (ValueError, tfds.core.DatasetNotFoundError) as error:
        raise InputError(
            f"config.data.source=tfds:{name}: tensorflow-datasets knows no {full_name}"
        ) from error
    if download:
        builder.download_and_prepare()
    if not builder.is_prepared():
        raise InputError(
            f"{full_name} is not prepared in {builder.data_path}. Let"
            " tensorflow-datasets download it (4.3 GB) with"
            " --config.data.tfds_download=true, or train on a folder of photographs with"
            " --config.data.source=folder:DIR"
        )

    def files() -> Iterator[File]:
        decoders = {"hr": tfds.decode.SkipDecoding(), "lr": tfds.decode.SkipDecoding()}
        examples = builder.as_dataset(split=split, decoders=decoders)
        for i, example in enumerate(examples.as_numpy_iterator()):
            yield File(f"{full_name}-{split}-{i:04d}", example["hr"])

    title = "DIV2K" if dataset == "div2k" else dataset
    return Source(
        title if split == "train" else f"{title}-val",
        tuple(sorted(Path(p) for p in builder.info.splits[split].filepaths)),
        files,
    )
