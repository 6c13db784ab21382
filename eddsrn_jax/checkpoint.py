"""Checkpoints of a run: saved in the background, verified when read.

A checkpoint has the items "params" (all that evaluation needs), "train" (the rest of
the training state), "config" and "checksums".
"""

import contextlib
import gc
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from eddsrn_jax import config as config_lib
from eddsrn_jax import parallel
from eddsrn_jax.errors import InputError
from eddsrn_jax.models import make_network, split_params
from eddsrn_jax.steps import TrainState
from eddsrn_jax.weights import Network, check_matches

_log = logging.getLogger(__name__)

# The best checkpoint is that of the highest; of the first that a network has.
BEST_METRICS = ("val/psnr_y_crop4", "val/deblurred_psnr_y_crop4")


def checksum(tree: Any) -> int:
    """CRC-32 over the names, types, shapes and bytes of all arrays of a tree."""
    crc = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        value = np.asarray(leaf)
        label = f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}"
        crc = zlib.crc32(value.tobytes(), zlib.crc32(label.encode(), crc))
    return crc


def _json_checksum(tree: Any) -> int:
    """CRC-32 of what JSON keeps of a tree."""
    return zlib.crc32(json.dumps(tree, sort_keys=True).encode())


# Of a checkpoint, beside its arrays: names, shapes, indices.
_BYTES_OF_NAMES = 1_000_000
# How tensorstore ends a message about what the system would not do.
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'|OS error (\d+)")


class _DamagedError(Exception):
    """A checkpoint that cannot be read; the message is one line and names it."""


class Checkpoints:
    """The checkpoints of a workdir; the two latest and the best one are kept."""

    def __init__(self, workdir: Path, *, read_only: bool = False):
        """Opens them.

        Args:
            workdir: of the run.
            read_only: a run may be writing there.

        Raises:
            InputError: read only, and there is no checkpoint; or metrics in the folder
                cannot be read.
        """
        self._folder = workdir.expanduser().resolve() / "checkpoints"
        if read_only and not self._folder.is_dir():
            raise InputError(f"{workdir}: no checkpoints in it (not a run's workdir?)")

        def metric(metrics: dict[str, float]) -> float:
            return next(metrics[name] for name in BEST_METRICS if name in metrics)

        best = preservation_policy.BestN(
            get_metric_fn=metric, n=1, keep_checkpoints_without_metrics=False
        )
        # Two, so that one that is damaged costs what lies between them and not all.
        policy = preservation_policy.AnyPreservationPolicy(
            [preservation_policy.LatestN(2), best]
        )
        arrays, values = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
        options = ocp.CheckpointManagerOptions(
            # The policy alone would keep the best one but write no metrics.
            best_fn=metric,
            preservation_policy=None if read_only else policy,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        handlers = {
            **{"params": arrays(), "train": arrays()},
            **{"config": values(), "checksums": values()},
        }
        if not read_only:
            self._set_aside_unreadable_metrics()
        try:
            self._manager = ocp.CheckpointManager(
                self._folder, options=options, item_handlers=handlers
            )
        # All it reads now are the metrics of each step.
        except ValueError as error:
            raise InputError(f"{self._folder} cannot be opened: {error}") from error
        if read_only and not self._manager.all_steps():
            raise InputError(f"{self._folder}: no finished checkpoint in it")

    def save(
        self,
        state: TrainState,
        config: ml_collections.ConfigDict,
        *,
        metrics: dict[str, float] | None,
    ) -> None:
        """Starts saving; returns when the state has been copied and its checksum taken.

        Args:
            state: to save; may be donated right after.
            config: of the run.
            metrics: of this state's validation, if there was one.

        Raises:
            OSError: the disk has no room, or the one before could not be written.
        """
        params, train = _items(state)
        self._check_room(params, train)
        sums = {
            **{"params": checksum(params), "train": checksum(train)},
            **{"config": _json_checksum(config.to_dict())},
            **{"metrics": _json_checksum(metrics)},
        }
        with self._writing():
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

    def _check_room(self, *trees: Any) -> None:
        """Before it is full, and less clear what is missing."""
        needed = sum(x.nbytes for x in jax.tree.leaves(trees)) + _BYTES_OF_NAMES
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise OSError(
                f"{self._folder}: a checkpoint takes {needed / 1e6:,.1f} MB, free are"
                f" {free / 1e6:,.1f} MB; those before it are whole"
            )

    def wait(self) -> None:
        """Blocks until everything is on disk.

        Raises:
            OSError: it cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def check(self) -> None:
        """Raises what `wait` would, of a save that has ended; does not block."""
        if not self._manager.is_saving_in_progress():
            self.wait()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says in one line what the system would not write."""
        try:
            yield
            return
        except (OSError, ValueError) as error:
            found = _SYSTEM_ERROR.search(str(error))
            number = int(found[1] or found[2]) if found else getattr(error, "errno", None)
            if number is None:
                raise
        # Here, where the error is forgotten: what orbax had begun and gave up would
        # complain, item by item, at the end of the process.
        gc.collect()
        raise OSError(
            f"{self._folder}: a checkpoint cannot be written ({os.strerror(number)});"
            " those before it are whole"
        )

    def restore_latest(
        self, like: TrainState
    ) -> tuple[TrainState, ml_collections.ConfigDict] | None:
        """The newest whole checkpoint, on the devices of `like`, and its config.

        Damaged ones after it are named in a warning and moved aside, never deleted.

        Args:
            like: a state with the expected shapes and the wanted shardings.

        Returns:
            The state and the config; None if there is no checkpoint.

        Raises:
            InputError: there are checkpoints, but none is whole; or the newest is of
                another architecture.
        """
        params, train = _items(like)
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._restore(step, {"params": params, "train": train})
            except _DamagedError as error:
                _log.warning("%s", error)
                damaged.append(step)
                continue
            for damaged_step in damaged:
                self._move_aside(damaged_step)
            if damaged:
                self._manager.reload()
            used, batch_stats = split_params(restored["params"])
            state = like.replace(
                **{_used(like): used}, batch_stats=batch_stats, **restored["train"]
            )
            return state, restored["config"]
        if damaged:
            raise InputError(
                f"{self._folder}: none of its {len(damaged)} checkpoints can be restored;"
                " move the folder away to start over"
            )
        return None

    def restore_params(
        self, step: int | None = None, *, like: Any | None = None
    ) -> tuple[int, ml_collections.ConfigDict, Any]:
        """The parameters of a checkpoint alone, verified.

        Args:
            step: of the checkpoint. Where None the best by validation, or if there is
                none, or it is damaged, the newest whole one.
            like: tree of the expected shapes; None takes whatever there is.

        Returns:
            Its step, config and parameters.

        Raises:
            InputError: no such step, damaged, or of another architecture.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        if step is not None and step not in steps:
            raise InputError(f"{self._folder}: no step {step}, only {steps[::-1]}")
        best = self._manager.best_step()
        wanted = sorted(steps, key=lambda s: s != best) if step is None else [step]
        for candidate in wanted:
            try:
                restored = self._restore(candidate, {"params": like})
            except _DamagedError as error:
                if candidate == wanted[-1]:
                    raise InputError(str(error)) from error
                _log.warning("%s; another one is taken", error)
            else:
                return candidate, restored["config"], restored["params"]

    def _restore(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
        """The items that `like` has shapes of, verified, and the config.

        Raises:
            InputError: of another architecture.
            _DamagedError: anything else that keeps it from being read.
        """
        try:
            saved = self._saved_shapes(step)
            if like["params"] is None:
                like = {**like, "params": saved}
            check_matches(saved, like["params"], f"{self._folder}/{step}")
            self._check_state(step, like.get("train"))
            arrays = {name: ocp.args.StandardRestore(like[name]) for name in like}
            values = {name: ocp.args.JsonRestore() for name in ("config", "checksums")}
            args = ocp.args.Composite(**arrays, **values)
            restored = dict(self._manager.restore(step, args=args))
            sums = {name: checksum(restored[name]) for name in like}
            # Older checkpoints have none of these.
            if "config" in restored["checksums"]:
                sums["config"] = _json_checksum(restored["config"])
                sums["metrics"] = _json_checksum(self._manager.metrics(step))
            for name, value in sums.items():
                if value != restored["checksums"][name]:
                    raise ValueError(f"the checksum of its {name!r} differs")
            restored["config"] = config_lib.from_json(restored["config"])
        except (InputError, MemoryError):
            raise
        # Files can be broken in many ways, for each of which orbax raises another type.
        except Exception as error:
            reason = (str(error) or repr(error)).splitlines()[0]
            raise _DamagedError(
                f"{self._folder}/{step} cannot be restored: {reason}"
            ) from error
        return restored

    def _saved_shapes(self, step: int) -> Any:
        """Names, shapes and dtypes of a checkpoint's parameters, on the first device."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
            self._manager.item_metadata(step)["params"].tree,
        )

    def _check_state(self, step: int, like: Any) -> None:
        if like is None:
            return
        saved = "params" in self._manager.item_metadata(step)["train"].tree
        if saved != ("params" in like):
            raise InputError(
                f"{self._folder}/{step} was saved with"
                f" {'an' if saved else 'no'} average of the weights: config.ema_decay"
                " cannot be switched on or off within a run (config.init_from starts"
                " another one from its weights)"
            )
        names = self._manager.item_metadata(step)["train"].tree
        if names.keys() != like.keys():
            raise InputError(
                f"{self._folder}/{step} is of another version or config (adversarial or"
                " not) and cannot be resumed; config.init_from starts another run from"
                " its weights"
            )

    def _set_aside_unreadable_metrics(self) -> None:
        """Orbax would open no checkpoint; the only one is left to its complaint."""
        damaged = {}
        for path in self._folder.glob("*/metrics/metrics"):
            try:
                json.loads(path.read_text())
            except ValueError as error:
                damaged[path.parents[1].name] = error
        steps = {path.name for path in self._folder.glob("*") if path.name.isdigit()}
        if damaged.keys() < steps:
            for step, error in damaged.items():
                _log.warning("%s/%s cannot be restored: %s", self._folder, step, error)
                self._move_aside(step)

    def _move_aside(self, step: int | str) -> None:
        """Frees the step of a damaged checkpoint, which will be done again."""
        if jax.process_index() == 0:
            target = self._folder.parent / f"damaged-checkpoint-{step}"
            number = 1
            while target.exists():
                number += 1
                target = target.with_name(f"damaged-checkpoint-{step}-{number}")
            (self._folder / str(step)).rename(target)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        # It would wait for processes that may have ended.
        if error and parallel.lost_another(error):
            return
        try:
            with self._writing():
                self._manager.close()
        except OSError as second:
            if error is None:
                raise
            # Of two errors the first ends the run.
            _log.warning("%s", second)


def network_of(step: int, config: ml_collections.ConfigDict, params: Any) -> Network:
    """What `Checkpoints.restore_params` returns as one."""
    model = make_network(config.network, config.model)
    sigma_range = tuple(config.degradation.sigma_range)
    return Network(model, params, config.name, step, sigma_range)


def read_run(workdir: Path, step: int | None = None) -> Network:
    """The network of a run's checkpoint: that of a step, or the best by validation.

    Raises:
        InputError: no such checkpoint, or damaged.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return network_of(*checkpoints.restore_params(step))


def _items(state: TrainState) -> tuple[Any, dict[str, Any]]:
    """What of a state evaluation uses, and the rest of it by name."""
    rest = {name: getattr(state, name) for name in state.__dataclass_fields__}
    for name in (_used(state), "batch_stats"):
        del rest[name]
    rest = {name: value for name, value in rest.items() if value is not None}
    return state.used_params, rest


def _used(state: TrainState) -> str:
    return "params" if state.average is None else "average"
