"""The command doctor: what it reports, and that it runs where libraries are missing."""

import os
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from processes import python

import eddsrn_jax
from eddsrn_jax.commands import doctor


def test_doctor_names_the_packages_that_each_command_lacks(monkeypatch):
    for module in ("gradio", "tensorboardX"):
        monkeypatch.setitem(sys.modules, module, None)
    expected = 'train: tensorboardX missing; run pip install "eddsrn_jax[train]"'
    assert doctor.describe_command("train") == expected
    assert doctor.describe_command("demo").startswith("demo: gradio")
    assert doctor.describe_command("demo").endswith('pip install "eddsrn_jax[demo]"')
    assert doctor.describe_command("evaluate") == "evaluate: ready"


def test_doctor_reports_versions_devices_and_a_restored_picture(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "eddsrn_jax").mkdir()
    (tmp_path / "eddsrn_jax" / "pack").write_bytes(bytes(1_500_000))
    assert doctor.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"eddsrn_jax {eddsrn_jax.__version__} in ")
    versions = f"jax {jax.__version__}", f"numpy {np.__version__}"
    # The distribution's version may have one more number than the module's.
    assert all(version in lines[2] for version in versions)
    assert [line.startswith("device: cpu (") for line in lines].count(True) == 8
    assert f"cache folder: {tmp_path / 'eddsrn_jax'} (1.5 MB)" in lines
    assert any(line.startswith("restore: ready (tried in ") for line in lines)


@pytest.mark.parametrize("module", ["jax", "imagecodecs"])
def test_doctor_fails_if_restoring_lacks_a_package(module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert doctor.main() == 1
    problem = f"({module} missing; run pip install eddsrn_jax)"
    assert f"restore: does not work {problem}\n" in capsys.readouterr().out


def test_doctor_needs_no_package():
    run = python(
        "import sys\n"
        "for name in ('jax', 'flax', 'numpy', 'PIL', 'absl', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from eddsrn_jax.commands import doctor\n"
        "sys.exit(doctor.main())"
    )
    out, err = run.communicate(timeout=300)
    assert run.returncode == 1 and not err
    assert "restore: does not work (jax, flax, numpy, scipy, PIL, absl missing" in out


def test_doctor_fails_if_restoring_raises(monkeypatch, capsys):
    from eddsrn_jax.restoration.restorer import Restorer

    def broken():
        raise RuntimeError("no device")

    monkeypatch.setattr(Restorer, "from_pretrained", broken)
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "restore: does not work (RuntimeError: no device)\n" in out


def test_doctor_finds_a_cache_folder_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    *_, line = doctor.describe()
    assert line.endswith(
        "not made yet, cannot be written; set XDG_CACHE_HOME to another folder)"
    )


def test_doctor_reports_a_cache_folder_that_cannot_be_read(monkeypatch):
    def exists(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(doctor.Path, "exists", exists)
    *_, line = doctor.describe()
    assert "(cannot be read: Permission denied; set XDG_CACHE_HOME to" in line


def test_doctor_reports_that_no_device_can_be_used(monkeypatch, capsys):
    # JAX raises this without a message if JAX_PLATFORMS names a device that is absent.
    monkeypatch.setattr(jax, "devices", mock.Mock(side_effect=AssertionError))
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "devices: JAX_PLATFORMS=" in out
    assert "restore: does not work (InputError: JAX_PLATFORMS=" in out
    assert "no device can be used (none is found)" in out
