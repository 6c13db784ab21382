"""One checkpoint as it lies on disk: read, verified, and checked before it is used."""

import json
from pathlib import Path
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp

from eddsrn_jax import config as config_lib
from eddsrn_jax.errors import InputError
from eddsrn_jax.integrity import DamagedError, checksum, json_checksum, reading, verify
from eddsrn_jax.weights import Network, check_matches, describe_network


class SavedStep:
    """A checkpoint's items; its files may be damaged, or a stranger's."""

    def __init__(self, folder: Path, manager: ocp.CheckpointManager | None = None):
        """Reads nothing yet.

        Args:
            folder: of the checkpoint, named by its step.
            manager: reads arrays; without it there are only metrics.
        """
        self._folder, self._step, self._manager = folder, int(folder.name), manager

    def restore(self, **like: Any) -> dict[str, Any]:
        """Arrays, verified, with "config" and "network", the latter without parameters.

        Args:
            like: "params", and "train" where it is wanted: trees of the expected shapes
                and wanted shardings. None as "params" takes what the config describes.

        Raises:
            InputError: of another architecture.
            DamagedError: its files are not what was saved.
            OSError: the system does not let them be read.
        """
        with reading(self._folder):
            sums = self._json("checksums")
            config = self._json("config")
            verify("config", json_checksum(config), sums)
            config = config_lib.from_json(config)
            # Before any array is: they may be of any size.
            network = self._describe(config)
            if like["params"] is None:
                like["params"] = network.params
            check_matches(self._shapes("params"), like["params"], str(self._folder))
            if "train" in like:
                self._check_state(like["train"])
            args = {name: ocp.args.StandardRestore(like[name]) for name in like}
            composite = ocp.args.Composite(**args)
            restored = dict(self._manager.restore(self._step, args=composite))
            for name in like:
                verify(name, checksum(restored[name]), sums)
        self.metrics()
        return {**restored, "config": config, "network": network}

    def metrics(self) -> dict[str, float] | None:
        """Those of its validation, verified; None where there was none.

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
        """Names, shapes and dtypes of what was saved."""
        return self._manager.item_metadata(self._step)[item].tree

    def _describe(self, config: ml_collections.ConfigDict) -> Network:
        """The network of its config, which must be that of its parameters."""
        values, saved = config_lib.flatten(config), self._shapes("params")
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
        """Raises InputError where a run of another kind saved its state."""
        names = self._shapes("train").keys()
        if (saved := "params" in names) != ("params" in like):
            raise InputError(
                f"{self._folder} was saved with {'an' if saved else 'no'} average of the"
                " weights: config.ema_decay cannot be switched on or off within a run"
                " (config.init_from starts another one from its weights)"
            )
        if names != like.keys():
            raise InputError(
                f"{self._folder} is of another version or config (adversarial or not) and"
                " cannot be resumed; config.init_from starts another run from its weights"
            )
