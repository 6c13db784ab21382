"""Plans and cuts the crops of an epoch, as pure functions of the seed.

The crops of a step do not depend on the steps before it. So no position in the data is
saved, and 1, 2 or 8 processes see the same sequence.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from eddsrn_jax.data.pack import Pack
from eddsrn_jax.errors import InputError
from eddsrn_jax.models import SCALE


@dataclasses.dataclass(frozen=True)
class CropPlan:
    """The crops of an epoch or a step, row by row in the order of training.

    Attributes:
        image: int64 [rows], index of the photo.
        y, x: int64 [rows], top left corner of the crop.
        key: uint32 [rows, 2], data of a threefry key for the crop's degradation.
    """

    image: np.ndarray
    y: np.ndarray
    x: np.ndarray
    key: np.ndarray


def crop_plan(
    seed: int,
    epoch: int,
    *,
    sizes: np.ndarray,
    batch_size: int,
    crops_per_image: int,
    patch_size: int,
    align: int = 1,
) -> CropPlan:
    """Draws the crops of an epoch: every photo `crops_per_image` times.

    The rows of a batch come from different photos if there are at least as many photos
    as rows.

    Args:
        seed: seed of the run.
        epoch: number of the epoch: 0, 1, ...
        sizes: int [photos, 2], heights and widths, all at least `patch_size`.
        batch_size: rows of a batch, over all processes.
        crops_per_image: passes over the photos. Rows that do not fill a last batch are
            dropped.
        patch_size: side of a crop in pixels.
        align: the corners' coordinates are multiples of this number.
    """
    rng = np.random.default_rng([seed, epoch])
    count = len(sizes)
    passes = []
    for number in range(crops_per_image):
        order = rng.permutation(count)
        begun = number * count % batch_size
        if begun and batch_size <= count:
            # The last pass ended within a batch. Fill it with photos that it lacks.
            taken = np.isin(order, passes[-1][-begun:])
            order = np.concatenate([order[~taken], order[taken]])
        passes.append(order)
    image = np.concatenate(passes)
    image = image[: len(image) // batch_size * batch_size]
    corners = align * rng.integers(0, (sizes[image] - patch_size) // align + 1)
    key = rng.integers(0, 2**32, (len(image), 2), dtype=np.uint32)
    return CropPlan(image, corners[:, 0], corners[:, 1], key)


def count_steps_per_epoch(
    num_photos: int, *, crops_per_image: int, batch_size: int
) -> int:
    """Returns the number of whole batches in an epoch."""
    return num_photos * crops_per_image // batch_size


class CropSampler:
    """Batches of crops, each a pure function of its step.

    Attributes:
        images: photos that are large enough for a crop, uint8 [H, W, 3].
        small: the small photos of the same scenes if the photos are those of pairs; else
            empty.
        sizes: int [photos, 2], their heights and widths.
        patch_size: side of a crop in pixels.
        listing: files of the set that the photos belong to.
        num_photos: number of photos.
        steps_per_epoch: whole batches in an epoch.
    """

    def __init__(
        self,
        pack: Pack,
        *,
        seed: int,
        batch_size: int,
        crops_per_image: int,
        patch_size: int,
    ):
        """Takes the photos of a pack that are large enough for a crop.

        Args:
            pack: photos to cut crops from.
            seed, batch_size, crops_per_image, patch_size: see `crop_plan`.

        Raises:
            InputError: no photo is large enough, or an epoch does not fill one batch.
        """
        pack = pack.at_least(patch_size, "the crop size (config.data.hr_patch_size)")
        self.images, self.small = pack.images, pack.small
        self._names, self.listing = pack.names, pack.listing
        self.sizes = np.array([image.shape[:2] for image in self.images])
        self.patch_size = patch_size
        self._batch_size = batch_size
        self.num_photos = len(self.images)
        self.steps_per_epoch = count_steps_per_epoch(
            self.num_photos, crops_per_image=crops_per_image, batch_size=batch_size
        )
        if not self.steps_per_epoch:
            raise InputError(
                f"an epoch has {self.num_photos * crops_per_image} crops"
                f" ({self.num_photos} photos x config.data.crops_per_image="
                f"{crops_per_image}), fewer than config.batch_size={batch_size}"
            )
        plan = functools.partial(
            crop_plan,
            seed,
            sizes=self.sizes,
            batch_size=batch_size,
            crops_per_image=crops_per_image,
            patch_size=patch_size,
            align=SCALE if self.small else 1,
        )
        # Two plans: prefetching reads into the next epoch while this one still runs.
        self._plan = functools.lru_cache(maxsize=2)(plan)

    def plan(self, step: int, rows: slice = slice(None)) -> CropPlan:
        """Returns the crops of a step's batch, or of a process's slice of its rows."""
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self._batch_size
        taken = range(first, first + self._batch_size)[rows]
        plan = self._plan(epoch)
        return CropPlan(
            **{
                field.name: getattr(plan, field.name)[taken.start : taken.stop]
                for field in dataclasses.fields(CropPlan)
            }
        )

    def describe(self, step: int, *, most: int = 8) -> str:
        """Lists names and corners of a step's crops, at most `most`, for messages."""
        plan = self.plan(step)
        crops = [
            f"{self._names[image]} at ({x}, {y})"
            for image, y, x in zip(plan.image, plan.y, plan.x, strict=True)
        ]
        more = [f"{len(crops) - most} more"] * (len(crops) > most)
        return ", ".join(crops[:most] + more)

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Cuts the batch of a step, or a process's slice of its rows.

        Returns:
            "hr": uint8 [rows, patch, patch, 3]; "key": uint32 [rows, 2]; of pairs also
                "lr": uint8 [rows, patch / 4, patch / 4, 3].
        """
        plan, side = self.plan(step, rows), self.patch_size
        batch = {"hr": _cut(self.images, plan, side), "key": plan.key}
        if self.small:
            small = dataclasses.replace(plan, y=plan.y // SCALE, x=plan.x // SCALE)
            batch["lr"] = _cut(self.small, small, side // SCALE)
        return batch


def _cut(images: Sequence[np.ndarray], plan: CropPlan, side: int) -> np.ndarray:
    """Cuts the crops of a plan, uint8 [rows, side, side, 3]."""
    crops = np.empty((len(plan.image), side, side, 3), np.uint8)
    for i, (image, y, x) in enumerate(zip(plan.image, plan.y, plan.x, strict=True)):
        crops[i] = images[image][y : y + side, x : x + side]
    return crops
