"""Validation of a run: scores, TensorBoard pictures, and the set they belong to."""

import functools
import logging
import zlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from eddsrn_jax.checkpoints.ranking import VALIDATION_SET
from eddsrn_jax.evaluation.inputs import SPOILINGS
from eddsrn_jax.evaluation.scoring import Pair, Photo
from eddsrn_jax.evaluation.validation import validate
from eddsrn_jax.restoration.restorer import Restorer
from eddsrn_jax.training.progress import Reporter
from eddsrn_jax.training.step_metrics import ADVICE

_log = logging.getLogger(__name__)

# Number of photos of each validation that are shown in TensorBoard.
_PICTURES = 4


class Validator:
    """Scores a network on a run's validation photos."""

    def __init__(
        self,
        model: nn.Module,
        photos: Sequence[Photo | Pair],
        reporter: Reporter,
        *,
        sigmas: Sequence[float],
        own: str,
        degradation: str,
    ):
        """Sets the network, the photos and their degradations.

        Args:
            model: network to score.
            photos: see `validate`.
            reporter: reporter of the scores and pictures.
            sigmas, own: see `validate`.
            degradation: name of a list of spoilings, "paper" or "photo".
        """
        self._model, self._photos, self._reporter = model, photos, reporter
        self._sigmas, self._own, self._degradation = tuple(sigmas), own, degradation

    def __call__(self, step: int, params: Any) -> dict[str, float]:
        """Scores and reports a network's parameters after a step.

        Returns:
            The scores by name, and under VALIDATION_SET the number of the photos and
            degradations that they belong to.

        Raises:
            FloatingPointError: an output was not finite.
        """
        restorer = Restorer(self._model, jax.device_get(params))
        try:
            values, examples = validate(
                restorer,
                self._photos,
                sigmas=self._sigmas,
                own=self._own,
                spoilings=SPOILINGS[self._degradation],
                num_examples=_PICTURES,
            )
        except FloatingPointError as error:
            message = f"step {step}: validation: {error}{ADVICE}"
            raise FloatingPointError(message) from error
        scores = {f"val/{name}": value for name, value in values.items()}
        self._reporter.scalars(step, scores)
        self._reporter.curves()
        text = ", ".join(f"{name} {value:.2f} dB" for name, value in scores.items())
        _log.info("step %d: %s", step, text)
        for name, picture in examples.items():
            self._reporter.picture(step, f"val/{name}", picture)
        return {**scores, VALIDATION_SET: self._set}

    @functools.cached_property
    def _set(self) -> int:
        """A number that identifies the photos and degradations."""
        blurs = self._own or self._sigmas
        number = zlib.crc32(repr((blurs, self._degradation)).encode())
        for name, *images in self._photos:
            for image in images:
                number = zlib.crc32(f"{name}{image.shape}".encode(), number)
                number = zlib.crc32(np.ascontiguousarray(image), number)
        return number
