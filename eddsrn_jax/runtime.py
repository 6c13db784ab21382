"""What a command needs around it: cache, messages, one-line errors, signals."""

import ctypes
import hashlib
import logging
import math
import os
import platform
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jaxlib
from absl import app, flags
from absl import logging as absl_logging
from tqdm import tqdm

from eddsrn_jax import parallel
from eddsrn_jax.errors import InputError, UsageError

_log = logging.getLogger(__name__)


def cache_root() -> Path:
    """The user's cache folder of this project."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "eddsrn_jax"


def enable_compilation_cache(folder: Path | None = None) -> None:
    """Keeps compiled programs between runs; without it where that is not possible.

    The folder's name has jaxlib's version and the processor's features in it: a cache
    shared between either is reported to crash. JAX_COMPILATION_CACHE_DIR goes first.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    # Before 0.11 it refuses what it kept for CPUs, at length (jax issue 38445).
    if jaxlib.version.__version_info__ < (0, 11):
        return
    name = f"jaxlib-{jaxlib.__version__}-{_processor()}"
    folder = (folder or cache_root() / "xla") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("no compilation cache: %s", error)
        return
    # XLA cannot write programs with oneDNN in them ("MemoryError: std::bad_alloc").
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _processor() -> str:
    """A short name for the processor's instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        features = platform.processor()
    return hashlib.sha256(features.encode()).hexdigest()[:8]


# GPUs and TPUs read none of these. One way of lowering convolutions on CPUs less: a step
# of training takes 0.8 times as long.
_XLA_FLAGS = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
# Convolutions and large matrix products by oneDNN, what that leaves by Eigen.
_XLA_FLAGS_X86 = (
    f"{_XLA_FLAGS},-individual_dot,-dot --xla_cpu_experimental_onednn_custom_call=true"
)
# Of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def set_xla_flags() -> None:
    """Sets the XLA flags that help, unless the user has set some; before JAX's start.

    On x86 they have oneDNN compute. On two cores of an Intel Xeon with AVX-512 a training
    step of the lite network takes 0.83 times as long with it, in bfloat16 half, and
    restoring 0.5 times. XLA does not keep such programs between runs: a run of train.py
    starts 1 to 3 seconds later, after 14.
    """
    if "XLA_FLAGS" in os.environ:
        return
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ["XLA_FLAGS"] = _XLA_FLAGS_X86
        _keep_freed_memory()
    else:
        os.environ["XLA_FLAGS"] = _XLA_FLAGS


def _keep_freed_memory() -> None:
    """Lets the process keep what it frees: a step then finds its memory mapped already.

    By default glibc gives every large buffer back, and the kernel clears its pages anew
    each step: 0.9 times the time without that, with oneDNN. Elsewhere than on glibc
    nothing is done.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        # Buffers of any size come from the one heap, which is never cut back.
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_ARENA_MAX, 1)


def make_folder(folder: Path, name: str) -> None:
    """Makes a folder, where absent, that a flag or config value names.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{name}={folder}: cannot be made a folder ({error.strerror})"
        ) from error


class _AroundProgressBars(logging.Handler):
    """Writes to stderr without breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def _show_messages() -> None:
    """Shows the messages of this package, not those of its libraries."""
    # Orbax says at length, from its threads, what it raises later.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _show_unraisable
    # Of broken EXIF data, without the file's name; restoring collects and names them.
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"PIL\.|eddsrn_jax\.images"
    )
    handler = _AroundProgressBars()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("eddsrn_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _show_unraisable(unraisable: Any) -> None:
    """As Python does, without what becomes of orbax's reads and writes that are left.

    After the first of many that fails orbax waits for no other, and what tensorstore says
    of them finds nobody.
    """
    code = getattr(unraisable.object, "cr_code", None)
    of_orbax = code and f"{os.sep}orbax{os.sep}" in code.co_filename
    if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def run_command(
    main: Callable[..., int | None], *, takes_arguments: bool = False
) -> None:
    """Runs a command's main function: logging, cache, one-line errors, exit code.

    What the user can mend ends in one line on stderr and exit code 1, or 2 where the
    command's flags and arguments are wrong; anything else is a defect and shows its
    traceback.

    Args:
        main: returns the exit code, or None for 0.
        takes_arguments: whether `main` is called with what follows the flags, a list;
            where not, such arguments are refused.
    """

    def guarded(argv: list[str]) -> int | None:
        _show_messages()
        set_xla_flags()
        enable_compilation_cache()
        # As Ctrl-C does: unwinds, so that no temporary file is left behind.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            if takes_arguments:
                return main(argv[1:])
            if len(argv) > 1:
                raise UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
            return main()
        except (InputError, OSError, FloatingPointError) as error:
            _show_error(error)
            return _leave(2 if isinstance(error, UsageError) else 1)
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            if not parallel.lost_another(error):
                raise
            first, *_ = str(error).splitlines()
            _show_error(f"another process of this run has ended, or is not seen: {first}")
            return _leave(1)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return _leave(128 + signal.SIGINT)
        except SystemExit as error:
            return _leave(error.code)

    app.run(guarded, flags_parser=_parse_flags)


def _leave(code: int) -> int:
    """Of several processes ends this one, without waiting for others as at the end."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        os._exit(code)
    return code


def _show_error(error: object) -> None:
    print(f"error: {error}", file=sys.stderr)


def _parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one line for what it and ml_collections say at length."""
    try:
        arguments = flags.FLAGS(argv)
        for name, value in flags.FLAGS.flag_values_dict().items():
            # Which no bound keeps out.
            if isinstance(value, float) and math.isnan(value):
                raise flags.Error(f"flag --{name}={value}: expected a number")
        return arguments
    except (SystemExit, BrokenPipeError):
        # After --help; its reader may have seen enough.
        sys.exit(0)
    except flags.Error as error:
        # What a config's file raised comes with all its traceback before it.
        flag, traced, traceback = str(error).partition("Error whilst parsing config")
        message = flag + traceback.splitlines()[-1] if traced else flag
        _show_error(" ".join(message.split()))
    except Exception as error:
        # While flags are parsed the config's file is run, and its values are set.
        reason = error
        while isinstance(reason, Exception) and reason.args:
            reason = reason.args[0]
        _show_error(f"--config: {'. '.join(str(reason).splitlines())}{_place(error)}")
    sys.exit(2)


def _place(error: Exception) -> str:
    """The line of a config's file that an error comes from, if one does."""
    frames = traceback.extract_tb(error.__traceback__)
    *_, last = (x for x in frames if not re.search("^<|site-packages", x.filename))
    return "" if last.filename == __file__ else f" ({last.filename}, line {last.lineno})"


class StopSignal:
    """Remembers SIGTERM or SIGINT, so that a run ends after its step, not within it.

    A second signal acts at once, as it would have without this. So many minutes that have
    passed are a reason to end too. Where there are several processes, a reason in one of
    them ends all after the same step.

    Attributes:
        received: the signal, if there was one.
    """

    def __init__(self, max_minutes: float = math.inf):
        self._max_minutes = max_minutes

    def reason(self, step: int, together: int = 1) -> str | None:
        """Why a run is to end after this step; None if not.

        Args:
            step: done.
            together: so many were since this was asked last.
        """
        late = time.monotonic() - self._start > 60 * self._max_minutes
        if jax.process_count() == 1:
            if self.received:
                return self.received.name
            return f"{self._max_minutes:g} minutes have passed" if late else None
        if late and not self.received:
            self._receive(signal.SIGTERM, None)
        steps = range(step - together + 1, step + 1)
        if any([parallel.told_to_end(i) for i in steps]):
            return self.received.name if self.received else "SIGTERM in another process"
        return None

    def received_by_any(self) -> bool:
        """Whether any process has received one; all processes must ask, and wait."""
        return any(parallel.gather(self.received is not None))

    def __enter__(self) -> "StopSignal":
        self._start = time.monotonic()
        self.received: signal.Signals | None = None
        self._previous = {
            number: signal.signal(number, self._receive)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def _receive(self, number: int, _: object) -> None:
        self.received = signal.Signals(number)
        self._restore()
        if jax.process_count() > 1:
            parallel.tell_to_end()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._restore()
