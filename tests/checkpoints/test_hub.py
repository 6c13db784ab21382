"""Weights in folders, and in repositories of a model hub."""

import contextlib
import hashlib
import http.server
import json
import sys
import threading

import jax
import numpy as np
import pytest
import safetensors.numpy
from tiny import PLAIN

from eddsrn_jax.checkpoints.found_weights import find_weights
from eddsrn_jax.checkpoints.weights import Network, read_network, write_network
from eddsrn_jax.errors import InputError
from eddsrn_jax.models import VDSR, abstract_params
from eddsrn_jax.restoration.restorer import Restorer
from eddsrn_jax.training.setup import load_params

MODEL = VDSR(**PLAIN)
COMMIT = "1" * 40


@pytest.fixture(scope="session")
def network():
    values = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: values.normal(size=x.shape).astype(x.dtype), abstract_params(MODEL)
    )
    return Network(MODEL, params, "mine", 1700, (0.5, 1.5))


@pytest.fixture
def folder(network, tmp_path):
    """Writes a folder of weights."""
    write_network(tmp_path / "mine", network, dtype="float32")
    return tmp_path / "mine"


@contextlib.contextmanager
def serving(folder):
    """Serves a folder as the repository org/mine, as a model hub does; yields its URL."""
    requests = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            path = self.path.partition("?")[0]
            requests.append(path)
            files = {x.name: x.read_bytes() for x in folder.iterdir()}
            base, file = path.rpartition("/")[::2]
            code, content = 200, b""
            if path in (f"/api/models/org/mine/revision/{x}" for x in ("main", "v1.0")):
                content = json.dumps({"id": "org/mine", "sha": COMMIT}).encode()
            elif path == f"/api/models/org/mine/tree/{COMMIT}":
                tree = [
                    {"type": "file", "path": name, "size": len(x), "oid": "2" * 40}
                    for name, x in files.items()
                ]
                content = json.dumps(tree).encode()
            elif base == f"/org/mine/resolve/{COMMIT}" and file in files:
                content = files[file]
            else:
                code = 404
            self.send_response(code)
            if code == 404:
                missing = "Revision" if "org/mine" in path else "Repo"
                self.send_header("X-Error-Code", f"{missing}NotFound")
                self.send_header("X-Error-Message", f"{missing} not found")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """Serves the folder in place of the model hub; returns the paths requested."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.chdir(tmp_path)
    with serving(folder) as (url, requests):
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield requests


def test_a_folder_of_weights_holds_plain_files(folder, network):
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(
        arrays["conv0/kernel"], network.params["conv0"]["kernel"]
    )
    assert json.loads((folder / "config.json").read_text()) == {
        "name": "mine",
        "step": 1700,
        "sigma_range": [0.5, 1.5],
        "network": "VDSR",
        "model": {**PLAIN, "scale": 4, "front_end": "", "dtype": "float32"},
    }
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: eddsrn_jax\n")
    text = " ".join(card.split())
    assert "sigma 0.5 to 1.5 pixels" in text
    assert "`VDSR`" in text and "1,700 steps" in text


def test_a_folder_is_read_like_its_file_and_keeps_its_card(folder, network):
    for name in (folder, folder / "model.safetensors"):
        found = read_network(name)
        assert (found.model, found.name, found.step) == (MODEL, "mine", 1700)
        assert found.sigma_range == (0.5, 1.5)
        jax.tree.map(np.testing.assert_array_equal, found.params, network.params)
    (folder / "README.md").write_text("my own card")
    write_network(folder, Network(MODEL, network.params, "mine", 1800, (0.5, 1.5)))
    assert read_network(folder).step == 1800
    assert (folder / "README.md").read_text() == "my own card"


def test_write_network_refuses_a_folder_that_holds_other_files(tmp_path, network):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds other files; give a new or empty folder"):
        write_network(tmp_path, network)
    assert [x.name for x in tmp_path.iterdir()] == ["config.json"]
    with pytest.raises(InputError, match=r"has no model.safetensors; .* --workdir"):
        find_weights(tmp_path)


def test_write_network_refuses_the_model_folder_of_another_project(tmp_path, network):
    safetensors.numpy.save_file({"x": np.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="holds other files; give a new or empty folder"):
        write_network(tmp_path, network)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_repository_is_downloaded_once(hub, network):
    for name in ("org/mine", "org/mine@v1.0", f"org/mine@{COMMIT}"):
        found = read_network(name)
        jax.tree.map(np.testing.assert_array_equal, found.params, network.params)
        assert Restorer.from_pretrained(name).sigma_range == (0.5, 1.5)
    found = find_weights("org/mine")
    assert found.parts[-2:] == (COMMIT, "model.safetensors")
    # Each file is requested by HEAD, then by GET; the card is not needed.
    downloads = sorted(path for path in hub if path.startswith("/org/"))
    names = [path.rpartition("/")[2] for path in downloads]
    assert names == 2 * ["config.json"] + 2 * ["model.safetensors"]


def test_a_downloaded_repository_works_offline(hub, monkeypatch):
    online = find_weights("org/mine")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_weights("org/mine") == online
    with pytest.raises(InputError, match=r"--weights=org/other: no such .*repository"):
        find_weights("org/other")


def test_a_local_path_takes_precedence_over_a_repository(hub, folder, tmp_path):
    local = tmp_path / "org" / "mine"
    local.parent.mkdir()
    folder.rename(local)
    assert find_weights("org/mine").resolve() == local / "model.safetensors"
    assert hub == []


@pytest.mark.parametrize(
    "name, message",
    [
        ("org/absent", r"--weights=org/absent: no such file .*hub has no such rep"),
        (
            "org/mine@refs/pr/1",
            r"--weights=org/mine: no such file .* no revision refs",
        ),
        ("org/mine@v9", r"--weights=org/mine: no such file .* no revision v9"),
        ("org/absent.safetensors", r"org/absent.safetensors: cannot be read as"),
        ("./org/absent", r"org/absent: cannot be read as safetensors"),
    ],
)
def test_error_names_a_repository_that_cannot_be_downloaded(hub, name, message):
    with pytest.raises(InputError, match=message) as caught:
        read_network(name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_error_names_the_file_that_a_repository_lacks(hub, folder, name):
    (folder / name).unlink()
    with pytest.raises(
        InputError, match=f"--weights=org/mine: the repository has no {name}"
    ):
        read_network("org/mine")


def test_a_missing_huggingface_hub_is_named_in_one_line(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        InputError, match=r'org/mine: no such .* run pip install "eddsrn_jax\[hub\]"'
    ):
        find_weights("org/mine")


def test_training_starts_from_a_folder_of_weights(folder, network):
    found = load_params(folder, MODEL)
    jax.tree.map(np.testing.assert_array_equal, found, network.params)
