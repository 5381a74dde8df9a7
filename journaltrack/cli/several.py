"""One command about several journals: an answer each, the worst exit code, and one JSON document of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode, worst
from journaltrack.errors import JournaltrackError, NothingMatchesError
from journaltrack.util import patterns

Form: TypeAlias = Literal["document", "lines", "list"] | None
"""What a command prints of JSON: a document of each journal, a line of each of its things; None: none."""


@dataclass(frozen=True, slots=True)
class Journals:
    """The journals on a command line.

    Attributes:
        folders: Each once; None is the default journal.
        are_several: Several were named, or a folder of journals, be it with one: ``--json`` prints a list.
    """

    folders: tuple[str | None, ...]
    are_several: bool

    @classmethod
    def named(cls, journals: Sequence[str], more: Sequence[str]) -> Journals:
        """As the argument and ``--journal`` say; a folder of journals stands for those in it."""
        asked = common.named(journals, more)
        found = common.with_folders(asked)
        return cls(tuple(found), found != asked or len(found) > 1)


def each(
    journals: Journals,
    answer: Callable[[str | None], ExitCode],
    *,
    as_json: Form,
    has_ended: Callable[[], object] = lambda: False,
    final: Callable[[ExitCode], ExitCode] = lambda code: code,
) -> ExitCode:
    """Have every journal answered, one after the other; what is wrong with one does not keep the others.

    A filter must name something in one of them. Where it names nothing, but does in another, that is said, and no failure.

    Args:
        journals: About which.
        answer: Prints about one, and returns its exit code.
        as_json: What it prints of JSON; "list": a list also of a single journal.
        has_ended: Whether to leave out those that are left.
        final: The exit code to end with, from the worst one.
    """
    if not journals.are_several and as_json != "list":
        return final(answer(journals.folders[0]))
    codes: list[ExitCode] = []
    unnamed: list[NothingMatchesError] = []
    documents: list[dict[str, Any]] = []
    for journal in journals.folders:
        if codes and has_ended():
            break
        try:
            with output.collected(common.path_of(journal), documents):
                codes.append(answer(journal))
        except NothingMatchesError as error:
            unnamed.append(error)
        except (JournaltrackError, OSError) as error:
            codes.append(common.exit_code_of(error))
            documents.append({"journal": common.path_of(journal), **output.error_json(error, codes[-1])})
            common.report_error(error, verbose=common.is_verbose())
    if not codes:
        codes.append(ExitCode.USAGE)
        documents += _named_nowhere(unnamed)
    else:
        for unnamed_here in unnamed:
            output.problem("note", unnamed_here.message)
    code = final(worst(codes))
    if as_json in {"document", "list"}:
        output.print_json({"journals": documents, "exit_code": int(code)})
    else:
        for document in documents if as_json else ():
            output.print_json_line(document)
    return code


def _named_nowhere(errors: Sequence[NothingMatchesError]) -> list[dict[str, Any]]:
    """Say once that a filter names nothing in any journal; the error of the journal with something near."""
    error = next((each for each in errors if each.hint.startswith(patterns.PERHAPS)), errors[0])
    common.report_error(error, verbose=common.is_verbose())
    if len(errors) > 1:
        others = "the other journal has" if len(errors) == 2 else f"the other {len(errors) - 1} journals have"  # noqa: PLR2004
        output.problem("note", f"{others} none either")
    return [dict(output.error_json(error, ExitCode.USAGE))]
