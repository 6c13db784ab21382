"""Error messages of the commands: unknown config values, devices, paths, warnings."""

import importlib
import logging
import os
import re
import sys
import warnings

import jax
import pytest
from processes import ROOT, command
from tiny import tiny_config

from eddsrn_jax.commands import command_line
from eddsrn_jax.errors import InputError
from eddsrn_jax.files import cache_root
from eddsrn_jax.machine import find_devices
from eddsrn_jax.paths import local_path, printable, workdir_path
from eddsrn_jax.training.loop import train_and_evaluate


def answer(name, flags, monkeypatch, capsys):
    """Runs a command in this process; returns its exit code and stderr."""
    # Flags keep their values between calls.
    module = importlib.reload(importlib.import_module(f"eddsrn_jax.commands.{name}"))
    monkeypatch.setattr(sys, "argv", [name, *flags])
    code = command_line.execute(module.main, module.FLAGS)
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "optimizer.lr=1",
            "config.optimizer has no value 'lr'; did you mean 'learning_rate'?",
        ),
        ("foo.bar=1", "config has no value 'foo'; it has adversarial, batch_size, che"),
        ("seed.x=1", "config.seed has no value 'x'"),
        ("data.soruce=bundled", "'soruce'. Did you mean \"source\" instead of"),
    ],
)
def test_an_unknown_config_value_names_the_nearest_one(
    override, message, monkeypatch, capsys
):
    flags = ["--config=configs/eddsrn.py", f"--config.{override}", "--workdir=/absent"]
    code, err = answer("train", flags, monkeypatch, capsys)
    assert code == 2 and err.startswith(f"error: --config: {message}")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("key, near", [("batchsize", "batch_size"), ("foo", "it has")])
def test_an_unknown_key_in_a_config_file_gives_a_short_line(
    key, near, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "own.py"
    path.write_text(
        "from configs import eddsrn\n\n\ndef get_config():\n"
        f"    config = eddsrn.get_config(); config.{key} = 3\n    return config\n"
    )
    code, err = answer("train", [f"--config={path}"], monkeypatch, capsys)
    assert code == 2 and len(err) < 400 and len(err.splitlines()) == 1
    assert f"unknown config value '{key}'; " in err and near in err
    assert f"({path}, line 5)" in err


@pytest.mark.parametrize(
    "content, message",
    [
        ("x = 1", "error: --config=PATH: the file has no function get_config"),
        ("def get_config(): return int('a')", "error: flag --config=PATH: invalid liter"),
        (
            "def get_config(): return 1 / 0",
            r"error: --config: division by zero \(PATH, l",
        ),
    ],
)
def test_an_error_in_a_config_file_gives_one_line(
    content, message, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "own.py"
    path.write_text(content)
    given = [f"--config={path}", "--config.total_steps=5"]
    code, err = answer("train", given, monkeypatch, capsys)
    assert code == 2 and len(err.splitlines()) == 1
    assert re.match(message.replace("PATH", str(path)), err)


# paths --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, flags",
    [
        ("train", ["--config=configs/eddsrn.py", "--workdir=PATH"]),
        ("evaluate", ["--workdir=PATH"]),
        ("evaluate", ["--weights=PATH"]),
        ("evaluate", ["--dataset=a=PATH"]),
        ("evaluate", ["--output_dir=PATH"]),
        ("evaluate", ["--peers=PATH"]),
        ("export", ["--workdir=PATH", "--out=x.safetensors"]),
        ("export", ["--workdir=/absent", "--out=PATH"]),
    ],
)
@pytest.mark.parametrize(
    "path, message",
    [
        ("~nosuchuser/x", "the home folder of ~nosuchuser is unknown"),
        ("gs://bucket/x", "an address; only local paths can be used"),
    ],
)
def test_unusable_paths_give_a_one_line_error(
    name, flags, path, message, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    flags = [flag.replace("PATH", path) for flag in flags]
    if name == "train":
        flags[0] = f"--config={ROOT}/configs/eddsrn.py"
    code, err = answer(name, flags, monkeypatch, capsys)
    assert code in (1, 2) and err.startswith("error: --") and message in err
    assert len(err.splitlines()) == 1
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["data.source", "data.cache_dir", "init_from"])
def test_config_values_with_unusable_paths_are_named(name, photo_folder, tmp_path):
    for path, message in (("~nosuchuser/x", "is unknown"), ("s3://a/b", "an address")):
        value = f"folder:{path}" if name == "data.source" else path
        config = tiny_config(photo_folder, **{name: value})
        with pytest.raises(InputError, match=f"config.{name}={path}.*{message}"):
            train_and_evaluate(config, tmp_path / "run")


def test_a_workdir_that_is_not_utf8_is_refused(tmp_path):
    place = f"{tmp_path}/caf\udce9"
    with pytest.raises(InputError, match=r"--workdir=.*/caf\\xe9: the path of a workdir"):
        workdir_path(place)
    with pytest.raises(InputError, match="the path of a workdir must be UTF-8"):
        train_and_evaluate(tiny_config(tmp_path), place)
    assert printable("caf\udce9") == "caf\\xe9" and printable("café") == "café"


def test_ordinary_paths_stay_as_they_are(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for text, expected in {
        **{"~/a": "/home/me/a", "a/b": "a/b", "/x:/y": "/x:/y", "a:b": "a:b"},
        **{"C:/x": "C:/x", "runs/a:/b": "runs/a:/b"},
    }.items():
        assert str(local_path(text, "--x")) == expected


def test_a_user_without_a_home_folder_gets_a_private_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = cache_root()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    assert cache_root() == folder
    # Another user could have written programs into this folder.
    folder.chmod(0o777)
    assert cache_root() != folder


# devices ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda': x\ny")]
)
def test_a_missing_device_is_an_input_error(error, monkeypatch):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(InputError, match=r"^JAX_PLATFORMS=cpu: no device can be used \("):
        find_devices()


def test_a_platform_without_device_gives_a_one_line_error(tmp_path):
    flags = ["--config=configs/quickstart.py", f"--workdir={tmp_path / 'run'}"]
    run = command("train.py", *flags, JAX_PLATFORMS="cuda")
    _, err = run.communicate(timeout=300)
    assert run.returncode == 1
    assert re.fullmatch(r"error: JAX_PLATFORMS=cuda: no device can be used \(.*\n", err)


def test_warnings_of_jax_are_shown(monkeypatch, capsys):
    loggers = [logging.getLogger(name) for name in ("eddsrn_jax", "jax")]
    states = [(x.handlers[:], x.level, x.propagate) for x in loggers]
    with warnings.catch_warnings():
        command_line._show_messages()
        try:
            logger = logging.getLogger("jax._src.xla_bridge")
            logger.warning("An NVIDIA GPU may be present on this machine")
        finally:
            for x, (handlers, level, propagate) in zip(loggers, states, strict=True):
                x.handlers[:], x.level, x.propagate = handlers, level, propagate
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d An NVIDIA GPU may be present on this machine\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(
    "code, ends_here", [(0, False), (1, False), (130, True), (143, True)]
)
def test_an_interrupted_command_does_not_wait_for_its_threads(
    code, ends_here, monkeypatch
):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    assert command_line._leave(code) == code
    assert ended == [code] * ends_here
