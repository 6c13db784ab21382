"""Which crops an epoch consists of, and cutting them: pure functions of the seed.

Any step of a run can be computed without those before it, so nothing about the data
is ever saved, and 1, 2 or 8 processes see one sequence.
"""

import dataclasses
import functools

import numpy as np

from eddsrn_jax.data.pack import Pack
from eddsrn_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class CropPlan:
    """An epoch's crops, row by row in the order of training.

    Attributes:
        image: int64 [rows], index of the photograph.
        y, x: int64 [rows], the crop's top left corner.
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
) -> CropPlan:
    """Draws the crops of an epoch: every photograph `crops_per_image` times.

    The rows of a batch come from different photographs, wherever there are at least
    as many as rows.

    Args:
        seed: of the run.
        epoch: 0, 1, ...
        sizes: int [photographs, 2], heights and widths, all at least `patch_size`.
        batch_size: of all processes together.
        crops_per_image: passes over the photographs; the rows left over from whole
            batches are dropped.
        patch_size: side of the crop.
    """
    rng = np.random.default_rng([seed, epoch])
    count = len(sizes)
    passes = []
    for number in range(crops_per_image):
        order = rng.permutation(count)
        begun = number * count % batch_size
        if begun and batch_size <= count:
            # The batch that the last pass began goes on with photographs it lacks.
            taken = np.isin(order, passes[-1][-begun:])
            order = np.concatenate([order[~taken], order[taken]])
        passes.append(order)
    image = np.concatenate(passes)
    image = image[: len(image) // batch_size * batch_size]
    corners = rng.integers(0, sizes[image] - patch_size + 1)
    key = rng.integers(0, 2**32, (len(image), 2), dtype=np.uint32)
    return CropPlan(image, corners[:, 0], corners[:, 1], key)


class CropSampler:
    """Batches of crops, each a pure function of its step.

    Attributes:
        images: photographs large enough for a crop, uint8 [H, W, 3].
        sizes: int [photographs, 2], their heights and widths.
        patch_size: side of a crop.
        num_photos: how many there are.
        steps_per_epoch: whole batches of an epoch.
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
        """Takes the photographs of a pack that are large enough for a crop.

        Raises:
            InputError: an epoch would not fill a single batch.
        """
        pack = pack.at_least(patch_size, "a crop (config.data.hr_patch_size)")
        self.images = pack.images
        self._names = pack.names
        self.sizes = np.array([image.shape[:2] for image in self.images])
        self.patch_size = patch_size
        self._batch_size = batch_size
        self.num_photos = len(self.images)
        rows = self.num_photos * crops_per_image
        self.steps_per_epoch = rows // batch_size
        if not self.steps_per_epoch:
            raise InputError(
                f"an epoch has {rows} crops ({self.num_photos} photographs x"
                f" data.crops_per_image={crops_per_image}), fewer than"
                f" batch_size={batch_size}"
            )
        plan = functools.partial(
            crop_plan,
            seed,
            sizes=self.sizes,
            batch_size=batch_size,
            crops_per_image=crops_per_image,
            patch_size=patch_size,
        )
        # Prefetching reads ahead into the next epoch while this one still runs.
        self._plan = functools.lru_cache(maxsize=2)(plan)

    def plan(self, step: int, rows: slice = slice(None)) -> CropPlan:
        """The crops of a step's batch, or of a process's slice of its rows."""
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self._batch_size
        rows = range(first, first + self._batch_size)[rows]
        plan = self._plan(epoch)
        return CropPlan(
            **{
                field.name: getattr(plan, field.name)[rows.start : rows.stop]
                for field in dataclasses.fields(CropPlan)
            }
        )

    def describe(self, step: int, *, most: int = 8) -> str:
        """The names and corners of a step's crops, for messages; so many at most."""
        plan = self.plan(step)
        crops = [
            f"{self._names[image]} at ({x}, {y})"
            for image, y, x in zip(plan.image, plan.y, plan.x, strict=True)
        ]
        more = [f"{len(crops) - most} more"] * (len(crops) > most)
        return ", ".join(crops[:most] + more)

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """The batch of a step, or a process's slice of its rows.

        Returns:
            "hr": uint8 [rows, patch, patch, 3]; "key": uint32 [rows, 2].
        """
        plan, side = self.plan(step, rows), self.patch_size
        hr = np.empty((len(plan.image), side, side, 3), np.uint8)
        for i, (image, y, x) in enumerate(zip(plan.image, plan.y, plan.x, strict=True)):
            hr[i] = self.images[image][y : y + side, x : x + side]
        return {"hr": hr, "key": plan.key}
