"""The web page, driven in a real browser."""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image
from processes import ROOT

from eddsrn_jax import Restorer
from eddsrn_jax.checkpoints.found_weights import PURPOSES
from eddsrn_jax.evaluation.inputs import degrade_photo

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.fixture(scope="module")
def demo():
    """Starts the web page's server; yields the page's address."""
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:9"}
    del environment["XLA_FLAGS"]
    process = subprocess.Popen(
        [sys.executable, "-m", "eddsrn_jax", "demo", f"--port={port}"],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    line = process.stdout.readline()
    assert line, process.stderr.read()
    yield line.split()[0]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode in (0, 130), errors
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def browser(demo):
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--no-proxy-server"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser, demo):
    """Opens the page in a new tab; all its requests must be for this machine."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(300_000)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(demo)
    page.get_by_role("button", name="Restore").wait_for()
    yield page
    page.close()
    assert asked
    assert all(url.startswith((demo, "data:", "blob:")) for url in asked), asked


def upload(page, name, content, **others):
    files = [
        {"name": name, "mimeType": "image/png", "buffer": buffer}
        for name, buffer in {name: content, **others}.items()
    ]
    page.locator("input[type=file]").first.set_input_files(files)
    page.get_by_role("button", name=f"Thumbnail 1 of {len(files)}").wait_for()
    page.get_by_role("button", name="Restore").click()


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def downloaded(page, name):
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    with Image.open(download.value.path()) as image:
        return np.asarray(image), download.value.suggested_filename


def natural_sizes(page, name):
    page.wait_for_function(
        f"[...document.querySelectorAll('#{name} img')].length == 2 &&"
        f" [...document.querySelectorAll('#{name} img')].every(i => i.naturalWidth > 0)"
    )
    return page.evaluate(
        f"[...document.querySelectorAll('#{name} img')]"
        ".map(i => [i.naturalWidth, i.naturalHeight])"
    )


def test_restores_an_uploaded_photo_and_offers_downloads(page, photo, tmp_path):
    _, blurry = degrade_photo(photo, 1.5, max_sigma=2.0)
    buffer = io.BytesIO()
    Image.fromarray(blurry).save(buffer, "PNG")
    upload(page, "my cat.png", buffer.getvalue())
    note = page.locator("#note")
    note.get_by_text("112 x 75 became 448 x 300 pixels in").wait_for(timeout=300_000)
    assert "Note" not in note.inner_text()
    assert natural_sizes(page, "sr") == [[448, 300]] * 2
    page.screenshot(path=tmp_path / "demo.png")
    expected = Restorer.from_pretrained()(blurry)
    found, name = downloaded(page, "Download x4")
    # The server runs with other XLA flags than the tests, so values may differ by 1.
    assert np.abs(found.astype(int) - expected.sr).max() <= 1
    assert re.fullmatch(r"my.cat_x4.png", name)
    page.get_by_role("tab", name="Deblurred").click()
    assert natural_sizes(page, "deblurred") == [[112, 75]] * 2
    found, _ = downloaded(page, "Download deblurred")
    assert np.abs(found.astype(int) - expected.deblurred).max() <= 1
    with Image.open(tmp_path / "demo.png") as screenshot:
        assert len(screenshot.convert("L").getcolors()) > 100


@pytest.mark.slow
def test_restores_again_when_strength_or_network_change(page, photo):
    _, blurry = degrade_photo(photo[:160, :200], 1.5, max_sigma=2.0)
    buffer = io.BytesIO()
    Image.fromarray(blurry).save(buffer, "PNG")
    upload(page, "cat.png", buffer.getvalue())
    note = page.locator("#note")
    note.get_by_text("estimated as sigma 1.").wait_for()
    first = page.locator("#sr img").last.get_attribute("src")

    def wait_for_another_result(old):
        page.wait_for_function(
            "old => document.querySelectorAll('#sr img')[1].src != old", arg=old
        )

    slider = page.get_by_role("slider", name="Strength")
    slider.focus()
    for _ in range(20):
        slider.press("ArrowLeft")
    wait_for_another_result(first)
    plain = Restorer.from_pretrained()(blurry, strength=0.0)
    # The page first shows the results of strengths that the slider has passed.
    deadline = time.monotonic() + 300
    while True:
        found, _ = downloaded(page, "Download x4")
        if np.abs(found.astype(int) - plain.sr).max() <= 1:
            break
        assert time.monotonic() < deadline, "the result of strength 0 is not shown"
        page.wait_for_timeout(1000)
    last = page.locator("#sr img").last.get_attribute("src")
    page.get_by_label(PURPOSES["gaussian"]).check()
    wait_for_another_result(last)


def test_restores_several_photos_and_offers_all_results(page, photo):
    photos = {name: photo[i:100, i:120] for i, name in enumerate(("a.png", "b.png"))}
    contents = {"bad.png": b"no photograph", "b.png": png(photos["b.png"])}
    upload(page, "a.png", png(photos["a.png"]), **contents)
    note = page.locator("#note")
    note.get_by_text("b.png: 119 x 99 became 476 x 396").wait_for()
    assert "a.png: 120 x 100 became 480 x 400" in note.inner_text()
    assert "Not restored. bad.png: not a readable image" in note.inner_text()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all as a ZIP file").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        names = [f"{x}_{y}.png" for x in "ab" for y in ("x4", "deblurred")]
        assert sorted(archive.namelist()) == sorted(names)
        content = io.BytesIO(archive.read("a_x4.png"))
    first = np.asarray(Image.open(content))
    expected = Restorer.from_pretrained()(photos["a.png"]).sr
    assert np.abs(first.astype(int) - expected).max() <= 1
    # The last photo is shown first, then the chosen one.
    assert downloaded(page, "Download x4")[0].shape == (396, 476, 3)
    assert natural_sizes(page, "sr") == [[476, 396]] * 2
    page.locator("#chosen input").click()
    page.get_by_role("option", name="1. a.png").click()
    page.wait_for_function("document.querySelectorAll('#sr img')[1].naturalWidth == 480")
    np.testing.assert_array_equal(downloaded(page, "Download x4")[0], first)


@pytest.mark.slow
def test_cancel_stops_after_the_current_photo(page, photo):
    contents = {f"{i}.png": png(photo[: 290 - i, :440]) for i in range(3)}
    upload(page, "first.png", png(photo), **contents)
    page.get_by_role("button", name="Cancel").click()
    note = page.locator("#note")
    note.get_by_text(re.compile(r"Cancelled. [1-3] of 4 photos are not")).wait_for()
    left = int(re.search(r"Cancelled. (\d)", note.inner_text())[1])
    assert note.inner_text().count("became") == 4 - left
    assert page.get_by_role("button", name="Cancel").is_disabled()
    assert natural_sizes(page, "sr")[0][0] > 1700


def test_restores_an_example(page):
    page.locator(".gallery-item").first.click()
    page.get_by_role("button", name="Thumbnail 1 of 1").wait_for()
    page.get_by_role("button", name="Restore").click()
    note = page.locator("#note").get_by_text("became 512 x 512 pixels in")
    note.wait_for(timeout=300_000)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"no photograph", "broken.png: not a readable image"),
        ("large", "2000x1001 pixels make 2.002 megapixels of input, more than"),
    ],
)
def test_shows_an_error_for_unreadable_or_too_large_images(page, content, message):
    if content == "large":
        buffer = io.BytesIO()
        Image.new("RGB", (2000, 1001)).save(buffer, "PNG")
        content = buffer.getvalue()
    upload(page, "broken.png", content)
    page.get_by_text(message).wait_for(timeout=300_000)


def test_warns_of_a_sharp_photo(page, photo):
    buffer = io.BytesIO()
    Image.fromarray(photo[:100, :120]).save(buffer, "PNG")
    page.get_by_label(PURPOSES["gaussian"]).check()
    upload(page, "sharp.png", buffer.getvalue())
    page.locator("#note").get_by_text("sharper than the training photos").wait_for()


def test_server_listens_on_loopback_only(demo):
    port = int(demo.split(":")[2].strip("/"))
    with urllib.request.urlopen(demo, timeout=10) as answer:
        assert answer.status == 200
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    for address in addresses - {"127.0.0.1", "127.0.1.1", "::1"}:
        with pytest.raises(OSError):
            socket.create_connection((address, port), timeout=2).close()


def test_reports_that_gradio_is_missing():
    code = (
        "import sys; sys.modules['gradio'] = None; sys.argv = ['demo'];"
        "from eddsrn_jax.commands.demo import run; run()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: the web page needs Gradio")
    assert "Traceback" not in run.stderr
