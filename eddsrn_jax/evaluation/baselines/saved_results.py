"""Results that another program has saved as images, scored like those of a network."""

from pathlib import Path

import numpy as np

from eddsrn_jax.errors import InputError
from eddsrn_jax.images import read_image
from eddsrn_jax.models import SCALE
from eddsrn_jax.paths import printable
from eddsrn_jax.restoration.outputs import Restored


class SavedResults:
    """Reads the result of each input from a folder.

    The folder has the subfolders of the inputs that an evaluation saves. The result of
    Set14/sigma_1.5/baboon_input.png has that name, or else Set14/sigma_1.5/baboon.png. If
    both exist, the first one may be the input itself, and the second one is taken.
    """

    takes_place = True

    def __init__(self, folder: Path, flag: str):
        """Sets the folder.

        Args:
            folder: folder of the results.
            flag: name of the flag that gives it, for messages.

        Raises:
            InputError: there is no such folder.
        """
        if not folder.is_dir():
            raise InputError(f"{flag}: {printable(folder)} is not a folder")
        self._folder, self._flag = folder, flag

    def __call__(self, lr_blur: np.ndarray, place: str) -> Restored:
        """Returns the saved result of an input.

        Args:
            lr_blur: input, uint8 [h, w, 3].
            place: set, degradation and name of the input, such as
                "Set14/sigma_1.5/baboon".

        Returns:
            The image in uint8: "sr" if it is four times as large as the input,
            "deblurred" if it is as large.

        Raises:
            InputError: there is no such file, it cannot be read, or it has another size.
        """
        paths = [self._folder / f"{place}{ending}.png" for ending in ("", "_input")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise InputError(
                f"{self._flag}: there is neither {printable(paths[1])} nor"
                f" {printable(paths[0].name)}; --save_images writes the inputs under such"
                " names"
            )
        image = read_image(path)
        if path == paths[1] and np.array_equal(image, lr_blur):
            raise InputError(
                f"{self._flag}: {printable(path)} is the input itself, and there is no"
                f" {printable(paths[0].name)}"
            )
        height, width, _ = lr_blur.shape
        if image.shape[:2] == (SCALE * height, SCALE * width):
            return Restored(sr=image)
        if image.shape[:2] == (height, width):
            return Restored(deblurred=image)
        raise InputError(
            f"{printable(path)} is {image.shape[1]} x {image.shape[0]} pixels; expected"
            f" {SCALE * width} x {SCALE * height} for the x4 image, or"
            f" {width} x {height} for the deblurred one"
        )
