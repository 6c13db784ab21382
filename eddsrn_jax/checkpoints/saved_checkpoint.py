"""One checkpoint on disk: its items are verified and checked before they are used."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from eddsrn_jax import config_values
from eddsrn_jax.checkpoints.checksums import (
    DamagedError,
    checksum,
    json_checksum,
    reading,
    verify,
)
from eddsrn_jax.checkpoints.parameters import check_matches
from eddsrn_jax.checkpoints.weights import Network, describe_network
from eddsrn_jax.config_values import Config
from eddsrn_jax.errors import InputError

# Arrays of the training state in checkpoints of version 0.1, which are now the progress.
_OLD_COUNTERS = ("count", "skipped", "bad_in_row", "bad_step", "bad_part")


class SavedCheckpoint:
    """A checkpoint on disk, whose files may be damaged or untrusted."""

    def __init__(self, folder: Path, manager: ocp.CheckpointManager | None = None):
        """Keeps the arguments; reads no file yet.

        Args:
            folder: folder of the checkpoint, named after its step.
            manager: manager that reads the arrays; without it only metrics can be read.
        """
        self._folder, self._step, self._manager = folder, int(folder.name), manager

    def restore(self, **like: Any) -> dict[str, Any]:
        """Restores and verifies the checkpoint's items.

        Args:
            like: trees of the expected shapes and wanted shardings: "params", and "train"
                if it is to be restored. None as "params" takes the shapes of the
                config's network.

        Returns:
            The arrays of each item in `like`; "config"; "network", which has shapes for
            parameters; and with "train" also "progress".

        Raises:
            InputError: the checkpoint has another architecture or belongs to another
                kind of run.
            DamagedError: the files do not hold what was saved.
            OSError: the system cannot read the files at present.
        """
        with reading(self._folder):
            sums = self._json("checksums")
            config = self._json("config")
            verify("config", json_checksum(config), sums)
            config = config_values.from_json(config)
            # Checked before any array is read: untrusted arrays may be of any size.
            network = self._describe(config)
            if like["params"] is None:
                like["params"] = network.params
            check_matches(self._shapes("params"), like["params"], str(self._folder))
            if "train" in like:
                counters = self._old_counters(like["train"])
                like["train"] = {**like["train"], **counters}
                self._check_state(like["train"])
            args = {name: ocp.args.StandardRestore(like[name]) for name in like}
            composite = ocp.args.Composite(**args)
            assert self._manager is not None, "a manager must read the arrays"
            restored = dict(self._manager.restore(self._step, args=composite))
            for name in like:
                verify(name, checksum(restored[name]), sums)
            if "train" in like:
                every = config.log_every_steps
                restored["progress"] = self._progress(restored["train"], sums, every)
        self.metrics()
        return {**restored, "config": config, "network": network}

    def _old_counters(self, like: Any) -> dict[str, Any]:
        """Returns shapes of the counters that version 0.1 saved; empty for later ones."""
        saved = self._shapes("train")
        if "sums" not in saved or "step" not in like:
            return {}
        sharding = like["step"].sharding

        def number(dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((), dtype, sharding=sharding)

        sums = {name: number(jnp.float32) for name in saved["sums"]}
        return {"sums": sums, **{name: number(jnp.int32) for name in _OLD_COUNTERS}}

    def _progress(
        self, train: dict[str, Any], sums: Any, log_every_steps: int
    ) -> dict[str, Any]:
        """Returns the progress; takes that of version 0.1 out of the training state."""
        if "sums" in train:
            names = ("sums", *_OLD_COUNTERS)
            progress = {name: jax.device_get(train.pop(name)) for name in names}
            if self._step % log_every_steps == 0:
                # Version 0.1 kept the sums of a logged interval until the next step.
                progress |= {"sums": {}, "count": 0}
        else:
            progress = self._json("progress")
            verify("progress", json_checksum(progress), sums)
        return {
            "sums": {str(name): float(x) for name, x in progress["sums"].items()},
            "count": int(progress["count"]),
            "bad_in_row": int(progress["bad_in_row"]),
        }

    def is_kept(self) -> bool:
        """Returns whether the run was to keep this checkpoint for ever.

        Raises:
            OSError, ValueError, TypeError, KeyError: there is no such number.
        """
        every = self._json("config")["checkpoint"]["keep_every_steps"]
        return bool(every) and self._step % every == 0

    def metrics(self) -> dict[str, float] | None:
        """Returns the verified validation metrics; None if there was no validation.

        Raises:
            DamagedError, OSError: see `restore`.
        """
        path = self._folder / "metrics" / "metrics"
        with reading(self._folder):
            metrics = json.loads(path.read_text()) if path.exists() else None
            verify("metrics", json_checksum(metrics), self._json("checksums"))
        return metrics

    def _json(self, item: str) -> Any:
        return json.loads((self._folder / item / "metadata").read_text())

    def _shapes(self, item: str) -> Any:
        """Returns the names, shapes and dtypes of an item's arrays."""
        assert self._manager is not None, "a manager must read the arrays"
        return self._manager.item_metadata(self._step)[item].tree

    def _describe(self, config: Config) -> Network:
        """Returns the config's network, which must fit the saved parameters."""
        values, saved = config_values.flatten(config), self._shapes("params")
        description = {
            **{name: values.get(name) for name in ("network", "name")},
            "model": config.to_dict().get("model"),
            "step": self._step,
            "sigma_range": values.get("degradation.sigma_range"),
        }
        origin, count = str(self._folder), len(jax.tree.leaves(saved))
        network = describe_network(description, num_arrays=count, origin=origin)
        try:
            check_matches(saved, network.params, origin)
        except InputError as error:
            raise DamagedError(f"{origin} cannot be restored: {error}") from error
        return network

    def _check_state(self, like: Any) -> None:
        """Raises InputError if a run of another kind saved the state."""
        saved = self._shapes("train")
        names = saved.keys()
        if (averaged := "params" in names) != ("params" in like):
            raise InputError(
                f"{self._folder} was saved with {'an' if averaged else 'no'} average of"
                " the weights, and config.ema_decay cannot be switched on or off within a"
                " run; config.init_from starts another run from its weights"
            )
        if names != like.keys():
            raise InputError(
                f"{self._folder} cannot be resumed: another version or another kind of"
                " run (adversarial or not) saved it; config.init_from starts another run"
                " from its weights"
            )
        if "discriminator" in names:
            origin = f"{self._folder}: its discriminator (config.adversarial)"
            check_matches(saved["discriminator"], like["discriminator"], origin)
        if _leaf_names(saved["opt_state"]) != _leaf_names(like["opt_state"]):
            raise InputError(
                f"{self._folder} was saved by another optimizer or version of it, and"
                " config.optimizer.name cannot change within a run; config.init_from"
                " starts another run from its weights"
            )


def _leaf_names(tree: Any) -> set[str]:
    """Returns the paths of a tree's leaves, whether its nodes are tuples or dicts."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves}


def why_no_workdir(workdir: Path) -> str:
    """Returns why a path that has no checkpoints is no workdir of a run."""
    if not workdir.exists():
        return "; there is no such folder"
    if workdir.is_file():
        return "; this is a file, not the workdir of a run"
    resolved = workdir.resolve()
    for folder in (resolved, *resolved.parents):
        if folder.name == "checkpoints":
            return f" in it; it is a part of a run, whose workdir is {folder.parent}"
    return "; is it a run's workdir?"
