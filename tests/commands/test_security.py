"""Tests that input files cannot run code, and that malformed ones are refused."""

import ast
import json
import math
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy
from processes import ROOT

from eddsrn_jax.checkpoints.found_weights import SHIPPED
from eddsrn_jax.checkpoints.torch_weights import PEERS, read_peer
from eddsrn_jax.checkpoints.weights import Network, read_network, write_network
from eddsrn_jax.errors import InputError
from eddsrn_jax.models import HalfSizeEDDSRN, init_params, make_network

SOURCES = [*ROOT.glob("*.py"), *(ROOT / "eddsrn_jax").rglob("*.py")]
SOURCES += [*(ROOT / "configs").glob("*.py")]
# Modules and calls that can run code from an argument or a file.
MODULES = {
    *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"),
    *("yaml", "torch", "keras", "subprocess", "multiprocessing", "pty", "code", "runpy"),
}
CALLS = {
    *("eval", "exec", "system", "popen", "__import__", "import_module", "exec_module"),
    *("spawnl", "spawnv", "execl", "execv", "execve", "execvp", "posix_spawn"),
    *("create_subprocess_shell", "create_subprocess_exec", "load_model"),
    *("read_pickle", "restore_checkpoint", "msgpack_restore"),
}


def offences(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (n.name for n in node.names if n.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                yield node.module
            # A renamed function would escape the check of calls, so its import counts.
            yield from (n.name for n in node.names if n.name in {*CALLS, "load"})
        elif isinstance(node, ast.Call):
            function = node.func
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            name = getattr(function, "attr", getattr(function, "id", None))
            if name in CALLS or (name == "compile" and isinstance(function, ast.Name)):
                yield ast.unparse(function)
            harmless = options.get("allow_pickle") == "False" or name != "load"
            # These two calls are Pillow's and harmless.
            if not harmless and ast.unparse(function) not in ("image.load", "exif.load"):
                yield ast.unparse(function)
            if options.get("shell", "False") != "False":
                yield f"shell={options['shell']}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_evaluates_unpickles_or_calls_a_shell(path):
    # Two functions run configs and other code that the user has named.
    own_code = path == ROOT / "eddsrn_jax" / "own_code.py"
    expected = ["importlib.import_module", "loader.exec_module"] if own_code else []
    assert sorted(offences(ast.parse(path.read_text()))) == expected


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from torch import load", "import os as o; o.system('x')"),
        *("from os import system as s", "os.execvp('x', [])", "eval('1')"),
        *("compile('1', '', 'eval')", "importlib.import_module('pickle')"),
        *("np.load(p)", "numpy.load(p, allow_pickle=True)", "from numpy import load"),
        *("tf.saved_model.load(p)", "run('x', shell=True)", "run('x', shell=1)"),
        *("asyncio.create_subprocess_shell('x')", "import multiprocessing.pool"),
    ],
)
def test_source_check_finds_dangerous_imports_and_calls(source):
    assert list(offences(ast.parse(source)))


def test_source_check_ignores_harmless_calls():
    source = "re.compile('x'); np.load(p, allow_pickle=False); f.lower(x).compile()"
    assert list(offences(ast.parse(source))) == []


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 90)
        + b'{"a":{"dtype":"F32","shape":[9e99],"data_offsets":[0,4]}}',
        struct.pack("<Q", 64)
        + b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}'.ljust(64),
        struct.pack("<Q", 8) + b"[" * 8,
    ],
    ids=["header of 4 EB", "infinite shape", "array of 4 TB", "no object"],
)
def test_rejects_malformed_safetensors_headers(tmp_path, header):
    path = tmp_path / "w.safetensors"
    path.write_bytes(header + bytes(4))
    with pytest.raises(InputError, match=r"w.safetensors: cannot be read as safetensors"):
        read_network(path)


@pytest.fixture
def shipped():
    """Returns arrays and metadata of shipped weights, for tests to damage."""
    path = SHIPPED["eddsrn-lite"]
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    return safetensors.numpy.load_file(path), metadata


def written(folder, arrays, metadata):
    path = folder / "w.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    "changed",
    [
        *({"num_pairs": n} for n in (10**9, 1e300, "x", None, [1])),
        *({"features": w} for w in ([-1] * 4, ["a"] * 4, [], 3, [64] * 1000)),
        *({"dtype": name} for name in ("foo", "int8", "complex64")),
        {"unknown": 1},
    ],
    ids=lambda changed: "{}={:.20}".format(*map(str, *changed.items())),
)
def test_rejects_weights_with_invalid_network_fields(tmp_path, shipped, changed):
    arrays, metadata = shipped
    metadata["model"] = json.dumps(json.loads(metadata["model"]) | changed)
    path = written(tmp_path, arrays, metadata)
    with pytest.raises(InputError, match=r"w.safetensors: (its network|neither its) "):
        read_network(path)


@pytest.mark.parametrize(
    "name, fields, message",
    [
        ("VDSR", {"scale": 10**6}, "scale=1000000: expected 4"),
        ("LapSRN", {"num_levels": 30}, "num_levels=30: expected 2"),
        ("DeblurCNN", {"layers": [[3, 1]] * 10**5}, "but there are only 40 arrays"),
        ("HalfSizeEDDSRN", {"features": [64] * 1000}, "but there are only 40 arrays"),
    ],
)
def test_untrusted_fields_cannot_ask_for_endless_layers(name, fields, message):
    with pytest.raises(InputError, match=f"^{name}: .*{message}"):
        make_network(name, fields, num_arrays=40)


@pytest.mark.parametrize(
    "changed",
    [
        *({"num_pairs": n} for n in ([10**9] * 5, [1] * 4, [1, 1, 1, 1, "x"], 3, [])),
        *({"features": w} for w in ([-1] * 3, [64] * 1000, None)),
        {"detail_features": 4, "features": [3, 4, 4]},
        {"detail_features": 4, "features": [4, 4, 4], "num_detail_pairs": 10**9},
        *({"detail_features": w} for w in (-1, "x", [4])),
        *({"front_end": name} for name in ("gaussian-0", "", 3, ["gaussian-0"])),
    ],
    ids=lambda changed: f"{changed!s:.40}",
)
def test_rejects_weights_with_invalid_half_size_network_fields(tmp_path, changed):
    model = HalfSizeEDDSRN(features=(2, 2, 2), num_pairs=(1, 1, 1, 1, 1))
    params = init_params(model, jax.random.key(0))
    path = tmp_path / "w.safetensors"
    write_network(path, Network(model, params, "half", 1, (1.0, 2.0)))
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    metadata["model"] = json.dumps(json.loads(metadata["model"]) | changed)
    arrays = safetensors.numpy.load_file(path)
    with pytest.raises(InputError, match=r"w.safetensors: (its network|neither its) "):
        read_network(written(tmp_path, arrays, metadata))


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "[" * 100_000},
        {"network": "__class__"},
        {"sigma_range": "[NaN, 2]"},
        {"sigma_range": '["a", "b"]'},
        {"step": "9" * 5000},
    ],
    ids=lambda changed: "{}={:.20}".format(*map(str, *changed.items())),
)
def test_rejects_weights_with_invalid_metadata(tmp_path, shipped, changed):
    arrays, metadata = shipped
    path = written(tmp_path, arrays, metadata | changed)
    with pytest.raises(InputError, match=r"w.safetensors: (its network|neither its) "):
        read_network(path)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "null", "[" * 100_000, '{"model": 3}', "9" * 5000, '"x"' * 400_000),
        *({"model": {"num_pairs": n}} for n in (10**9, 1e300, "x", None, [1])),
        *({"model": {"features": w}} for w in ([-1] * 4, 3, [64] * 1000, {"a": 1})),
        *({"network": "__class__"}, {"network": ["EDDSRN"]}, {"name": ["x"]}),
        *({"step": "x"}, {"step": 1e400}, {"sigma_range": [math.nan, 2]}),
        *({"sigma_range": "ab"}, {"sigma_range": [[1], 2]}, {"model": {"unknown": 1}}),
    ],
    ids=lambda content: f"{content!s:.30}",
)
def test_rejects_folders_with_an_invalid_config(tmp_path, shipped, content):
    arrays, metadata = shipped
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    if isinstance(content, dict):
        config = metadata | {k: json.loads(metadata[k]) for k in ("model", "sigma_range")}
        config["model"] |= content.get("model", {})
        content = json.dumps(config | {k: v for k, v in content.items() if k != "model"})
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(
        InputError, match=r"model.safetensors: (its network|neither its) "
    ) as caught:
        read_network(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_rejects_weights_with_mismatched_nan_or_float8_arrays(tmp_path, shipped):
    arrays, metadata = shipped
    ones = np.ones(3, np.float16)
    path = written(tmp_path, {**arrays, "trunk": ones}, metadata)
    with pytest.raises(InputError, match=r"architecture: trunk has \(3,\)"):
        read_network(path)
    name = "sr_head/flat0/bias"
    spoilt = {**arrays, name: np.full_like(arrays[name], np.nan)}
    with pytest.raises(InputError, match=f"w.safetensors: {name} is not finite"):
        read_network(written(tmp_path, spoilt, metadata))
    content = written(tmp_path, {"a": np.ones(4, np.uint8)}, metadata).read_bytes()
    header = content[8:-4].replace(b'"U8"', b'"F8_E4M3"')
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[-4:])
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        read_network(path)


@pytest.mark.parametrize("damage", ["empty", "half", "flipped"])
def test_rejects_damaged_npz_weights(tmp_path, damage):
    path = tmp_path / "vdsr.npz"
    np.savez_compressed(path, a=np.arange(1000.0), b=np.ones(3))
    content = bytearray(path.read_bytes())
    if damage == "empty":
        content.clear()
    elif damage == "half":
        del content[len(content) // 2 :]
    else:
        content[200:210] = bytes(10)
    path.write_bytes(content)
    with pytest.raises(InputError, match="vdsr.npz: cannot be read as arrays"):
        read_peer(path, PEERS["vdsr"])
