"""The machine's memory and cores, XLA's flags, and its cache of programs."""

import os
from unittest import mock

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from eddsrn_jax import compiler, machine
from eddsrn_jax.machine import device_memory


def test_memory_of_a_cpu_is_that_of_the_machine_or_container(monkeypatch, tmp_path):
    limits = tmp_path / "memory.max", tmp_path / "absent"
    monkeypatch.setattr(machine, "CONTAINER_LIMITS", limits)
    for text, expected in (("2000000000\n", 2e9), ("max\n", None)):
        limits[0].write_text(text)
        if expected:
            assert device_memory(jax.local_devices()[0]) == expected
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert device_memory(jax.local_devices()[0]) == pytest.approx(pages, rel=0.01)


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, None),
        ({"quota": "400000\n", "period": "100000\n"}, 4),
        ({"cpu.max": "1600000 100000\n"}, 16),
        ({"quota": "-1\n", "period": "100000\n"}, None),
        ({"quota": "400000\n"}, None),
        ({"cpu.max": "\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_limit_of_cores_bounds_all_threads(
    monkeypatch, tmp_path, files, expected
):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = (tmp_path / "cpu.max",), (tmp_path / "quota", tmp_path / "period")
    monkeypatch.setattr(machine, "CONTAINER_QUOTAS", paths)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(compiler, "_keep_freed_memory", lambda: None)
    monkeypatch.setenv("XLA_FLAGS", "")
    assert machine.container_cores() == expected
    cores = min(expected or 8, 8)
    assert machine.usable_cores() == cores
    for name, given in (("PJRT_NPROC", None), ("PJRT_NPROC", "3"), ("NPROC", "5")):
        limit = None if name == "NPROC" else given or (expected and str(cores))
        with mock.patch.dict(os.environ):
            for variable in ("PJRT_NPROC", "NPROC"):
                os.environ.pop(variable, None)
            if given:
                os.environ[name] = given
            compiler.set_xla_flags()
            assert os.environ.get("PJRT_NPROC") == limit


@pytest.mark.parametrize(
    "message, expected",
    [
        ("RESOURCE_EXHAUSTED: 7 bytes", True),
        ("INTERNAL: Failed to load: CUDA_ERROR_OUT_OF_MEMORY: out of memory", True),
        ("INTERNAL: CUDNN_STATUS_ALLOC_FAILED", True),
        ("INTERNAL: a device failed", False),
    ],
)
def test_full_memory_is_told_from_other_errors(message, expected):
    assert machine.is_out_of_memory(RuntimeError(message)) == expected


def test_gpu_memory_is_shared_unless_the_user_has_decided(monkeypatch):
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.setenv(name, "true")
    compiler.share_gpu_memory()
    assert os.environ[name] == "true"
    monkeypatch.delenv(name)
    compiler.share_gpu_memory()
    assert os.environ.pop(name) == "false"


def test_threads_are_as_many_as_the_cores_that_may_be_used_up_to_16(monkeypatch):
    monkeypatch.setattr(machine, "CONTAINER_QUOTAS", ())
    for cores, expected in ((2, 2), (64, 16)):
        # Windows and macOS lack this function.
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False
        )
        assert machine.usable_cores() == expected


def test_xla_flags_are_set_unless_the_user_has_set_them(monkeypatch):
    monkeypatch.setattr(compiler, "_keep_freed_memory", lambda: None)
    monkeypatch.setattr(machine, "CONTAINER_QUOTAS", ())
    for given, expected in (("--a=1", "--a=1"), ("", "")):
        monkeypatch.setenv("XLA_FLAGS", given)
        compiler.set_xla_flags()
        assert os.environ["XLA_FLAGS"] == expected
    monkeypatch.delenv("XLA_FLAGS")
    compiler.set_xla_flags()
    assert "--xla_cpu_experimental_ynn_fusion_type=-ind" in os.environ["XLA_FLAGS"]


@pytest.mark.parametrize(
    "version, device, is_stored",
    [((0, 10, 1), "cpu", False), ((0, 10, 1), "gpu", True), ((0, 12, 0), "cpu", True)],
)
def test_no_program_of_a_cpu_is_stored_by_a_jaxlib_before_0_11(
    monkeypatch, tmp_path, version, device, is_stored
):
    # 2026-11: jaxlib 0.10.1 reads such programs with pages of error messages.
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(compiler, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(compiler.jaxlib.version, "__version_info__", version)
    found = mock.Mock(platform=device)
    monkeypatch.setattr(compiler, "find_devices", lambda: [found])
    folder = "jax_compilation_cache_dir"
    before = jax.config.values[folder]
    jax.config.update(folder, None)
    try:
        compiler.enable_compilation_cache()
        assert bool(jax.config.values[folder]) == is_stored
    finally:
        jax.config.update(folder, before)


@pytest.mark.parametrize("onednn", ["", "=true", "=1", "=false"])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_no_program_is_stored_with_onednn_even_if_a_cache_is_open(
    monkeypatch, tmp_path, onednn, device
):
    name, equals, _ = compiler._ONEDNN.partition("=")
    assert equals
    monkeypatch.setenv("XLA_FLAGS", f"--x=1 {name}{onednn} --y=2")
    found = mock.Mock(platform=device)
    monkeypatch.setattr(compiler, "find_devices", lambda: [found])
    is_stored = device == "gpu" or onednn == "=false"
    folder, shortest = "jax_compilation_cache_dir", compiler._SHORTEST.lower()
    before = jax.config.values[folder], jax.config.values[shortest]
    jax.config.update(folder, str(tmp_path))
    jax.config.update(shortest, 0.0)
    compilation_cache.reset_cache()
    try:
        jax.jit(lambda x: x * 3 + 1)(1.0)
        stored = sorted(tmp_path.iterdir())
        assert stored
        compiler.enable_compilation_cache()
        jax.jit(lambda x: x * 5 + 2)(1.0)
        assert (sorted(tmp_path.iterdir()) != stored) == is_stored
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update(folder, before[0])
        jax.config.update(shortest, before[1])
        compilation_cache.reset_cache()
