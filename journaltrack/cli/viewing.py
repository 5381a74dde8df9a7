"""Share among the commands that show runs: which runs are meant, and how values look.

Not a command. Must not know how runs are read (``readmodel``) beyond opening a model.
"""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from journaltrack import limits
from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode, exit_code_of, report_error, worst
from journaltrack.cli.journals import arguments_and_journals, in_place_of_mirrors
from journaltrack.errors import NothingMatchesError
from journaltrack.util import paths, patterns
from journaltrack.util.text import duration, six_digits

if TYPE_CHECKING:
    import click

    from journaltrack.readmodel.model import ReadModel
    from journaltrack.readmodel.run import Run, Series
    from journaltrack.tracking.annotation import Annotated

_JOURNALS_TOLD: Final = 5
_SPARKS: Final = "▁▂▃▄▅▆▇█"


def about_runs(
    metavar: str, *, other_names: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator: add ``RUN...`` and ``-j``; the command gets ``names`` and ``named``.

    An argument with a slash is a journal, and so is every one after the first that names a folder
    of a journal, or a bundle. ``-j`` names a journal whatever it is called.

    Args:
        metavar: How the help names the arguments.
        other_names: They also name what may have a slash (val/loss, path=a/b). Then one with a
            slash is a journal only if it is there, or is an absolute path.
    """

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        """Complete the name of a run, from the journals on the command line so far."""
        _, journals = _told_apart(ctx.params.get("arguments") or (), other_names=other_names)
        ctx.params["arguments"] = tuple(journals)
        return common.complete_component(ctx, param, incomplete)

    def converted(arguments: tuple[str, ...], options: tuple[str, ...]) -> dict[str, Any]:
        """Return names of runs, and journals."""
        names, journals = _told_apart(arguments, other_names=other_names)
        return {"names": names, "named": in_place_of_mirrors((*journals, *options))}

    return arguments_and_journals(
        converted,
        "A journal, a folder of journals, or a bundle; may be repeated.",
        metavar=metavar,
        shell_complete=complete,
    )


def _told_apart(arguments: Sequence[str], *, other_names: bool) -> tuple[list[str], list[str]]:
    names: list[str] = []
    journals: list[str] = []
    for place, argument in enumerate(arguments):
        has_slash = "/" in argument or argument in {".", ".."}
        is_path = argument.startswith(("/", "./", "../", "~")) if other_names else has_slash
        exists = (has_slash or place > 0) and _is_journal(argument)
        (journals if is_path or exists else names).append(argument)
    return names, journals


def _is_journal(argument: str) -> bool:
    try:
        path = paths.expanded(argument)
        if path.is_file():
            # A file may be called as a run, such as the one that a report of it was written into.
            with path.open("rb") as stream:
                begin = stream.read(len(paths.BUNDLE_MANIFEST))
            return path.suffix == ".bundle" or begin == paths.BUNDLE_MANIFEST.encode()
        return path.is_dir() and (any(paths.mirrors_in(path)) or any(paths.journals_in(path)))
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def looking_at(named: Sequence[str], codes: list[ExitCode]) -> Iterator[ReadModel]:
    """Open journals to look at their runs. What can't be read is reported, and hides no other.

    Args:
        named: The journals; none: the default one.
        codes: Gets the exit codes of what can't be read.

    Raises:
        JournalError: No journal can be read.
    """
    from journaltrack.readmodel import model as readmodel  # noqa: PLC0415 - completion

    with readmodel.open(named) as model:
        model.refresh()
        if model.problems and len(model.problems) == len(model.sources):
            first, *others = [error for _, error in model.problems]
            for error in others:
                report_error(error, verbose=common.is_verbose())
            raise first
        for _, error in model.problems:
            codes.append(exit_code_of(error))
            report_error(error, verbose=common.is_verbose())
        yield model


def annotated(
    name: str,
    named: Sequence[str],
    *,
    tags: Mapping[str, str] | None = None,
    note: str | None = None,
) -> Annotated:
    """Record tags or a note of the one run that a name means.

    Args:
        name: A name, a display name, or a pattern that fits one run.
        named: The journals; none: the default one.
        tags: See ``annotate``.
        note: See ``annotate``.

    Raises:
        NothingMatchesError: No run has the name, or several have. Nothing was recorded.
    """
    from journaltrack.tracking.annotation import annotate  # noqa: PLC0415 - completion

    if len(named) <= 1 and not any(map(is_several, named)):
        try:
            return annotate(name, tags=tags, note=note, journal=named[0] if named else None)
        except NothingMatchesError as error:
            unnamed: NothingMatchesError | None = error
    else:
        unnamed = None
    with looking_at(named, []) as model:
        try:
            runs = model.find([name])
        except NothingMatchesError as error:
            raise unnamed or error from None
    if len(runs) > 1:
        raise NothingMatchesError(
            f"{len(runs)} runs fit {limits.shown(name)}; nothing was recorded", hint=one_of(runs)
        )
    return annotate(runs[0].name, tags=tags, note=note, journal=runs[0].journal)


def one_of(runs: Sequence[Run]) -> str:
    """Return a hint that says how to name one of some runs: by its journal, if names recur."""
    names = [run.name for run in reversed(runs)]
    if len(set(names)) == len(names):
        return f"name one of them: {patterns.some(names)}"
    options = [f"-j {shlex.quote(run.journal)}" for run in runs[:_JOURNALS_TOLD]]
    if len(set(names)) > 1:
        pairs = zip(runs, options, strict=False)
        options = [f"{run.name} {option}" for run, option in pairs]
    more = f", and {len(runs) - len(options)} more" if len(runs) > len(options) else ""
    return f"the name is in several journals; say which one: {', '.join(options)}{more}"


def is_several(named: str) -> bool:
    """Return whether a path is not that of one journal: a folder of journals, or a bundle."""
    path = paths.expanded(named)
    return path.is_file() or list(paths.journals_in(path)) not in ([], [path])


def code_of(codes: Sequence[ExitCode]) -> ExitCode:
    """Return the exit code of a command that could not read some journals."""
    return worst([ExitCode.OK, *codes])


def number(value: object) -> str | None:
    """Return a value in at most six digits; ``--json`` has all of them."""
    return None if value is None else six_digits(value)


def span(seconds: float | None) -> str | None:
    """Return a time span in its largest unit."""
    return None if seconds is None else " ".join(duration(max(0.0, seconds)).split()[:2])


def can_draw(text: str) -> bool:
    """Return whether the output's encoding has the characters."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def best_mark() -> str:
    """Return what marks the best value."""
    return "★" if can_draw("★") else "*"


def sparkline(series: Series, columns: int) -> str:
    """Return a curve as one line of block characters; a blank is a gap.

    Args:
        series: The curve.
        columns: Characters.
    """
    first, last = series.first, series.last
    if first is None or last is None or not can_draw(_SPARKS):
        return ""
    width = (last - first) / columns
    found: list[float | None] = [None] * columns
    for x, y in zip(series.x, series.y, strict=True):
        if y is not None:
            found[min(int((x - first) / width), columns - 1) if width > 0 else 0] = y
    finite = [y for y in found if y is not None]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    return "".join(
        " " if y is None else _SPARKS[round(share(y, low, high) * (len(_SPARKS) - 1))]
        for y in found
    ).rstrip()


def share(value: float, low: float, high: float) -> float:
    """Return where a finite value is between two others, from 0 to 1; 0.5 if they are equal."""
    if not low < high:
        return 0.5
    # The difference of the largest doubles is infinite, that of their halves is not.
    found = (value / 2 - low / 2) / (high / 2 - low / 2)
    return min(max(found, 0.0), 1.0) if math.isfinite(found) else 0.5


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a short name for each run, see ``readmodel.model.labels``, to be printed."""
    from journaltrack.readmodel import model as readmodel  # noqa: PLC0415 - completion

    return [output.clean(label) for label in readmodel.labels(runs)]
