"""Python processes that start warm: forked from one that has imported the package.

Python, the package and boto3 take 0.15 to 0.5 s of a core to start; a fork takes 0.01 s. Such a
process is as real as any other: it has a pid, files, environment, folder and end of its own, and
dies of SIGKILL. Where the start itself is tested (what is imported, options of the interpreter,
variables that it reads), use ``subprocess``.

``Popen`` and ``run`` are those of ``subprocess``. What can't start warm starts cold: another
program, another interpreter's environment, a ``preexec_fn``.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
import warnings
import weakref
from importlib import import_module
from pathlib import Path

_AS_AT_START = ("PYTHON", "COVERAGE", "LC_", "LANG", "LD_", "SAGEMAKER_METRICS")
"""Variables that are read before a program begins, or when the package is imported."""
_UNUSED = (None, -1)
"""What Popen gives for options that were not given."""


class Popen(subprocess.Popen):
    """A process as of ``subprocess.Popen``; Python programs are forked from the nursery."""

    _status = None

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest):
        startup, _, shell, *pipes = rest[:9]
        p2cread, _, _, c2pwrite, _, errwrite = pipes
        _, gid, gids, uid, umask, new_session, *group = rest[9:]
        env = dict(os.environ if env is None else env)
        odd = (preexec_fn, *pass_fds, startup, shell or None, executable, gid, gids, uid, *group)
        command = [] if isinstance(args, str) else [os.fspath(each) for each in args]
        fits = _fits(command, env) and umask == -1 and all(each in _UNUSED for each in odd)
        if not fits:
            super()._execute_child(
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest
            )
            return
        files = [
            own if given == -1 else given for own, given in enumerate((p2cread, c2pwrite, errwrite))
        ]
        order = {"args": command[1:], "env": env, "cwd": os.fspath(cwd or os.getcwd())}
        self.pid, self._status = _nursery().start(order | {"session": bool(new_session)}, files)
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _internal_poll(self, *args, **kwargs):
        if self._status is None:
            return super()._internal_poll(*args, **kwargs)
        with self._waitpid_lock:
            if self.returncode is None and select.select([self._status], [], [], 0)[0]:
                self._handle_exitstatus(int(self._status.recv(16)))
                self._status.close()
        return self.returncode

    def _wait(self, timeout):
        if self._status is None:
            return super()._wait(timeout)
        if self.poll() is None:
            select.select([self._status], [], [], timeout)
            if self.poll() is None:
                raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode


def run(command, *, capture_output=False, timeout=None, check=False, **options):
    """Run a command to its end; as ``subprocess.run``."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **options) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


def preload(*modules):
    """Import these modules for programs that start from now on; a missing one is left out."""
    _nursery().preload(modules)


def _fits(command, env):
    """Whether a fork of the nursery does what a new interpreter would."""
    program = command[1] if command[:1] == [sys.executable] and len(command) > 1 else "-"
    known = program == "-c" or command[1:3] == ["-m", "journaltrack"] or program[0] != "-"
    # botocore looks for the caches of a profile when it is imported: in the home of that time.
    has_profile = env.get("HOME") != _HOME and os.path.exists(env.get("AWS_CONFIG_FILE", ""))
    return known and not has_profile and _read_at_start(env) == _AT_START


def _read_at_start(env):
    return {name: value for name, value in env.items() if name.startswith(_AS_AT_START)}


_AT_START, _HOME = _read_at_start(os.environ), os.environ.get("HOME")


class _Nursery:
    """The process that forks; it ends with this one."""

    def __init__(self):
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        command = [sys.executable, __file__, str(theirs.fileno())]
        read = _read_at_start(os.environ)
        env = {name: value for name, value in os.environ.items() if name not in read} | _AT_START
        env |= {} if _HOME is None else {"HOME": _HOME}
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env)
        weakref.finalize(self, self._end, self._control, self._process)

    def start(self, order, files):
        """Fork a child for an order; returns its pid, and what gives its status."""
        status, theirs = socket.socketpair()
        with theirs, self._lock:
            socket.send_fds(self._control, [json.dumps(order).encode()], [*files, theirs.fileno()])
            return int(self._control.recv(16)), status

    def preload(self, modules):
        """Let it import these, too."""
        with self._lock:
            self._control.send(json.dumps({"modules": modules}).encode())

    @staticmethod
    def _end(control, process):
        control.close()
        process.kill()  # a fork of this process may still have the socket
        process.wait()


_made = {}


def _nursery():
    """The nursery of this process; made when first needed."""
    with _making:
        if os.getpid() not in _made:
            _made[os.getpid()] = _Nursery()
        return _made[os.getpid()]


_making = threading.Lock()


# -- in the nursery and its children


def _import():
    """Import what commands and scripts do, and read botocore's models; nothing is opened."""
    import journaltrack

    root = Path(journaltrack.__file__).parents[1]
    sys.path.insert(0, str(root))
    from tests import shared_models

    sys.path.remove(str(root))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    shared_models.share()
    heavy = ("migrations", "integrations", "compat.mlflow", "fleet", "__main__")
    for module in pkgutil.walk_packages(journaltrack.__path__, "journaltrack."):
        if not any(f".{each}" in module.name for each in heavy):
            # Its extra may be missing here.
            with contextlib.suppress(ImportError):
                import_module(module.name)
    import boto3

    session = boto3.Session("a", "b", region_name="us-east-1")
    for service in ("sagemaker", "sagemaker-metrics", "s3", "sts"):
        session.client(service)


def _serve(control):
    """Fork a child for each order; returns the order in each child, and never in the nursery."""
    children = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == control.fileno():
                message, files, _, _ = socket.recv_fds(control, 1 << 20, 4)
                if not message:
                    os._exit(0)
                if not files:
                    for name in json.loads(message)["modules"]:
                        with contextlib.suppress(ImportError):
                            import_module(name)
                    continue
                with warnings.catch_warnings():
                    # Modules may have threads of their own. They are not in a child.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    child = os.fork()
                if child == 0:
                    return json.loads(message), files
                for file in files[:3]:
                    os.close(file)
                ended = os.pidfd_open(child)
                children[ended] = child, socket.socket(fileno=files[3])
                poll.register(ended, select.POLLIN)
                control.send(b"%d" % child)
            else:
                child, status = children.pop(descriptor)
                poll.unregister(descriptor)
                os.close(descriptor)
                code = os.waitpid(child, 0)[1]
                # Perhaps nobody waits for it.
                with status, contextlib.suppress(BrokenPipeError):
                    status.send(b"%d" % code)


def _become(order, files):
    """Be what a new interpreter is when it begins this program; returns its program."""
    if order["session"]:
        os.setsid()
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    os.closerange(3, 1 << 12)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    sys.orig_argv = [sys.executable, *order["args"]]
    sys.modules["__main__"] = types.ModuleType("__main__")
    return order["args"]


def _run(program):
    """Run a program as ``__main__``: ``-m``, ``-c`` or a file, and its arguments."""
    first, *rest = program
    namespace = sys.modules["__main__"].__dict__
    if first == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy._run_module_as_main(rest[0])
    elif first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        exec(compile(rest[0], "<string>", "exec"), namespace)
    else:
        sys.argv, sys.path[0] = [first, *rest], os.path.dirname(os.path.realpath(first))
        namespace["__file__"] = first
        exec(compile(Path(first).read_bytes(), first, "exec"), namespace)


def _code(program):
    """Run a program; returns its exit code, or minus the signal that it ends by."""
    try:
        _run(program)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            sys.stderr.write(f"{end.code}\n")
            return 1
        return end.code or 0
    except BaseException as error:  # noqa: BLE001 - as an interpreter tells it
        shown = error.__traceback__.tb_next.tb_next  # without this module
        sys.excepthook(type(error), error.with_traceback(shown), shown)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _end(code):
    """End as an interpreter does, but for the modules: to clear those copies 100 MB of memory."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.modules["__main__"].__dict__.clear()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def main():
    """Serve orders; in a child, be the program."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _import()
    gc.collect()
    gc.freeze()
    order, files = _serve(control)
    control.detach()
    _end(_code(_become(order, files)))


if __name__ == "__main__":
    main()
