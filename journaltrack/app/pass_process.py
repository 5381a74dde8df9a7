"""Passes in a process of their own, for a training process: replaying there costs training neither time nor its interpreter lock.

The parent writes a line of JSON per request to the child's stdin and reads a line per answer from its stdout. The child
ends with its stdin, after finishing and recording what is in flight: when the parent is killed, nothing of its requests
stays unknown. Credentials reach it through the environment and the files that boto3 reads, never through the pipe.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from journaltrack import errors
from journaltrack.errors import ErrorKind, JournalError, JournaltrackError, RemoteError
from journaltrack.replay.pass_report import PassReport, Position, error_from_json, error_to_json
from journaltrack.util.deadline import Deadline
from journaltrack.watch.journal import Delivery, DeliveryRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

ORPHANED_GRACE_S: Final = 20.0
"""How long a child whose parent is gone waits for answers to what is in flight."""
TERMINATED_GRACE_S: Final = 5.0
"""... and one that is asked to end (SIGTERM): whoever stops a machine kills what is there after ten seconds or more."""
_LOOK_EVERY_S: Final = 0.25
_START: Final = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from journaltrack.app.pass_process import main; main()"
_ENVIRONMENT: Final = ("AWS_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "JOURNALTRACK_", "SAGEMAKER_")


class PassProcess:
    """Makes passes in a child, started when it is needed. Threads may share it; one request is made at a time.

    Args:
        connection: ``profile``, ``region``, ``endpoint_url``, ``storage`` and ``allow`` (mappings), ``requests_per_s``, and
            ``options`` (of the passes) for the child.
    """

    def __init__(self, connection: Mapping[str, Any]) -> None:
        self._connection = dict(connection)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}
        self._pid = os.getpid()
        self._closed = False
        _processes.add(self)

    def deliver(self, request: DeliveryRequest, component: str | None = None) -> Delivery:
        """What ``composition.deliver`` does, in the child.

        Args:
            request: What to do; cancelling its deadline ends the pass.
            component: Deliver this one only.

        Raises:
            JournalError: As ``composition.deliver``; also when the child ended, or was busy until the deadline.
        """
        asked = {
            "do": "deliver",
            "journal": str(request.journal),
            "deadline_s": None if request.deadline.remaining_s() == float("inf") else request.deadline.remaining_s(),
            "unless": request.unless,
            "arriving": request.arriving,
            "preflight": request.preflight,
            "look_only": request.look_only,
            "component": component,
        }
        answer = self._ask(asked, request.deadline)
        report = None if answer["report"] is None else PassReport.from_json(answer["report"])
        position = None if answer["position"] is None else Position(*answer["position"])
        return Delivery(answer["pending"], position, report, answer["missing_blobs"])

    def probe(self) -> RemoteError | None:
        """What ``composition.probe`` does, in the child."""
        try:
            return error_from_json(self._ask({"do": "probe"}, Deadline())["error_of_probe"])
        except JournalError as error:
            return RemoteError(error.message, kind=ErrorKind.TRANSIENT, code="ProcessEnded", hint=error.hint)

    def close(self, grace_s: float) -> None:
        """Let the child end, and wait for that so long; one that still awaits an answer records it and ends by itself."""
        self._closed = True
        child, self._child = self._child, None
        if child is None or self._pid != os.getpid():
            return
        _close(child.stdin)
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            _reap(child)
        _close(child.stdout)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _ask(self, asked: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        left_s = deadline.remaining_s()
        if not self._lock.acquire(timeout=-1 if left_s == float("inf") else left_s):
            raise JournalError("another pass was still running when the time was over", hint="what is pending stays in the journal")
        try:
            answer = self._answer_of_child(asked, deadline)
        except (OSError, ValueError) as error:
            raise JournalError(
                f"the process that delivers in the background ended ({error})", hint="it is started again; nothing is lost"
            ) from error
        finally:
            self._lock.release()
        told = answer.get("error")
        if told is not None:
            known = getattr(errors, told["type"], JournalError)
            raise (known if issubclass(known, JournalError) else JournalError)(told["message"], hint=told["hint"])
        return answer

    def _answer_of_child(self, asked: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        """What the child answers; one that ended, perhaps because somebody asked it to, is replaced once."""
        try:
            return self._asked_once(asked, deadline)
        except (OSError, ValueError):
            if deadline.over or self._closed:
                raise
        return self._asked_once(asked, deadline)

    def _asked_once(self, asked: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        child = self._started()
        try:
            _write(child.stdin, asked)
            return self._answer(child, deadline)
        except (OSError, ValueError):
            self._forget()
            raise

    def _answer(self, child: subprocess.Popen[bytes], deadline: Deadline) -> dict[str, Any]:
        assert child.stdout is not None  # noqa: S101 - it was asked for
        cancelled = False
        line = b""
        ready = select.poll()  # not select(), which knows no descriptor beyond 1,023
        ready.register(child.stdout, select.POLLIN)
        while not line.endswith(b"\n"):
            if ready.poll(_LOOK_EVERY_S * 1000):
                block = os.read(child.stdout.fileno(), 65_536)
                if not block:
                    msg = f"exit code {child.wait()}"
                    raise ValueError(msg)
                line += block
            elif deadline.over and not cancelled:
                cancelled = True
                _write(child.stdin, {"do": "cancel", "grace_s": deadline.grace_remaining_s()})
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if name.upper().startswith(_ENVIRONMENT)}
        if self._child is not None and (self._child.poll() is not None or environment != self._environment):
            self._forget()  # credentials in the environment changed: the child must see them
        if self._child is None:
            self._environment = environment
            # Without buffers there is nothing in them at a fork, and no lock of theirs.
            self._child = subprocess.Popen(  # noqa: S603 - this interpreter, and code of ours
                [sys.executable, "-c", _START, json.dumps(_import_path())], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            _write(self._child.stdin, self._connection)
        return self._child

    def _forget(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            _close(child.stdin)
            _close(child.stdout)
            if child.poll() is None:
                child.kill()
                _reap(child)

    def _after_fork_in_child(self) -> None:
        # The ends of the pipes are the parent's: held open here, they would keep its helper alive after it is gone.
        child, self._child = self._child, None
        self._lock = threading.Lock()
        if child is not None:
            for pipe in (child.stdin, child.stdout):
                _close(pipe)
            _left_behind.append(child)


_processes: weakref.WeakSet[PassProcess] = weakref.WeakSet()
_left_behind: list[object] = []  # in a forked child, the parent's processes, which are not its own to wait for


def _forked() -> None:
    for process in list(_processes):
        process._after_fork_in_child()  # noqa: SLF001 - this module's own
    _processes.clear()


os.register_at_fork(after_in_child=_forked)


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Wait for its end beside everything else: no zombie is left, and nobody waits for a disk on which it hangs."""
    threading.Thread(target=child.wait, name="journaltrack-reaper", daemon=True).start()


def _import_path() -> list[str]:
    """``sys.path`` as the import system reads it: text, and (programs put them there) paths that are objects."""
    return [os.fsdecode(each) for each in sys.path if isinstance(each, (str, bytes, os.PathLike))]


def _write(pipe: IO[bytes] | None, value: Mapping[str, Any]) -> None:
    assert pipe is not None  # noqa: S101 - it was asked for
    pipe.write(json.dumps(value).encode() + b"\n")


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except OSError:  # already closed on the other side
        pass


# -- the child --------------------------------------------------------------------------------------------------------


def main() -> None:
    """The child: answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal goes to every process: the parent decides
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing that a library prints is an answer
    requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    current: list[Deadline] = []
    ended = threading.Event()

    def read() -> None:
        for line in os.fdopen(0, "rb", buffering=0):  # a buffer's lock, held while it waits, would be fatal at the end of the interpreter
            request = json.loads(line)
            if request.get("do") == "cancel":
                for deadline in tuple(current):
                    deadline.cancel(grace_s=request["grace_s"])
            else:
                requests.put(request)
        end(ORPHANED_GRACE_S)

    def end(grace_s: float) -> None:
        ended.set()
        requests.put(None)
        for deadline in tuple(current):
            deadline.cancel(grace_s=grace_s)

    signal.signal(signal.SIGTERM, lambda *_: end(TERMINATED_GRACE_S))
    threading.Thread(target=read, name="journaltrack-requests", daemon=True).start()
    connection = requests.get()
    while connection is not None and (request := requests.get()) is not None:
        deadline = Deadline(request.get("deadline_s"))
        current[:] = [deadline]
        if ended.is_set():
            return
        answer = _answered(request, connection, deadline)
        current.clear()
        try:
            answers.write(json.dumps(answer).encode() + b"\n")
        except OSError:
            return  # nobody is there to read it; the journal has it all


def _answered(request: dict[str, Any], known: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
    from journaltrack.app import composition  # noqa: PLC0415 - the parent imports this module, too, and needs none of it
    from journaltrack.remotes.rate_limit import RateLimit  # noqa: PLC0415
    from journaltrack.replay.reconciler import Options  # noqa: PLC0415
    from journaltrack.util.config import AllowConfiguration, Storage  # noqa: PLC0415

    if not _limit:
        _limit.append(RateLimit(known["requests_per_s"]))
    connection = composition.Connection(
        profile=known["profile"],
        region=known["region"],
        endpoint_url=known["endpoint_url"],
        rate_limit=_limit[0],
        storage=Storage(**known["storage"]),
        allow=AllowConfiguration(**known["allow"]),
    )
    if request["do"] == "probe":
        return {"error_of_probe": error_to_json(composition.probe(connection))}
    asked = DeliveryRequest(
        Path(request["journal"]),
        deadline,
        unless=None if request["unless"] is None else Position(*request["unless"]),
        arriving=request["arriving"],
        preflight=request["preflight"],
        look_only=request["look_only"],
    )
    options = Options(request["component"], wait_for_lease=request["component"] is not None, **known["options"])
    try:
        delivery = composition.deliver(asked, connection, options)
    except JournaltrackError as error:
        return {"error": {"type": type(error).__name__, "message": error.message, "hint": error.hint}}
    report = delivery.report
    return {
        "pending": delivery.pending,
        "position": delivery.position,
        "report": None if report is None else report.to_json(),
        "missing_blobs": delivery.missing_blobs,
    }


_limit: list[Any] = []
