"""Setup that all commands share: cache, messages, one-line errors, signals."""

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
    """Returns the user's cache folder for this project."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "eddsrn_jax"


def enable_compilation_cache(folder: Path | None = None) -> None:
    """Keeps compiled programs between runs, where that is possible.

    The folder's name contains jaxlib's version and a hash of the processor's features: a
    cache shared between versions or processors is reported to crash. The environment
    variable JAX_COMPILATION_CACHE_DIR takes precedence.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    # Before 0.11, jaxlib rejects its own cached CPU programs with long messages (jax
    # issue 38445).
    if jaxlib.version.__version_info__ < (0, 11):
        return
    name = f"jaxlib-{jaxlib.__version__}-{_processor()}"
    folder = (folder or cache_root() / "xla") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("no compilation cache: %s", error)
        return
    # XLA cannot cache programs that use oneDNN ("MemoryError: std::bad_alloc").
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _processor() -> str:
    """Returns a short hash of the processor's instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        features = platform.processor()
    return hashlib.sha256(features.encode()).hexdigest()[:8]


# GPUs and TPUs ignore these flags. On CPUs, this one disables one way of lowering
# convolutions. A training step then takes 0.8 times as long.
_XLA_FLAGS = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
# oneDNN computes convolutions and large matrix products, Eigen those that oneDNN leaves.
_XLA_FLAGS_X86 = (
    f"{_XLA_FLAGS},-individual_dot,-dot --xla_cpu_experimental_onednn_custom_call=true"
)
# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def set_xla_flags() -> None:
    """Sets XLA flags that speed up CPUs, unless the user has set XLA_FLAGS.

    It must be called before JAX starts. On x86 the flags turn on oneDNN. On two cores of
    an Intel Xeon with AVX-512, a training step of the lite network then takes 0.83 times
    as long, in bfloat16 half as long, and restoring takes 0.5 times as long. XLA cannot
    cache these programs between runs: train.py takes 14 seconds to start, 1 to 3 seconds
    more than with the cache.
    """
    if "XLA_FLAGS" in os.environ:
        return
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ["XLA_FLAGS"] = _XLA_FLAGS_X86
        _keep_freed_memory()
    else:
        os.environ["XLA_FLAGS"] = _XLA_FLAGS


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


def make_folder(folder: Path, name: str) -> None:
    """Makes a folder if it is absent.

    Args:
        folder: path of the folder.
        name: flag or config value that names the folder, for the error message.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{name}={folder}: cannot be made a folder ({error.strerror})"
        ) from error


class _AroundProgressBars(logging.Handler):
    """A logging handler that writes to stderr without breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def _show_messages() -> None:
    """Shows the log messages of this package, but not those of its libraries."""
    # Orbax logs long messages, from its threads, about errors that it raises later.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _show_unraisable
    # These warnings are about broken EXIF data and do not name the file. Restoring
    # collects them and names it.
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
    """Shows an unraisable exception, unless it comes from orbax's abandoned I/O.

    When one of many reads or writes fails, orbax does not wait for the others. Nothing is
    left to receive the errors that tensorstore reports for them.
    """
    code = getattr(unraisable.object, "cr_code", None)
    of_orbax = code and f"{os.sep}orbax{os.sep}" in code.co_filename
    if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def run_command(
    main: Callable[..., int | None], *, takes_arguments: bool = False
) -> None:
    """Runs a command's main function: logging, cache, one-line errors, exit code.

    An error that the user can fix ends the command with one line on stderr. The exit code
    is then 1, or 2 if the flags or arguments are wrong. Any other error is a defect, and
    its traceback is shown.

    Args:
        main: main function; returns the exit code, or None for 0.
        takes_arguments: whether to call `main` with the list of arguments after the
            flags; if False, such arguments are an error.
    """

    def guarded(argv: list[str]) -> int | None:
        _show_messages()
        set_xla_flags()
        enable_compilation_cache()
        # SIGTERM unwinds the stack, as Ctrl-C does, so that no temporary file is left.
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
    """Returns the exit code; in a multi-process run, exits immediately instead.

    A normal exit would wait for the other processes.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        os._exit(code)
    return code


def _show_error(error: object) -> None:
    print(f"error: {error}", file=sys.stderr)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags with absl; shows errors of absl and ml_collections in one line."""
    try:
        arguments = flags.FLAGS(argv)
        for name, value in flags.FLAGS.flag_values_dict().items():
            # The bounds of a flag do not exclude NaN.
            if isinstance(value, float) and math.isnan(value):
                raise flags.Error(f"flag --{name}={value}: expected a number")
        return arguments
    except (SystemExit, BrokenPipeError):
        # --help exits here; the reader of its output may have closed the pipe.
        sys.exit(0)
    except flags.Error as error:
        # The message about an error in a config file contains the whole traceback; its
        # last line is the error.
        flag, traced, traceback = str(error).partition("Error whilst parsing config")
        message = flag + traceback.splitlines()[-1] if traced else flag
        _show_error(" ".join(message.split()))
    except Exception as error:
        # Parsing the flags runs the config file and sets its values, so any exception
        # can occur.
        reason = error
        while isinstance(reason, Exception) and reason.args:
            reason = reason.args[0]
        _show_error(f"--config: {'. '.join(str(reason).splitlines())}{_place(error)}")
    sys.exit(2)


def _place(error: Exception) -> str:
    """Returns where in a config file an error was raised; empty if it was elsewhere."""
    frames = traceback.extract_tb(error.__traceback__)
    *_, last = (x for x in frames if not re.search("^<|site-packages", x.filename))
    return "" if last.filename == __file__ else f" ({last.filename}, line {last.lineno})"


class StopSignal:
    """Remembers SIGTERM or SIGINT, so that a run stops after a step, not within it.

    A second signal takes effect immediately, as without this class. The run also stops
    when `max_minutes` have passed. If one of several processes has to stop, all stop
    after the same step.

    Attributes:
        received: the signal that this process received, or None. In a multi-process run,
            reaching `max_minutes` counts as SIGTERM.
    """

    def __init__(self, max_minutes: float = math.inf):
        self._max_minutes = max_minutes

    def reason(self, step: int, together: int = 1) -> str | None:
        """Returns why the run has to stop after this step, or None if it goes on.

        Args:
            step: number of steps done.
            together: number of steps since the last call.
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
        """Returns whether any process received a signal; all processes must call it."""
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
