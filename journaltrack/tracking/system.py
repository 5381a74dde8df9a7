"""Record how busy machine, processes and GPUs are while a run goes on. Opt-in.

A thread looks every ten seconds, by psutil and NVIDIA's library, which the extra ``system``
installs. One look takes a millisecond or two, and one transaction. The points are local unless the
configuration says ``deliver``: they stay in the journal, and are never pending.

Invariants: nothing here raises into training or makes a call of it wait for a look. The thread ends
with ``stop`` and with the interpreter; a forked child has none. Must not know the tracker.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from journaltrack.errors import InvalidInputError, InvalidTypeError
from journaltrack.journal import vocabulary
from journaltrack.util import process

if TYPE_CHECKING:
    from journaltrack.tracking.trial_component import TrialComponent

logger = logging.getLogger(__name__)

EVERY_S: Final = 10.0
"""Ours: seconds between two looks by default."""
EVERY_MIN_S: Final = 0.1
_STOP_S: Final = 0.5
"""Ours: how long ``stop`` waits for a look that is under way. A driver may hang."""
_MACHINE, _GPU = "psutil", "pynvml"

Values = Iterator[tuple[str, float]]


def seconds_of(wanted: object, configured_s: float) -> float:
    """Return the seconds between two looks; 0 for none.

    Args:
        wanted: The caller's: a number of seconds, or True for the configured value, else 10.
        configured_s: The configured value.

    Raises:
        InvalidInputError: It is no possible number of seconds.
        InvalidTypeError: It is no number.
    """
    if wanted is True:
        return configured_s or EVERY_S
    if not isinstance(wanted, (int, float)):
        kind = type(wanted).__name__
        raise InvalidTypeError(f"system_metrics must be a bool or seconds, not {kind}")
    if wanted != 0 and not EVERY_MIN_S <= wanted < threading.TIMEOUT_MAX:
        raise InvalidInputError(
            f"system_metrics is {wanted}; it must be at least {EVERY_MIN_S} seconds",
            hint="True looks every 10 seconds, False never",
        )
    return float(wanted)


def missing() -> str | None:
    """Return what to tell if no system metrics can be read, or None."""
    if any(importlib.util.find_spec(name) is not None for name in (_MACHINE, _GPU)):
        return None
    return (
        "no system metrics are recorded: neither psutil nor nvidia-ml-py is installed; "
        "`pip install 'journaltrack[system]'` installs both"
    )


def _imported(name: str) -> Any:  # noqa: ANN401 - a module, or None
    try:
        return importlib.import_module(name)
    # Not installed, or broken.
    except Exception as error:  # noqa: BLE001 - what foreign code raises
        logger.info("some system metrics can't be read: %s", error)
        return None


class SystemMetrics:
    """Record system metrics of a run, from ``start`` to ``stop``.

    Args:
        component: The run's.
        every_s: Seconds between two looks.
        deliver: Record them like other metrics, which are delivered.
    """

    def __init__(self, component: TrialComponent, every_s: float, *, deliver: bool) -> None:
        self._component = component
        self._every_s = every_s
        self._deliver = deliver
        rank = process.rank()
        self._prefix = vocabulary.SYSTEM + (f"rank{rank}/" if rank is not None else "")
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to look. Returns at once."""
        if self._thread is None:
            # Not on the thread: a child that is forked meanwhile could import nothing.
            found = ((name, _imported(name)) for name in (_MACHINE, _GPU))
            libraries = {name: library for name, library in found if library is not None}
            self._ended = threading.Event()
            self._owner = os.getpid()
            self._thread = threading.Thread(
                target=self._run,
                args=(self._ended, libraries),
                name="journaltrack-system",
                daemon=True,
            )
            _running.add(self)
            # Without it the run has no such metrics.
            try:
                self._thread.start()
            except RuntimeError:
                logger.warning("no system metrics are recorded: no thread can be started")

    def stop(self) -> None:
        """End. A look that is under way may end later."""
        thread, self._thread = self._thread, None
        if thread is not None and self._owner == os.getpid():
            self._ended.set()
            _running.discard(self)
            if thread.ident is not None:
                thread.join(_STOP_S)

    def _run(self, ended: threading.Event, libraries: dict[str, Any]) -> None:
        sources: list[Callable[[], Values]] = []
        folder = os.fspath(self._component.journal.path)
        for name, library in libraries.items():
            try:
                made = _Gpus(library) if name == _GPU else _Machine(library, folder)
                sources.append(made.look)
            # No GPU, a driver of another version.
            except Exception as error:  # noqa: BLE001, PERF203 - what foreign code raises
                logger.info("some system metrics can't be read: %s", error)
        while sources:
            try:
                self._record(sources)
            except Exception:
                logger.debug("system metrics could not be recorded", exc_info=True)
            if ended.wait(self._every_s):
                return

    def _record(self, sources: list[Callable[[], Values]]) -> None:
        drafts = []
        now_ns = time.time_ns()
        for look in sources:
            # What comes before an error counts.
            try:
                for name, value in look():
                    if value - value == 0:
                        drafts.append(self._draft(self._prefix + name, float(value), now_ns))
            except Exception as error:  # noqa: BLE001, PERF203 - what foreign code raises
                logger.debug("a system metric can't be read: %s", error)
        if drafts:
            self._component.journal.append(self._component.component_id, drafts)

    def _draft(self, name: str, value: float, now_ns: int) -> vocabulary.Draft:
        if self._deliver:
            return vocabulary.metric(name, value, None, now_ns)
        return vocabulary.local_metric(name, value, now_ns)


class _Machine:
    """Processors, memory, disks and network, and the share of this process and its children."""

    def __init__(self, psutil: Any, folder: str) -> None:  # noqa: ANN401 - optional
        self._psutil = psutil
        self._folder = folder
        self._root = self._psutil.Process()
        self._processes: dict[int, Any] = {}
        self._before: dict[str, tuple[float, float]] = {}
        # The first answers say nothing: they are about the time since the last question.
        self._psutil.cpu_percent(None)
        self._tree()

    def look(self) -> Values:
        """Yield names and values."""
        library = self._psutil
        yield "cpu_percent", library.cpu_percent(None)
        memory = library.virtual_memory()
        yield "memory_percent", memory.percent
        yield "memory_used_bytes", memory.used
        busy, resident = self._tree()
        yield "process_cpu_percent", busy
        yield "process_memory_bytes", resident
        yield "disk_used_percent", library.disk_usage(self._folder).percent
        for what, counters, names in (
            ("disk", library.disk_io_counters(), ("read", "write")),
            ("network", library.net_io_counters(), ("sent", "recv")),
        ):
            # None in some containers.
            for name in names if counters is not None else ():
                member = f"{name}_bytes" if what == "disk" else f"bytes_{name}"
                yield from self._rate(f"{what}_{name}_bytes_per_s", getattr(counters, member))

    def _rate(self, name: str, count: float) -> Values:
        now = time.monotonic()
        before, at = self._before.get(name, (count, now))
        self._before[name] = (count, now)
        # A counter of 32 bits begins anew.
        if now > at and count >= before:
            yield name, (count - before) / (now - at)

    def _tree(self) -> tuple[float, float]:
        """Return the processors' share (100: one core) and the memory of all processes."""
        found = {
            each.pid: self._processes.get(each.pid, each)
            for each in (self._root, *self._root.children(recursive=True))
        }
        self._processes = found
        busy = resident = 0.0
        for each in found.values():
            # It has ended meanwhile.
            try:
                busy += each.cpu_percent(None)
                resident += each.memory_info().rss
            except self._psutil.Error:  # noqa: PERF203 - a question takes longer
                continue
        return busy, resident


class _Gpus:
    """NVIDIA's GPUs of the machine."""

    def __init__(self, nvml: Any) -> None:  # noqa: ANN401 - optional
        self._nvml = nvml
        self._nvml.nvmlInit()
        count = self._nvml.nvmlDeviceGetCount()
        self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(n) for n in range(count)]

    def look(self) -> Values:
        """Yield names and values. What a GPU does not tell is left out."""
        nvml = self._nvml
        for number, handle in enumerate(self._handles):
            for ask in (self._use, self._memory, self._power, self._temperature):
                try:
                    for name, value in ask(handle):
                        yield f"gpu{number}_{name}", value
                # Some models and virtual GPUs do not support all.
                except nvml.NVMLError:  # noqa: PERF203 - a question takes longer
                    continue

    def _use(self, handle: object) -> Values:
        yield "percent", self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu

    def _memory(self, handle: object) -> Values:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        yield "memory_used_bytes", memory.used
        yield "memory_percent", 100.0 * memory.used / memory.total

    def _power(self, handle: object) -> Values:
        # It tells milliwatts.
        yield "power_watts", self._nvml.nvmlDeviceGetPowerUsage(handle) / 1e3

    def _temperature(self, handle: object) -> Values:
        kind = self._nvml.NVML_TEMPERATURE_GPU
        yield "temperature_celsius", self._nvml.nvmlDeviceGetTemperature(handle, kind)


_running: weakref.WeakSet[SystemMetrics] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    """End before the interpreter does: a thread must not be in the journal then."""
    for each in list(_running):
        each.stop()
