"""A run keeps the photographs that it began with.

Which they are stands in its workdir. Where a folder has changed since, a resumed run says
so and takes them from their packs: the crops of its steps stay the same.
"""

import dataclasses
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from eddsrn_jax.data.pack import Pack, open_pack, read_pack
from eddsrn_jax.data.sources import Listing, open_split
from eddsrn_jax.errors import InputError
from eddsrn_jax.files import write_text

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The photographs of a run.

    Attributes:
        wanted: where the config said that they are, see `open_split`.
        train, validation: the files.
    """

    wanted: Mapping[str, str]
    train: Listing
    validation: Listing


def open_packs(
    wanted: Mapping[str, str],
    cache_dir: Path,
    *,
    workdir: Path | None = None,
    active: bool = True,
    download: bool = False,
    on_error: str = "skip",
) -> tuple[Pack, Pack]:
    """Opens the photographs to train on, and those to validate on.

    Args:
        wanted: the arguments of `open_split` that say where they are.
        cache_dir: for packs.
        workdir: of a run, if they are for one. From its first checkpoint on it keeps the
            photographs that its `photographs.json` names, unless others are wanted.
        active: whether this process writes that file.
        download: see `open_split`.
        on_error: see `open_pack`.

    Raises:
        InputError: no photographs; or files have changed, and there is no pack of those
            that the run began with.
        OSError: see `open_pack`.
    """
    record = workdir / "photographs.json" if workdir else None
    # Before that nothing has been learnt from them.
    resumes = workdir and any((workdir / "checkpoints").glob("[0-9]*"))
    frozen = _read(record) if resumes and record.exists() else None
    if frozen and frozen.wanted != wanted:
        frozen = None
    try:
        split = open_split(**wanted, tfds_download=download)
        now = Frozen(wanted, split.train.listing(), split.validation.listing())
        sources = {now.train: split.train, now.validation: split.validation}
        frozen = frozen or now
        changes = _changes(frozen, now)
    except (InputError, OSError) as error:
        if not frozen:
            raise
        sources, changes = {}, str(error)
    if changes:
        _log.warning(
            "%s: the photographs that the run began with have changed (%s); it goes on"
            " with them as they were packed",
            *(record, changes),
        )
    packs = []
    for listing in (frozen.train, frozen.validation):
        if listing in sources:
            packs.append(open_pack(sources[listing], cache_dir, on_error=on_error))
        elif pack := read_pack(listing, cache_dir):
            pack.announce(on_error)
            packs.append(pack)
        else:
            raise InputError(
                f"{record}: the photographs that the run began with have changed"
                f" ({changes}), and the pack of {listing.name} is not in {cache_dir};"
                " bring one of them back, or delete this file to go on with the"
                " photographs that there are now"
            )
    if record and active:
        write_text(record, json.dumps(dataclasses.asdict(frozen), indent=1) + "\n")
    return tuple(packs)


def _changes(before: Frozen, now: Frozen) -> str:
    """What of the files differs, in words; whichever set they are in."""
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
    return "; ".join(named) or "divided otherwise"


def _first(paths: Collection[str], most: int = 3) -> str:
    return ", ".join(sorted(paths)[:most]) + " ..." * (len(paths) > most)


def _read(path: Path) -> Frozen:
    try:
        values = json.loads(path.read_text())
        for part in ("train", "validation"):
            files = ((str(p), int(size), int(t)) for p, size, t in values[part]["files"])
            values[part] = Listing(values[part]["name"], tuple(files))
        return Frozen(**values)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path}: cannot be read ({error!r}); delete it to go on with the photographs"
            " that there are now"
        ) from error
