"""Begin a logger: import its framework, know the process's rank, and check arguments.

Each module of this package is a logger or callback for one framework. It has these functions and
``Logs`` in common with the others, and records with a ``FrameworkRun`` (``base``). Must not know
any framework.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from journaltrack import limits
from journaltrack.errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from journaltrack.integrations.base import FrameworkRun
    from journaltrack.tracking.tracker import Tracker

Checkpoints: TypeAlias = Literal["last", "best", "all"] | bool | None
"""Which checkpoints to record; True means "last", None and False mean none."""
_RANKS: Final = ("OMPI_COMM_WORLD_RANK", "LOCAL_RANK", "NODE_RANK")


class Logs:
    """A logger or callback of one run, which a ``with`` block may end.

    The block tells how training ended where the framework tells nothing of an exception: the run
    becomes Failed with its message. A run that ended well is not ended again.
    """

    _run: FrameworkRun

    @property
    def tracker(self) -> Tracker:
        """Return the run's tracker, to record more with; rank zero alone should."""
        return self._run.tracker

    @property
    def run_name(self) -> str:
        """Return the run's name: that of its trial component."""
        return self._run.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._run.end(error)


@contextlib.contextmanager
def importing(framework: str, package: str = "") -> Iterator[None]:
    """Import a framework in this block. If it can't be, say what to install.

    Args:
        framework: What people call it.
        package: What to install, if it has another name.

    Raises:
        MissingExtraError: (an ImportError) It can't be imported.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"this logger is for {framework}, which can't be imported here ({error}); nothing was "
            "recorded, and no journal was changed",
            hint=f"pip install {package or framework.lower()}, in the environment of "
            f"{sys.executable}",
        ) from error


def is_rank_zero() -> bool:
    """Return whether this process is the one of its job that records.

    torch's process group says so, if there is one. Otherwise the launcher's variables do: RANK of
    torchrun alone, else those of Open MPI and of Lightning's launcher. ``SLURM_PROCID`` does not
    count: tasks of one Slurm step may be runs of their own. Does not import torch.
    """
    distributed = sys.modules.get("torch.distributed")
    # A build without it, or one that is being imported.
    with contextlib.suppress(Exception):
        if distributed is not None and distributed.is_available() and distributed.is_initialized():
            return bool(distributed.get_rank() == 0)
    rank = os.environ.get("RANK")
    if rank:
        return rank == "0"
    return all(os.environ.get(name, "0") in {"", "0"} for name in _RANKS)


def checkpoints_kept(wanted: object) -> str:
    """Check ``log_checkpoints=``: "last", "best", "all", or "" for none.

    Raises:
        InvalidInputError: It is something else.
    """
    known = {None: "", False: "", True: "last"}
    found = known.get(wanted, wanted) if isinstance(wanted, (bool, type(None))) else wanted
    if found not in ("", "last", "best", "all"):
        raise InvalidInputError(
            f"log_checkpoints={wanted!r} is not known; nothing was recorded",
            hint='"last", "best", "all", or False for none',
        )
    return str(found)


def prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by names that begin with a prefix."""
    return {f"{prefix}{name}": value for name, value in values.items()}


def with_name(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return arguments of ``Tracker.create`` for a run of this name instead of theirs."""
    kept = {key: options[key] for key in options if key != "base_trial_component_name"}
    return kept | {"trial_component_name": name}


def with_base_name(options: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return arguments of ``Tracker.create`` whose run's name begins with a text.

    A name that they have, or a run that they continue, comes first.
    """
    is_named = {"trial_component_name", "base_trial_component_name"} & options.keys()
    if is_named or options.get("resume"):
        return dict(options)
    return {**options, "base_trial_component_name": limits.suggested_name(text)}
