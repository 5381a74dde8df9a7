"""How the demo shows its work: commands as one would type them, output indented, children that
end in all cases.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def say(text: str) -> None:
    """Print now, whatever the buffering."""
    print(text, flush=True)


def title(number: int, text: str) -> None:
    """Begin a step."""
    say(f"\n── {number}. {text} " + "─" * max(0, 100 - len(text)))


def say_command(command: Sequence[str]) -> None:
    """As one would type it."""
    say(
        "$ "
        + " ".join(word if word in {">", "2>&1", "&"} else shlex.quote(word) for word in command)
    )


def say_output(output: str, lines_max: int, *, tail: bool = False) -> None:
    """The output of a command, indented; the middle is left out when it is long."""
    lines = output.rstrip("\n").splitlines()
    if tail:
        lines = lines[-lines_max:]
    elif len(lines) > lines_max:
        lines = [
            *lines[: lines_max // 2],
            f"… {len(lines) - lines_max} lines …",
            *lines[-(lines_max - lines_max // 2) :],
        ]
    for line in lines:
        say(f"    {line}")


def run_on_terminal(command: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Run a command on a terminal of its own, as a person would, and pass on what it shows; its
    exit code and output.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    child = subprocess.Popen(  # noqa: S603
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    received = b""
    try:
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while block := os.read(ours, 65_536):
                received += block
                if sys.stdout.isatty():
                    sys.stdout.write(block.decode(errors="replace"))
                    sys.stdout.flush()
        exit_code = child.wait(timeout=timeout_s)
    finally:
        end(child)
        os.close(ours)
    output = ANSI.sub("", received.decode(errors="replace"))
    if not sys.stdout.isatty():
        say_output(
            "\n".join(
                part.split("\r")[-1] for part in output.replace("\r\n", "\n").splitlines()[-2:]
            ),
            4,
        )
    return exit_code, output


def end(child: subprocess.Popen[bytes]) -> None:
    """Make sure that a child is gone."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that no child is left behind."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    yield


def shown_path(path: str | Path) -> str:
    """A path as short as it can be written here; symbolic links stay (a virtual environment's
    Python is one).
    """
    absolute = Path(path).absolute()
    return (
        str(absolute.relative_to(Path.cwd()))
        if absolute.is_relative_to(Path.cwd())
        else str(absolute)
    )


def without_network() -> list[str] | None:
    """The command prefix that runs something in an empty network namespace; None where that is
    not permitted.
    """
    for prefix in (["unshare", "-n", "--"], ["unshare", "-rn", "--"]):
        with contextlib.suppress(OSError):
            if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:  # noqa: S603
                return prefix
    return None


def write_script(path: Path, environment: dict[str, str], prefix: list[str]) -> Path:
    """A script that runs its arguments with this environment and no other, behind ``prefix``;
    the process id stays the same.
    """
    settings = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    command = " \\\n    ".join(["exec env -i", *settings, f'{shlex.join(prefix)} "$@"'.strip()])
    path.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    path.chmod(0o755)
    return path
