"""Settings of XLA: flags and threads on CPUs, memory on GPUs, compiled programs."""

import ctypes
import hashlib
import logging
import os
import platform
import re
import warnings
from pathlib import Path

import jax
import jaxlib
from jax.experimental.compilation_cache import compilation_cache

from eddsrn_jax.files import cache_root
from eddsrn_jax.machine import available_cores, container_cores, find_devices

_log = logging.getLogger(__name__)

# Programs that compile in less than this many seconds are not cached.
_SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def enable_compilation_cache() -> None:
    """Keeps compiled programs between runs, where that is possible.

    The folder's name contains jaxlib's version and a hash of the processor's features: a
    cache shared between versions or processors is reported to crash. A folder that is
    already set, as by the environment variable JAX_COMPILATION_CACHE_DIR, takes
    precedence. Programs that use oneDNN cannot be kept, so on CPUs with oneDNN the cache
    is off, whatever folder is set.

    Raises:
        InputError: see `find_devices`.
    """
    on_cpu = find_devices()[0].platform == "cpu"
    if on_cpu and _USES_ONEDNN.search(os.environ.get("XLA_FLAGS", "")):
        # XLA would try to store the programs. That fails ("MemoryError: std::bad_alloc"),
        # or crashes the process, as on Python 3.14 with glibc 2.43.
        jax.config.update("jax_enable_compilation_cache", False)
        # Without this, JAX keeps a cache that an earlier compilation has opened.
        compilation_cache.reset_cache()
        return
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    # Before 0.11, jaxlib rejects its own cached programs on many CPUs, with long messages
    # (jax issue 38445).
    if on_cpu and jaxlib.version.__version_info__ < (0, 11):
        return
    features = _processor("flags", "Features")
    name = hashlib.sha256(features.encode()).hexdigest()[:8]
    name = f"jaxlib-{jaxlib.__version__}-{name}"
    try:
        folder = cache_root() / "xla" / name
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("compiled programs cannot be cached: %s", error)
        return
    # A program that another process is writing cannot be read yet.
    message = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", message)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if _SHORTEST not in os.environ:
        jax.config.update(_SHORTEST.lower(), 0.5)


def _processor(*fields: str) -> str:
    """Returns the first of these fields in Linux's description of the processor.

    Elsewhere it returns the processor's name.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(fields))
    except (OSError, StopIteration):
        return platform.processor()


_USES_ONEDNN = re.compile(r"onednn_custom_call(?!=(?:false|0)\b)", re.IGNORECASE)

# GPUs and TPUs ignore these flags. On CPUs, this one disables one way of lowering
# convolutions. A training step then takes 0.8 times as long.
_XLA_FLAGS = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
# oneDNN computes convolutions and large matrix products, Eigen those that oneDNN leaves.
_ONEDNN = "--xla_cpu_experimental_onednn_custom_call=true"
_XLA_FLAGS_X86 = f"{_XLA_FLAGS},-individual_dot,-dot {_ONEDNN}"
# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def set_xla_flags() -> None:
    """Sets XLA flags that speed up CPUs, unless the user has set XLA_FLAGS.

    It must be called before JAX starts. In a container with a CPU limit it also sets the
    number of XLA's threads, PJRT_NPROC. On x86 the flags turn on oneDNN. On two cores of
    an Intel Xeon with AVX-512, a training step of the lite network then takes 0.83 times
    as long, in bfloat16 half as long, and restoring takes 0.5 times as long. XLA cannot
    cache these programs between runs: train.py takes 14 seconds to start, 1 to 3 seconds
    more than with the cache.
    """
    # By default, XLA starts a thread for each core of the machine. A container that may
    # use one of two cores is then stopped for half the time, and restoring takes 1.15
    # times as long.
    if container_cores() and "NPROC" not in os.environ:
        os.environ.setdefault("PJRT_NPROC", str(available_cores()))
    if "XLA_FLAGS" in os.environ:
        return
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ["XLA_FLAGS"] = _XLA_FLAGS_X86
        _keep_freed_memory()
    else:
        os.environ["XLA_FLAGS"] = _XLA_FLAGS


def share_gpu_memory() -> None:
    """Lets the process take a GPU's memory as needed, unless the user has set how.

    It must be called before JAX starts. By default, JAX reserves three quarters of the
    memory of every GPU, so that no other process could use them.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _keep_freed_memory() -> None:
    """Lets the process keep freed memory, so that each step finds it mapped already.

    By default glibc returns every large buffer to the kernel, which clears its pages
    again in each step. With memory kept, a step with oneDNN takes 0.9 times as long. On
    other C libraries the function does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        # All buffers, however large, come from a single heap that never shrinks.
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_ARENA_MAX, 1)
