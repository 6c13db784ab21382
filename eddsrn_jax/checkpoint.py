"""Checkpoints of a run: saved in the background, verified when read.

A checkpoint has the items "params" (all that evaluation needs), "train" (the rest of
the training state), "config" and "checksums".
"""

import logging
import zlib
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from eddsrn_jax.errors import InputError
from eddsrn_jax.steps import TrainState
from eddsrn_jax.weights import check_matches

_log = logging.getLogger(__name__)

BEST_METRIC = "val/psnr_y_crop4"


def checksum(tree: Any) -> int:
    """CRC-32 over the names, types, shapes and bytes of all arrays of a tree."""
    crc = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        value = np.asarray(leaf)
        label = f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}"
        crc = zlib.crc32(value.tobytes(), zlib.crc32(label.encode(), crc))
    return crc


def config_from_json(values: dict[str, Any]) -> ml_collections.ConfigDict:
    """A locked config from what JSON made of it: its lists were tuples."""

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: restore(v) for key, v in value.items()}
        return tuple(restore(v) for v in value) if isinstance(value, list) else value

    return ml_collections.ConfigDict(restore(values)).lock()


class Checkpoints:
    """The checkpoints of a workdir; the latest and the best one are kept."""

    def __init__(self, workdir: Path, *, read_only: bool = False):
        """Opens them.

        Args:
            workdir: of the run.
            read_only: a run may be writing there.

        Raises:
            InputError: read only, and there is no checkpoint.
        """
        self._folder = workdir.expanduser().resolve() / "checkpoints"
        if read_only and not self._folder.is_dir():
            raise InputError(f"{workdir}: no checkpoints in it (not a run's workdir?)")

        def metric(metrics: dict[str, float]) -> float:
            return metrics[BEST_METRIC]

        best = preservation_policy.BestN(
            get_metric_fn=metric, n=1, keep_checkpoints_without_metrics=False
        )
        policy = preservation_policy.AnyPreservationPolicy(
            [preservation_policy.LatestN(1), best]
        )
        arrays, values = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                # The policy alone would keep the best one but write no metrics.
                best_fn=metric,
                preservation_policy=None if read_only else policy,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
            item_handlers={
                **{"params": arrays(), "train": arrays()},
                **{"config": values(), "checksums": values()},
            },
        )
        if read_only and not self._manager.all_steps():
            raise InputError(f"{self._folder}: no finished checkpoint in it")

    def save(
        self,
        state: TrainState,
        config: ml_collections.ConfigDict,
        *,
        metrics: dict[str, float] | None,
    ) -> None:
        """Starts saving; returns as soon as the state has been copied.

        Args:
            state: to save; may be donated right after.
            config: of the run.
            metrics: of this state's validation, if there was one.
        """
        params, train = _items(state)
        sums = {"params": checksum(params), "train": checksum(train)}
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(params),
                train=ocp.args.StandardSave(train),
                config=ocp.args.JsonSave(config.to_dict()),
                checksums=ocp.args.JsonSave(sums),
            ),
            metrics=metrics,
            force=True,
        )

    def wait(self) -> None:
        """Blocks until everything is on disk."""
        self._manager.wait_until_finished()

    def latest_step(self) -> int | None:
        """The newest finished checkpoint's step."""
        return self._manager.latest_step()

    def config(self, step: int) -> ml_collections.ConfigDict:
        """The config that a checkpoint was made with."""
        args = ocp.args.Composite(config=ocp.args.JsonRestore())
        return config_from_json(self._manager.restore(step, args=args)["config"])

    def restore_latest(self, like: TrainState) -> TrainState | None:
        """The newest whole checkpoint, on the devices of `like`.

        Damaged ones are named in a warning and moved aside, never deleted.

        Args:
            like: a state with the expected shapes and the wanted shardings.

        Returns:
            The state; None if there is no checkpoint.

        Raises:
            InputError: there are checkpoints, but none is whole; or the newest is of
                another architecture.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                restored = self._restore(step, *_items(like))
            except InputError:
                raise
            # Orbax raises many types for the many ways in which files can be broken.
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else repr(error)
                _log.warning("checkpoint %d is damaged: %s", step, reason)
                self._move_aside(step)
                continue
            return like.replace(params=restored["params"], **restored["train"])
        if steps:
            raise InputError(
                f"{self._folder}: all {len(steps)} checkpoints are damaged; move the"
                " folder away to start over"
            )
        return None

    def restore_params(self, step: int | None, like: Any) -> Any:
        """The parameters alone, verified.

        Args:
            step: of the checkpoint, see `pick`.
            like: tree of the expected shapes.

        Raises:
            InputError: damaged, or of another architecture.
        """
        try:
            return self._restore(step, like)["params"]
        except InputError:
            raise
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise InputError(f"{self._folder}/{step} is damaged: {reason}") from error

    def pick(self, step: int | None) -> int:
        """A step that exists: the one asked for, else the best, else the latest.

        Raises:
            InputError: no such step, with those that there are.
        """
        steps = sorted(self._manager.all_steps())
        if step is not None and step not in steps:
            raise InputError(f"{self._folder}: no step {step}, only {steps}")
        if step is None:
            step = self._manager.best_step()
        return steps[-1] if step is None else step

    def _restore(self, step: int, params: Any, train: Any = None) -> dict[str, Any]:
        self._check_architecture(step, params)
        items = {"params": ocp.args.StandardRestore(params)}
        if train is not None:
            items["train"] = ocp.args.StandardRestore(train)
        args = ocp.args.Composite(checksums=ocp.args.JsonRestore(), **items)
        restored = self._manager.restore(step, args=args)
        for name in items:
            if checksum(restored[name]) != restored["checksums"][name]:
                raise ValueError(f"the checksum of its {name!r} differs")
        return restored

    def _check_architecture(self, step: int, params: Any) -> None:
        saved = self._manager.item_metadata(step)["params"]
        saved = getattr(saved, "tree", saved)
        check_matches(saved, params, f"{self._folder}/{step}")

    def _move_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            folder = self._folder / str(step)
            folder.rename(self._folder.parent / f"damaged-checkpoint-{step}")
        self._manager.reload()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()


def _items(state: TrainState) -> tuple[Any, dict[str, Any]]:
    """A state's parameters, and the rest of it by name."""
    rest = {name: getattr(state, name) for name in state.__dataclass_fields__}
    return rest.pop("params"), rest
