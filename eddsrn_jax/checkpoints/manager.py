"""Checkpoints of a run: saved in the background, verified when read.

A checkpoint has the items "params" (all that evaluation needs), "train" (the rest of
the training state), "progress" (metrics of the steps since the last log), "config" and
"checksums".
"""

import contextlib
import dataclasses
import gc
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import jax
import orbax.checkpoint as ocp

from eddsrn_jax.checkpoints import ranking
from eddsrn_jax.checkpoints.checksums import (
    DamagedError,
    checksum,
    json_checksum,
    system_error,
)
from eddsrn_jax.checkpoints.ranking import BEST_METRICS as BEST_METRICS
from eddsrn_jax.checkpoints.retention import retention
from eddsrn_jax.checkpoints.saved_checkpoint import SavedCheckpoint, why_no_workdir
from eddsrn_jax.checkpoints.weights import Network, with_params
from eddsrn_jax.config_values import Config
from eddsrn_jax.distributed import gather, lost_a_process, wait_for_others
from eddsrn_jax.errors import InputError
from eddsrn_jax.paths import workdir_path

_log = logging.getLogger(__name__)

# Allowance for what a checkpoint stores beside its arrays: names, shapes, indices.
_BYTES_OF_NAMES = 1_000_000


class State(Protocol):
    """Interface of a training state that can be saved and restored."""

    step: Any

    def split(self) -> tuple[Any, dict[str, Any]]:
        """Returns the parameters that evaluation uses, and the other arrays by name."""
        ...

    def join(self, params: Any, rest: dict[str, Any]) -> Self:
        """Inverts `split`: returns a state with these parameters and other arrays."""
        ...


_State = TypeVar("_State", bound=State)


@dataclasses.dataclass(frozen=True)
class SavedRun(Generic[_State]):
    """State and settings of a run, as restored from a checkpoint.

    Attributes:
        state: training state.
        config: config that the run had.
        progress: metrics of the steps since the last log, see `StepMetrics.to_json`.
    """

    state: _State
    config: Config
    progress: dict[str, Any]


class Checkpoints:
    """Checkpoints of a run's workdir; the two latest and the best one are kept."""

    def __init__(
        self, workdir: Path | str, *, read_only: bool = False, keep_every_steps: int = 0
    ):
        """Opens the checkpoints of a workdir.

        Args:
            workdir: workdir of the run.
            read_only: True changes nothing on disk, as a run may be writing there.
            keep_every_steps: see `retention`.

        Raises:
            InputError: all checkpoints are damaged, or `read_only` is set and there is
                no checkpoint.
        """
        workdir = workdir_path(workdir)
        self.workdir = workdir.resolve()
        self._folder = self.workdir / "checkpoints"
        if read_only and not self._folder.is_dir():
            raise InputError(f"{workdir}: no checkpoints found{why_no_workdir(workdir)}")

        arrays, values = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
        options = ocp.CheckpointManagerOptions(
            # With the policy alone orbax would keep the best one but write no metrics.
            best_fn=ranking.score,
            preservation_policy=None
            if read_only
            else retention(self._folder, keep_every_steps=keep_every_steps),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            # Orbax warns of any other value if it only reads.
            save_interval_steps=0 if read_only else 1,
            # Otherwise orbax reads all metrics here, and fails if one file is damaged.
            lightweight_initialize=read_only,
        )
        handlers = {
            **{"params": arrays(), "train": arrays()},
            **{"progress": values(), "config": values(), "checksums": values()},
        }
        if not read_only:
            # A folder that cannot be made fails here, not at the first save.
            self._folder.mkdir(parents=True, exist_ok=True)
            self._set_aside_damaged_metrics()
        self._manager = ocp.CheckpointManager(
            self._folder, options=options, item_handlers=handlers
        )
        if read_only and not self._manager.all_steps():
            raise InputError(f"{self._folder}: no finished checkpoint found")

    def save(
        self,
        state: State,
        config: Config,
        *,
        progress: dict[str, Any],
        metrics: dict[str, float] | None,
    ) -> None:
        """Starts saving in the background.

        Returns once the checksums are computed and the state is copied.

        Args:
            state: state to save; it may be donated right after.
            config: config of the run.
            progress: metrics of the steps since the last log, see `StepMetrics.to_json`.
            metrics: validation metrics of this state; None if it was not validated.

        Raises:
            OSError: the disk has no room, or the previous save failed.
        """
        params, train = state.split()
        self._check_room(params, train)
        sums = {
            **{"params": checksum(params), "train": checksum(train)},
            **{"progress": json_checksum(progress), "metrics": json_checksum(metrics)},
            **{"config": json_checksum(config.to_dict())},
        }
        with self._writing():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(params),
                    train=ocp.args.StandardSave(train),
                    progress=ocp.args.JsonSave(progress),
                    config=ocp.args.JsonSave(config.to_dict()),
                    checksums=ocp.args.JsonSave(sums),
                ),
                metrics=metrics,
                force=True,
            )

    def _check_room(self, *trees: Any) -> None:
        """Raises OSError if the checkpoint does not fit on the disk."""
        needed = sum(x.nbytes for x in jax.tree.leaves(trees)) + _BYTES_OF_NAMES
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise OSError(
                f"{self._folder}: a checkpoint needs {needed / 1e6:,.1f} MB, but only"
                f" {free / 1e6:,.1f} MB are free; earlier checkpoints are intact"
            )

    def wait(self) -> None:
        """Blocks until every started save is on disk.

        Raises:
            OSError: a checkpoint cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def check(self) -> None:
        """Raises the error of a save that has ended, as `wait` does; does not block."""
        if not self._manager.is_saving_in_progress():
            self.wait()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns system errors within the block into one-line OSErrors."""
        try:
            yield
            return
        except (OSError, ValueError) as error:
            if (number := system_error(error)) is None:
                raise
        # Outside the `except` block nothing refers to the error any more, so this frees
        # the writes that orbax gave up. Each would complain at the end of the process.
        gc.collect()
        raise OSError(
            f"{self._folder}: a checkpoint cannot be written ({os.strerror(number)});"
            " earlier checkpoints are intact"
        )

    def restore_latest(self, like: _State) -> "SavedRun[_State] | None":
        """Restores the newest intact checkpoint, on the devices of `like`.

        Newer damaged checkpoints are named in warnings and moved aside, never deleted.

        Args:
            like: state with the expected shapes and the wanted shardings.

        Returns:
            The state with its config and progress; None if there is no checkpoint.

        Raises:
            InputError: all checkpoints are damaged, or the newest intact one has another
                architecture or belongs to another kind of run.
        """
        params, train = like.split()
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            reason = None
            try:
                restored = self._saved(step).restore(params=params, train=train)
            except DamagedError as error:
                reason = str(error)
            # All processes must agree: if one cannot read this checkpoint, all skip it.
            if reasons := [*filter(None, gather(reason))]:
                _log.warning("%s", reasons[0])
                damaged.append(step)
                continue
            if damaged:
                self._move_aside(damaged)
                self._manager.reload()
            state = like.join(restored["params"], restored["train"])
            return SavedRun(state, restored["config"], restored["progress"])
        if damaged:
            raise self._none_whole(damaged)
        if aside := sorted(self._folder.parent.glob("damaged-checkpoint-*")):
            raise InputError(
                f"{self._folder}: no checkpoint found, only damaged ones beside this"
                f" folder ({aside[0].name}); move them away to start over"
            )
        return None

    def _none_whole(self, damaged: Collection[int | str]) -> InputError:
        return InputError(
            f"{self._folder}: none of its {len(damaged)} checkpoints can be restored;"
            " move the folder away to start over"
        )

    def restore_params(
        self, step: int | None = None, *, like: Any | None = None
    ) -> tuple[int, Config, Any]:
        """Restores and verifies only the parameters of a checkpoint.

        Args:
            step: step of the checkpoint. None takes the best by validation. If there is
                none, or it is damaged, None takes the newest intact one.
            like: tree of the expected shapes; None takes those of the config's network.

        Returns:
            The checkpoint's step, config and parameters.

        Raises:
            InputError: the checkpoint does not exist, is damaged, or has another
                architecture.
        """
        restored = self._restore_best(step, like)
        return restored["network"].step, restored["config"], restored["params"]

    def restore_network(self, step: int | None = None) -> tuple[Network, Config]:
        """Restores the network of a checkpoint, and the config of its run.

        Args:
            step: see `restore_params`.

        Raises:
            InputError: the checkpoint does not exist, is damaged, or has a config that
                describes no network.
        """
        restored = self._restore_best(step)
        origin = f"{self._folder}/{restored['network'].step}"
        network = with_params(restored["network"], restored["params"], origin=origin)
        return network, restored["config"]

    def _restore_best(self, step: int | None, like: Any | None = None) -> dict[str, Any]:
        """Restores the checkpoint that `restore_params` describes."""
        steps = sorted(self._manager.all_steps(), reverse=True)
        if step is None:
            best = self._best_step()
            wanted = sorted(steps, key=lambda s: s != best)
        elif step in steps:
            wanted = [step]
        else:
            raise InputError(
                f"{self._folder}: no checkpoint of step {step}, only of {steps[::-1]}"
            )
        for candidate in wanted:
            try:
                return self._saved(candidate).restore(params=like)
            except DamagedError as error:
                if candidate == wanted[-1]:
                    raise InputError(str(error)) from error
                _log.warning("%s; another checkpoint is used", error)
        raise InputError(f"{self._folder}: no finished checkpoint found")

    def _saved(self, step: int) -> SavedCheckpoint:
        return SavedCheckpoint(self._folder / str(step), self._manager)

    def _best_step(self) -> int | None:
        """Returns the best step by validation; ignores steps with damaged metrics."""
        metrics = {}
        for step in self._manager.all_steps():
            try:
                metrics[step] = self._saved(step).metrics()
            except DamagedError as error:
                _log.warning("%s; it cannot count as the best checkpoint", error)
        return ranking.best_step(metrics)

    def _set_aside_damaged_metrics(self) -> None:
        """Moves checkpoints with damaged metrics aside.

        With them orbax would open no checkpoint, or keep a wrong one as the best.
        """
        reasons = {}
        steps = {path.name for path in self._folder.glob("*") if path.name.isdecimal()}
        for step in steps:
            try:
                SavedCheckpoint(self._folder / step).metrics()
            except DamagedError as error:
                reasons[step] = str(error)
        # All processes must agree: damage that one of them finds counts for all.
        reasons = {k: v for found in gather(reasons) for k, v in found.items()}
        for reason in reasons.values():
            _log.warning("%s", reason)
        if steps and len(reasons) == len(steps):
            raise self._none_whole(steps)
        if reasons:
            self._move_aside(reasons)

    def _move_aside(self, steps: Collection[int | str]) -> None:
        """Renames damaged checkpoints, as their steps will be saved again."""
        for step in steps if jax.process_index() == 0 else ():
            target = self._folder.parent / f"damaged-checkpoint-{step}"
            number = 1
            while target.exists():
                number += 1
                target = target.with_name(f"damaged-checkpoint-{step}-{number}")
            (self._folder / str(step)).rename(target)
        # No process lists the checkpoints again before they are renamed.
        wait_for_others()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        # Closing the manager would wait for processes that may have ended.
        if error and lost_a_process(error):
            return
        try:
            with self._writing():
                self._manager.close()
        except OSError as second:
            if error is None:
                raise
            # The first error ends the run; this one is only reported.
            _log.warning("%s", second)


def read_run(workdir: Path, step: int | None = None) -> Network:
    """Reads the network of a run's checkpoint.

    Args:
        workdir: workdir of the run.
        step: see `Checkpoints.restore_params`.

    Raises:
        InputError: see `Checkpoints.restore_network`.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore_network(step)[0]
