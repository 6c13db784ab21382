"""Keeps a run on the photos that it began with.

The run's workdir records their files. If files have changed since, a resumed run warns
and takes the photos from their packs, so the crops of its steps stay the same.
"""

import dataclasses
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from eddsrn_jax.config_values import Config, text
from eddsrn_jax.data.pack import Pack, open_pack, read_pack
from eddsrn_jax.data.sources import Listing, Source, open_split
from eddsrn_jax.errors import InputError
from eddsrn_jax.files import cache_root, write_text
from eddsrn_jax.paths import has_checkpoints, local_path

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PhotoRecord:
    """Record of the photos of a run.

    Attributes:
        wanted: arguments of `open_split` that the config gave.
        train, validation: files of the two sets.
    """

    wanted: Mapping[str, str]
    train: Listing
    validation: Listing


def open_packs(
    wanted: Mapping[str, str],
    cache_dir: Path,
    *,
    workdir: Path | None = None,
    download: bool = False,
    on_error: str = "skip",
) -> tuple[Pack, Pack]:
    """Opens the packs of the photos to train on and of those to validate on.

    Args:
        wanted: arguments of `open_split` that say where the photos are.
        cache_dir: folder of the packs.
        workdir: workdir of the run; None if there is no run. From its first checkpoint
            on a run keeps the photos of its record, see `record_photos`, unless `wanted`
            changes.
        download: see `tfds_download` of `open_split`.
        on_error: see `open_pack`.

    Raises:
        InputError: there are no photos; or files have changed, and there is no pack of
            the photos that the run began with; or see `open_pack`.
        OSError: see `open_pack`.
    """
    record, sources, changes = _choose(wanted, workdir, download=download)
    packs = []
    for listing in (record.train, record.validation):
        if source := sources.get(listing):
            packs.append(open_pack(source, cache_dir, on_error=on_error))
        else:
            # Only the record of a run, in its workdir, lists files that have changed.
            assert workdir is not None
            packs.append(_packed(listing, cache_dir, workdir, changes))
            packs[-1].announce(on_error)
    if workdir and changes:
        # Only now it is known that there are packs to use.
        _report_changes(workdir, changes)
    return tuple(packs)


def record_photos(
    workdir: Path, config: Config, *, train: Listing, validation: Listing
) -> None:
    """Writes the record of a run's photos, `photographs.json`, to its workdir.

    A run does so when it begins to train. So a command that is refused, or interrupted
    while it packs photos, leaves an earlier record as it is.
    """
    record = PhotoRecord(photo_places(config)["wanted"], train, validation)
    content = json.dumps(dataclasses.asdict(record), indent=1) + "\n"
    write_text(_record(workdir), content)


def open_validation(
    wanted: Mapping[str, str], cache_dir: Path, *, workdir: Path
) -> Source:
    """Opens the photos that a run holds out for validation.

    Args:
        wanted, cache_dir, workdir: see `open_packs`.

    Raises:
        InputError: see `open_packs`.
    """
    record, sources, changes = _choose(wanted, workdir)
    if source := sources.get(record.validation):
        return source
    pack = _packed(record.validation, cache_dir, workdir, changes)
    _report_changes(workdir, changes)
    return pack.as_source()


def photo_places(config: Config) -> dict[str, Any]:
    """Returns where a run's photos and packs are: arguments of the functions above.

    Raises:
        InputError: the config, which may be untrusted, lacks a value.
    """
    names = ("source", "validation_source", "tfds_data_dir")
    folder = text(config, "data.cache_dir") or cache_root() / "packs"
    return {
        "wanted": {name: text(config, f"data.{name}") for name in names},
        "cache_dir": local_path(folder, "config.data.cache_dir"),
    }


def _record(workdir: Path) -> Path:
    return workdir / "photographs.json"


def _choose(
    wanted: Mapping[str, str], workdir: Path | None, *, download: bool = False
) -> tuple[PhotoRecord, dict[Listing, Source], str]:
    """Returns a run's record, the sources as they are now, and the changes in words."""
    begun = None
    # Before its first checkpoint a run has learnt nothing from its photos.
    if workdir and has_checkpoints(workdir):
        begun = _read(_record(workdir)) if _record(workdir).exists() else None
    record = begun if begun and begun.wanted == wanted else None
    try:
        split = open_split(**wanted, tfds_download=download, workdir=workdir)
        now = PhotoRecord(wanted, split.train.listing(), split.validation.listing())
        sources = {now.train: split.train, now.validation: split.validation}
        changes = _changes(record or now, now)
    except (InputError, OSError) as error:
        if begun and begun.wanted != wanted:
            raise InputError(
                f"{error}. The run in {workdir} began with"
                f" config.data.source={begun.wanted.get('source')}; give this value"
                " again, or resume with --workdir alone"
            ) from error
        if not record:
            raise
        sources, changes = {}, str(error)
    return record or now, sources, changes


def _report_changes(workdir: Path, changes: str) -> None:
    _log.warning(
        "%s: the run's photos have changed since it began (%s); the packed copies are"
        " used",
        _record(workdir),
        changes,
    )


def _packed(listing: Listing, cache_dir: Path, workdir: Path, changes: str) -> Pack:
    """Opens the pack of photos whose files have changed; InputError if there is none."""
    if pack := read_pack(listing, cache_dir):
        return pack
    raise InputError(
        f"{_record(workdir)}: the run's photos have changed since it began ({changes}),"
        f" and the pack of {listing.name} is not in {cache_dir}; restore the photos or"
        " the pack, or delete this file to continue with the current photos"
    )


def _changes(before: PhotoRecord, now: PhotoRecord) -> str:
    """Describes how the files of two records differ, over both sets; empty if equal."""
    if before == now:
        return ""
    old, new = (
        {path: stat for path, *stat in (*x.train.files, *x.validation.files)}
        for x in (before, now)
    )
    kinds = {
        "added": new.keys() - old.keys(),
        "removed": old.keys() - new.keys(),
        "changed": {path for path in new.keys() & old.keys() if new[path] != old[path]},
    }
    named = [
        f"{len(paths)} {kind}: {_first(paths)}" for kind, paths in kinds.items() if paths
    ]
    return "; ".join(named) or "other photos are held out for validation"


def _first(paths: Collection[str], most: int = 3) -> str:
    return ", ".join(sorted(paths)[:most]) + " ..." * (len(paths) > most)


def _read(path: Path) -> PhotoRecord:
    try:
        values = json.loads(path.read_text())
        for part in ("train", "validation"):
            files = ((str(p), int(size), int(t)) for p, size, t in values[part]["files"])
            values[part] = Listing(str(values[part]["name"]), tuple(files))
        return PhotoRecord(**values)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: cannot be read ({error!r}); delete it to continue with the current"
            " photos"
        ) from error
