"""Find the journals that a command is about, and combine the answers about each.

Every command takes journals in the same way: ``[JOURNAL]...``, ``-j JOURNAL`` any number of times,
and a folder of journals for those in it. Several journals give one exit code and one JSON
document. A command that takes only one journal says which ones it found.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode, exit_code_of, report_error, worst
from journaltrack.cli.jobs import Jobs, answering_in_processes
from journaltrack.errors import JournaltrackError, MirrorError, NothingMatchesError
from journaltrack.util import patterns

Form: TypeAlias = Literal["document", "lines", "list"] | None
"""The JSON that a command prints: one document per journal, one line per item, or none (None)."""
_LISTED_MAX = 5


class Journals:
    """Hold the journals named on a command line.

    Args:
        named: As they were named; none: the default journal.
    """

    def __init__(self, named: Sequence[str]) -> None:
        self.typed = tuple(dict.fromkeys(named))
        self.codes: list[ExitCode] = []
        """Of what can't be taken from a mirror."""
        self.to: str | None = None
        """The destination whose deliveries are asked for; None: SageMaker."""
        self.config_file: str | None = None
        """The configuration that names the destination; None: the usual one."""

    @functools.cached_property
    def named(self) -> tuple[str, ...]:
        """Return what was named, with the copies of its journals in place of a mirror."""
        return in_place_of_mirrors(self.typed, self.codes)

    @property
    def mirrors(self) -> tuple[Path, ...]:
        """Return the mirrors among what was named, and in it."""
        from journaltrack.util import paths  # noqa: PLC0415 - as below

        folders = map(paths.expanded, self.typed)
        return tuple(mirror for folder in folders for mirror in paths.mirrors_in(folder))

    @functools.cached_property
    def _found(self) -> dict[str | None, bool]:
        """Return each journal, and whether it was found in a folder of journals."""
        from journaltrack.util import paths  # noqa: PLC0415 - shell completion imports this module

        found: dict[str | None, bool] = {}
        for named in self.named:
            folder = paths.expanded(named)
            inside = list(paths.journals_in(folder))
            found |= (
                {named: False}
                if inside in ([], [folder])
                else dict.fromkeys(map(str, inside), True)
            )
        return found or {None: False}

    @property
    def folders(self) -> tuple[str | None, ...]:
        """Return each journal once; None is the default journal.

        A folder of journals is replaced by the journals in it, and a journal by its copy for a
        further destination that was asked for.
        """
        return tuple(self._places)

    @functools.cached_property
    def _places(self) -> tuple[str | None, ...]:
        from journaltrack.util import config, paths  # noqa: PLC0415 - as above

        if self.to is None:
            return tuple(self._found)
        file = self.config_file
        known = config.current() if file is None else config.load(file).configuration
        wanted = known.destination(self.to)
        if wanted is None:
            return tuple(self._found)
        from journaltrack.journal import destinations  # noqa: PLC0415 - few ask for one

        folders = [paths.journal_folder(each) for each in self._found]
        return tuple(str(destinations.place(each, wanted.name, wanted.mark)) for each in folders)

    @property
    def are_several(self) -> bool:
        """Return whether several were named, or a folder of journals.

        A folder counts even if it has one journal. ``--json`` prints a list then.
        """
        return len(self._found) > 1 or any(self._found.values())

    def is_later(self, journal: str | None) -> bool:
        """Return whether the answer about another journal stands before the one about this one."""
        return journal != self.folders[0]

    def heading(self, journal: str | None) -> str:
        """Return the start of a line about one journal: its name, if there are several."""
        return f"{output.clean(common.path_of(journal))}: " if self.are_several else ""

    def only(self, command: str | None = None) -> str | None:
        """Return the journal of a command that takes only one; None for the default.

        Args:
            command: The command's name in the message; None: as it was called.

        Raises:
            click.UsageError: There are several.
        """
        if len(self.folders) == 1:
            return self.folders[0]
        command = command or str(click.get_current_context().info_name)
        listed = ", ".join(
            output.clean(common.path_of(journal)) for journal in self.folders[:_LISTED_MAX]
        )
        more = (
            f" and {len(self.folders) - _LISTED_MAX} more"
            if len(self.folders) > _LISTED_MAX
            else ""
        )
        raise click.UsageError(
            f"{command} is about one journal, and you named {len(self.folders)}: {listed}{more}; "
            "name one of them. No changes were made."
        )


def in_place_of_mirrors(
    named: Sequence[str], codes: list[ExitCode] | None = None
) -> tuple[str, ...]:
    """Return what was named, with the folder of a mirror's copies in place of a mirror.

    That of a mirror in a folder of journals comes beside the folder. The copies are extended first.
    What is missing in them is told.

    Args:
        named: Journals, folders of journals, and mirrors.
        codes: Gets the exit codes of what contradicts itself, or can't be read.

    Raises:
        MirrorError: A mirror can't be read, or holds nothing yet.
    """
    codes = [] if codes is None else codes
    from journaltrack.util import paths  # noqa: PLC0415 - shell completion imports this module

    found: list[str] = []
    for each in named:
        folder = paths.expanded(each)
        mirrors = list(paths.mirrors_in(folder))
        # What has no journals either is told as no journal.
        if not mirrors or any(paths.journals_in(folder)):
            found.append(each)
        for path in mirrors:
            try:
                found.append(_copies_of(each if path == folder else str(path), codes))
            except MirrorError as error:  # noqa: PERF203 - the others are answered for
                if path == folder:
                    raise
                output.problem("note", error.message, error.hint)
    return tuple(found)


def _copies_of(named: str, codes: list[ExitCode]) -> str:
    from journaltrack.util import paths  # noqa: PLC0415 - as above

    folder = paths.expanded(named)
    from journaltrack.mirror import copies, folders, silence  # noqa: PLC0415 - few name one

    found = copies.extended(folder)
    for copied in found:
        if copied.folder is not None:
            # For the state of runs. Who may not write there, or is not alone, does without.
            with contextlib.suppress(JournaltrackError):
                silence.looked(copied.folder, folders.opened(folder), copied.journal_id)
        for note in copied.notes:
            output.problem("note", f"{output.clean(named)}: {note}")
        if copied.problem is not None:
            report_error(copied.problem, verbose=common.is_verbose())
            codes.append(exit_code_of(copied.problem))
        codes += [exit_code_of(r.problem) for r in copied.replicas if r.problem is not None]
    return str(copies.folder_of(found, folder))


def arguments_and_journals(
    convert: Callable[[tuple[str, ...], tuple[str, ...]], dict[str, Any]],
    help_text: str,
    **of_argument: Any,  # noqa: ANN401 - click's
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator: add arguments and ``-j JOURNAL``, any number of each.

    Args:
        convert: Takes the values of both, and returns what the command gets by keyword.
        help_text: Of ``-j``.
        of_argument: For ``click.argument``.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        """Add argument and option to the command."""

        @functools.wraps(command)
        def converted(
            *args: Any,  # noqa: ANN401
            arguments: tuple[str, ...],
            options: tuple[str, ...],
            **others: Any,  # noqa: ANN401
        ) -> Any:  # noqa: ANN401 - click's
            """Call the command with what its arguments and options name."""
            return command(*args, **convert(arguments, options), **others)

        argument = click.argument("arguments", nargs=-1, **of_argument)
        option = click.option(
            "-j",
            "--journal",
            "options",
            metavar="JOURNAL",
            multiple=True,
            type=click.Path(),
            help=help_text,
        )
        return argument(option(converted))

    return decorate


def about_journals(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``[JOURNAL]...`` and ``-j JOURNAL``; the command gets them as ``journals``."""
    decorate = arguments_and_journals(
        lambda arguments, options: {"journals": Journals([*arguments, *options])},
        "The same as the argument; may be repeated.",
        metavar="[JOURNAL]...",
        type=click.Path(),
    )
    return decorate(command)


def of_destination(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--to NAME``: the journals are then the copies for that destination.

    Also add ``--config FILE``, which may name it, unless the command has that.
    """
    has_config = any(
        each.name == "config_file" for each in getattr(command, "__click_params__", ())
    )

    @functools.wraps(command)
    def converted(*args: Any, to: str | None, journals: Journals, **others: Any) -> Any:  # noqa: ANN401
        """Call the command with the copies."""
        journals.to = to
        if has_config:
            journals.config_file = others["config_file"]
        else:
            journals.config_file = others.pop("config_file")
            if to is None:
                common.refuse_without("--to", {"--config": journals.config_file})
        return command(*args, journals=journals, **others)

    option = click.option(
        "--to",
        metavar="NAME",
        help="Of this destination ([destinations.NAME], or an address) instead of SageMaker.",
    )
    return option(converted if has_config else _config_of_destination(converted))


_config_of_destination = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="With --to: the configuration (TOML) that names the destination.",
)


def each(
    journals: Journals,
    answer: Callable[[str | None], ExitCode],
    *,
    as_json: Form,
    jobs: Jobs | None = None,
    changes: bool = True,
    has_ended: Callable[[], object] = lambda: False,
    final: Callable[[ExitCode], ExitCode] = lambda code: code,
    verdict: str | None = None,
) -> ExitCode:
    """Answer for every journal in turn; a problem with one does not stop the others.

    A filter must name something in at least one journal. Journals in which it names nothing are
    listed, and are not a failure.

    Args:
        journals: Which journals.
        answer: Prints about one journal and returns its exit code.
        as_json: The JSON that it prints; "list": a list even for a single journal.
        jobs: How to answer for several at a time; None: one after the other.
        changes: Whether an answer changes anything. If not, other processes may make it.
        has_ended: Returns whether to leave out the remaining journals.
        final: Maps the worst exit code to the one to return.
        verdict: What exit code 0 says of a journal, such as "all delivered". Of several, a last
            line tells it of all, since the last one's own would be read so.
    """
    if not journals.are_several and as_json != "list":
        return final(answer(journals.folders[0]))
    codes: list[ExitCode] = []
    unnamed: list[NothingMatchesError] = []
    documents: list[dict[str, Any]] = []
    hints: set[str] = set()
    others = list(journals.folders)
    with (
        _telling_interrupted(documents, as_json),
        _answering(
            journals, answer, jobs, lambda: bool(codes and has_ended()), changes=changes
        ) as answered,
    ):
        for journal in journals.folders:
            try:
                with output.collected(common.path_of(journal), documents):
                    code = answered(journal)
            except NothingMatchesError as error:  # noqa: PERF203 - an answer costs more
                unnamed.append(error)
                others.remove(journal)
            except (JournaltrackError, OSError) as error:
                codes.append(exit_code_of(error))
                documents.append(
                    {"journal": common.path_of(journal), **output.error_json(error, codes[-1])}
                )
                report_error(error, verbose=common.is_verbose(), told=hints)
            else:
                if code is ExitCode.OK:
                    others.remove(journal)
                codes += [] if code is None else [code]
    if not codes:
        codes.append(ExitCode.USAGE)
        documents += _named_nowhere(unnamed)
    else:
        _tell_unnamed(unnamed, len(journals.folders))
    code = final(worst([*codes, *journals.codes]))
    if as_json in {"document", "list"}:
        output.print_json({"journals": documents, "exit_code": int(code)})
    else:
        for document in documents if as_json else ():
            output.print_json_line(document)
    asked = len(journals.folders) - len(unnamed)
    _tell_verdict(None if as_json else verdict, others, asked, whole=not journals.codes)
    return code


@contextlib.contextmanager
def _telling_interrupted(documents: Sequence[dict[str, Any]], as_json: Form) -> Iterator[None]:
    """Print the answers so far as JSON, if Ctrl-C ends the block."""
    try:
        yield
    except KeyboardInterrupt:
        if as_json not in {"document", "list"}:
            raise
        code = ExitCode.INTERRUPTED
        output.print_json({"journals": documents, "exit_code": int(code)})
        raise click.exceptions.Exit(int(code)) from None


def _answering(
    journals: Journals,
    answer: Callable[[str | None], ExitCode],
    jobs: Jobs | None,
    has_ended: Callable[[], object],
    *,
    changes: bool,
) -> contextlib.AbstractContextManager[Callable[[str | None], ExitCode | None]]:
    """Answer during the block, as ``Jobs.answering`` does."""
    if not changes:
        return answering_in_processes(journals.folders, answer)
    if jobs is not None:
        return jobs.answering(journals.folders, answer, has_ended)
    return contextlib.nullcontext(lambda journal: None if has_ended() else answer(journal))


def _tell_verdict(
    verdict: str | None, others: Sequence[str | None], asked: int, *, whole: bool
) -> None:
    """Say whether a verdict holds of all journals, and name those of which it does not.

    Args:
        verdict: See ``each``; None: say nothing.
        others: Those of which it does not hold, or that were not reached.
        asked: How many there are.
        whole: Whether all that their mirrors have could be taken.
    """
    if verdict is None or asked == 1:
        return
    output.say()
    if others:
        output.say(f"not {verdict}: {len(others)} of {asked} journals")
        for journal in others:
            output.say(f"  {output.clean(common.path_of(journal))}")
    elif whole:
        output.say(f"{verdict}: {asked} journals")
    else:
        output.say(f"{verdict} that could be read: {asked} journals; see the notes above")


def _tell_unnamed(errors: Sequence[NothingMatchesError], journals: int) -> None:
    """Say once what a filter names only in some of the journals."""
    if len(errors) == 1:
        output.problem("note", errors[0].message)
    elif errors:
        output.problem(
            "note", f"{len(errors)} of {journals} journals have nothing that matches the filter"
        )


def _named_nowhere(errors: Sequence[NothingMatchesError]) -> list[dict[str, Any]]:
    """Report once that a filter names nothing in any journal.

    Of the journals' errors, prefer one with a suggestion.
    """
    error = next((each for each in errors if patterns.suggests(each.hint)), errors[0])
    report_error(error, verbose=common.is_verbose())
    if len(errors) > 1:
        others = (
            "the other journal has"
            if len(errors) == 2  # noqa: PLR2004
            else f"the other {len(errors) - 1} journals have"
        )
        output.problem("note", f"{others} none either")
    return [dict(output.error_json(error, ExitCode.USAGE))]
