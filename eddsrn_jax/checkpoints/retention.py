"""The rule for the checkpoints of a run that are not deleted."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orbax.checkpoint.checkpoint_managers import preservation_policy

from eddsrn_jax.checkpoints.ranking import best_step
from eddsrn_jax.checkpoints.saved_checkpoint import SavedCheckpoint


class _KeepBest(preservation_policy.PreservationPolicy):
    """Policy of orbax that keeps the best checkpoint, see `best_step`."""

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        """Returns for each checkpoint whether it is the best one."""
        best = best_step({info.step: info.metrics for info in checkpoints})
        return [info.step == best for info in checkpoints]


def retention(
    folder: Path, *, keep_every_steps: int
) -> preservation_policy.PreservationPolicy:
    """Returns orbax's policy that keeps the two latest checkpoints, the best and others.

    Args:
        folder: folder of the checkpoints, which may not exist yet.
        keep_every_steps: checkpoints at multiples of this step are kept too; 0 keeps
            no more of them. Those that were kept under another number stay.
    """
    for_ever = []
    for path in folder.glob("[0-9]*"):
        # A damaged checkpoint is found out when it is read.
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
            if SavedCheckpoint(path).is_kept():
                for_ever.append(int(path.name))
    kept = [
        # Two, so that a damaged checkpoint costs only the steps since the one before it.
        preservation_policy.LatestN(2),
        _KeepBest(),
        preservation_policy.CustomSteps(for_ever),
    ]
    if keep_every_steps:
        kept.append(preservation_policy.EveryNSteps(keep_every_steps))
    return preservation_policy.AnyPreservationPolicy(kept)
