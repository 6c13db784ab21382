"""The web page's results and messages, tested without a browser."""

import jax
import numpy as np
import pytest
from PIL import Image
from samples import SRGB, encoded, smooth
from tiny import SMALL

from eddsrn_jax.commands.demo import before, in_page_words, restore_upload, show
from eddsrn_jax.images.metadata import Metadata
from eddsrn_jax.images.pictures import read_picture, write_picture
from eddsrn_jax.models import EDDSRN, init_params
from eddsrn_jax.ops.resize import bicubic_upscale
from eddsrn_jax.restoration.restorer import Restorer


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_both_halves_of_the_slider_have_the_same_kind_of_pixels(
    tmp_path, channels, dtype
):
    pixels = np.maximum(smooth(channels, dtype, 12, 16), 1)
    path, result = tmp_path / "photo.png", tmp_path / "photo_x4.png"
    icc = SRGB if channels > 2 else None
    write_picture(path, pixels, Metadata(icc))
    write_picture(result, pixels.repeat(4, 0).repeat(4, 1), Metadata(icc))
    found, metadata = read_picture(before(path, result))
    assert metadata.icc == icc and found.dtype == dtype
    assert found.shape == (48, 64, channels)
    expected = bicubic_upscale(pixels[None].astype(np.float64), 4)[0]
    expected = expected.clip(0, np.iinfo(dtype).max)
    assert np.abs(found - expected).max() <= 0.5 + 1e-2
    # Beside a result of the same size it is the photo itself.
    np.testing.assert_array_equal(read_picture(before(path, path))[0], pixels)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    model = EDDSRN(**SMALL)
    restorer = Restorer(model, init_params(model, jax.random.key(0)))
    folder = tmp_path_factory.mktemp("page")

    def work(path, _, strength):
        return restore_upload(
            path, restorer, folder, strength=strength, max_input_pixels=1e6
        )

    return work


def test_an_error_clears_the_results_and_names_no_flags(work, tmp_path):
    path = tmp_path / "my_photo.png"
    path.write_bytes(encoded(Image.new("RGB", (2000, 1000)), "PNG"))
    *results, note = show(work, path, "photo", 1.0)
    assert results == [None] * 4
    assert note == (
        r"**Not restored.** my\_photo.png: 2000x1000 pixels make 2 megapixels of input,"
        " more than the 1 that this page accepts"
    )
    path.write_text("no photo")
    *results, note = show(work, path, "photo", 1.0)
    assert results == [None] * 4 and "not a readable image" in note


def test_a_restored_photo_fills_sliders_downloads_and_note(work, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(Image.fromarray(smooth(3, np.uint8, 12, 16)), "PNG"))
    sr, deblurred, sr_file, deblurred_file, note = show(work, path, "photo", 1.0)
    for slider, file, size in ((sr, sr_file, 64), (deblurred, deblurred_file, 16)):
        assert slider[1] == file
        assert [read_picture(x)[0].shape[1] for x in slider] == [size] * 2
    assert note.startswith("**photo.png**: 16 x 12 became 64 x 48 pixels in")


def test_messages_of_the_command_become_those_of_the_page():
    assert in_page_words("oversharpened (a lower --strength helps)") == (
        "oversharpened; a lower strength helps"
    )
    assert "--" not in in_page_words("more than 255; choose another name with --output")
