"""Gather what a report of runs says, and write it as Markdown.

A report is for somebody without the journal: who recorded what, when, with which code, what became
of it, and how to verify that. ``page`` writes the same as HTML. Needs no server and no network, and
changes nothing. Names and values are foreign text: each format escapes them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from journaltrack._version import __version__
from journaltrack.errors import JournaltrackError, NothingMatchesError, printable
from journaltrack.journal import view
from journaltrack.journal.context import facts_of, packages_of
from journaltrack.journal.provenance import DIFF_BYTES_MAX
from journaltrack.journal.sqlite import files
from journaltrack.journal.vocabulary import PARAMETERS_FILE
from journaltrack.replay.evidence import anchors
from journaltrack.util.text import duration, six_digits

if TYPE_CHECKING:
    from journaltrack.doctor import Examination
    from journaltrack.journal.writers import WriterRecord
    from journaltrack.readmodel.model import ReadModel
    from journaltrack.readmodel.run import Comparison, MetricSummary, Run, Series
    from journaltrack.readmodel.source import Source
    from journaltrack.reports.component import ComponentView
    from journaltrack.reports.report import AuditReport, ComponentAudit

CURVES_MAX: Final = 100
"""Our limit: metrics that are drawn; the others are in the table."""
COLUMNS: Final = 500
"""Our choice: columns of pixels of a curve. Ten runs of ten metrics take 2 MB."""

DIFF_CHARS_MAX: Final = 200_000
"""Our limit: characters of git's diff that a report shows."""
_DIFFS_MAX: Final = 5
_MARKDOWN_DIFF_CHARS: Final = 20_000
"""Our limit: a pull request takes 65,536 characters."""


@dataclass(frozen=True, slots=True)
class ReportedJournal:
    """A journal, and whether it proves what it says.

    Attributes:
        path: As it was named.
        audit: None if it can't be read.
        examination: What `journaltrack check` finds.
        document: The heads of its chains, as `journaltrack check --anchor` takes them.
        problem: Why it could not be read or checked.
    """

    path: str
    audit: AuditReport | None = None
    examination: Examination | None = None
    document: bytes | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """A run: what it is, who recorded it, and what became of each kind of entry."""

    run: Run
    details: ComponentView
    writers: tuple[WriterRecord, ...]
    audit: ComponentAudit | None
    diffs: tuple[Diff, ...] = ()


@dataclass(frozen=True, slots=True)
class Diff:
    """Git's diff of a run.

    Attributes:
        text: Its beginning; None if its content is not here.
        chars: Its length.
        sha256: Of the whole of it.
    """

    text: str | None
    chars: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a report says.

    Attributes:
        made_at_ns: Nanoseconds since the epoch.
        runs: In the order in which they were named.
        comparison: Of all of them.
        curves: By metric, a series per run that has it.
        journals: Those of the runs.
    """

    made_at_ns: int
    runs: tuple[ReportedRun, ...]
    comparison: Comparison
    curves: Mapping[str, tuple[Series, ...]]
    journals: tuple[ReportedJournal, ...]

    @property
    def title(self) -> str:
        """Return what it is about, in a few words."""
        if len(self.runs) == 1:
            return self.runs[0].run.label
        return f"{len(self.runs)} runs"

    @property
    def made_by(self) -> str:
        """Return when and by what it was made."""
        return f"{view.iso_seconds(self.made_at_ns)} by journaltrack {__version__}"


def gather(model: ReadModel, runs: Sequence[Run]) -> Report:
    """Gather a report. It reads and checks the whole of each run's journal.

    Args:
        model: With the runs.
        runs: At least one.
    """
    now_ns = time.time_ns()
    named = {run.journal for run in runs}
    sources = [source for source in model.sources if str(source.path) in named]
    journals = {str(source.path): _journal(source, now_ns) for source in sources}
    comparison = model.compare(runs)
    return Report(
        now_ns,
        tuple(_reported(model, run, journals[run.journal].audit) for run in runs),
        comparison,
        {name: _curves(model, runs, name) for name in list(comparison.metrics)[:CURVES_MAX]},
        tuple(journals.values()),
    )


def _journal(source: Source, now_ns: int) -> ReportedJournal:
    from journaltrack.doctor import examine  # noqa: PLC0415 - imports all checks
    from journaltrack.reports.report import audit  # noqa: PLC0415

    path = str(source.path)
    try:
        audited = audit(source.folder)
        with view.opened(source.folder) as journal, view.snapshot(journal.database):
            document = anchors.document_of(journal.database, now_ns).encode()
        # Of a bundle, only the database was extracted: its files would seem to be lost.
        examined = None if source.path.is_file() else examine(source.folder)
    except (JournaltrackError, OSError) as error:
        return ReportedJournal(path, problem=str(error))
    return ReportedJournal(path, audited, examined, document)


def _reported(model: ReadModel, run: Run, audited: AuditReport | None) -> ReportedRun:
    components = audited.components if audited else ()
    details = model.details(run, metrics=False)
    return ReportedRun(
        run,
        details,
        tuple(model.writers(run)),
        next((each for each in components if each.name == run.name), None),
        tuple(islice(_diffs(model, run, details), _DIFFS_MAX)),
    )


def _diffs(model: ReadModel, run: Run, details: ComponentView) -> Iterator[Diff]:
    for file in details.diffs:
        if file.sha256 is not None:
            found = model.artifact_file(run, file.sha256)
            content = b""
            # It may be pruned meanwhile, or be no file of ours.
            with contextlib.suppress(OSError, ValueError):
                if found is not None:
                    with files.opened_blob(found) as descriptor:
                        content = os.read(descriptor, DIFF_BYTES_MAX * 2)
            text = content.decode(errors="replace")
            yield Diff(text[:DIFF_CHARS_MAX] or None, len(text), file.sha256)


def _curves(model: ReadModel, runs: Sequence[Run], metric: str) -> tuple[Series, ...]:
    found = []
    for run in runs:
        try:
            found.append(model.series(run, metric, columns=COLUMNS))
        except NothingMatchesError:  # noqa: PERF203 - runs differ in their metrics
            continue
    return tuple(found)


def number(value: object) -> str:
    """Return a value as people read it: numbers with six digits."""
    return "-" if value is None else six_digits(value)


def metric_text(value: MetricSummary) -> str:
    """Return the last value of a metric, its range, and how many values are no numbers."""
    spread = "" if value.min is None else f" ({number(value.min)} … {number(value.max)})"
    return f"{number(value.last)}{spread}{not_finite_text(value)}"


def not_finite_text(value: MetricSummary) -> str:
    """Return how many values of a metric are NaN or infinite; "" if none is."""
    return f", {value.not_finite} of {value.points} not finite" if value.not_finite else ""


def code_of(writer: WriterRecord) -> str:
    """Return which code a process ran: program, commit, and whether that was changed."""
    commit = f"commit {writer.git_commit}" if writer.git_commit else "no git commit"
    changed = {True: ", with uncommitted changes", False: "", None: ""}[writer.git_dirty]
    return f"{writer.program or 'unknown program'}, {commit}{changed}"


def told_of_diff(diff: Diff, chars_max: int = DIFF_CHARS_MAX) -> str:
    """Return what a diff is, and how much of it is here."""
    if diff.text is None:
        return f"git diff, SHA-256 {diff.sha256}: its content is not in the journal (any more)"
    cut = f", the first {chars_max} of" if diff.chars > chars_max else ","
    return f"git diff{cut} {diff.chars} characters, SHA-256 {diff.sha256}"


def verdict(journal: ReportedJournal) -> str:
    """Return in one sentence whether the journal proves what it says."""
    if journal.problem is not None:
        return f"It could not be read: {journal.problem}"
    if journal.examination is None:
        return "A bundle was read: unpack it to check its files."
    problems = [each for each in journal.examination.findings if each.severity == "problem"]
    checks = len(journal.examination.checked)
    if problems:
        return f"{len(problems)} of its checks found problems: {problems[0].message}"
    return f"Intact: {checks} checks found no problem; the digests of all entries hold."


def commands(journal: ReportedJournal) -> list[tuple[str, str]]:
    """Return what a reader runs to verify a report, and what each command shows."""
    where = shlex.quote(journal.path)
    return [
        (
            "the journal is intact, and has everything that this report has",
            f"journaltrack check --anchor {anchor_name(journal)} {where}",
        ),
        ("SageMaker and S3 hold what was delivered", f"journaltrack check --remote {where}"),
        ("what became of each entry", f"journaltrack audit {where}"),
    ]


def anchor_name(journal: ReportedJournal) -> str:
    """Return the name under which a reader saves the heads of the chains."""
    known = journal.audit.journal_id if journal.audit else "unknown"
    return f"anchor-{re.sub('[^0-9a-zA-Z]', '', known)[:8]}.json"


def to_markdown(report: Report) -> str:
    """Return the report as Markdown, for a pull request or a wiki. It has no curves."""
    lines = [f"# {_md(report.title)}", "", f"Made {report.made_by}.", ""]
    heads = ("run", "status", "started", "duration", *report.comparison.differing[:8])
    lines += _table(
        heads,
        (
            (
                each.run.label,
                each.run.status,
                view.iso_seconds(each.run.started_ns),
                span(each.run),
                *(
                    number(each.run.parameters.get(name))
                    for name in report.comparison.differing[:8]
                ),
            )
            for each in report.runs
        ),
    )
    labels = [each.run.label for each in report.runs]
    lines += ["## Metrics", "", "Last value (lowest … highest); the best one is bold.", ""]
    lines += _table(
        ("metric", *labels),
        (
            (
                name,
                *(
                    None
                    if value is None
                    else _Bold(metric_text(value))
                    if place in metric.best and len(labels) > 1
                    else metric_text(value)
                    for place, value in enumerate(metric.values)
                ),
            )
            for name, metric in report.comparison.metrics.items()
        ),
    )
    for each in report.runs:
        lines += _run(each)
    for journal in report.journals:
        lines += [f"## Journal {_md(journal.path)}", "", _md(verdict(journal)), ""]
        lines += ["To verify:", ""]
        lines += [f"- {what}: {_code(command)}" for what, command in commands(journal)]
        if journal.document is not None:
            lines += ["", f"{_code(anchor_name(journal))} is this text, without a line end:", ""]
            lines += ["```json", journal.document.decode(), "```"]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _run(each: ReportedRun) -> list[str]:
    run = each.run
    lines = [f"## {_md(run.label)}", ""]
    lines += [f"- name: {_md(run.name)}"] if run.name != run.label else []
    for writer in each.writers[:5]:
        lines.append(f"- by {_md(writer.user)} on {_md(writer.host)}: {_md(code_of(writer))}")
        lines += [f"  - {label}: {_md(text)}" for label, text in facts_of(writer.context)]
    lines += [f"- note: {_md(run.note)}"] if run.note else []
    lines += (
        [f"- tags: {_md(', '.join(f'{k}={v}' for k, v in run.tags.items()))}"] if run.tags else []
    )
    packages = packages_of_run(each)
    if packages:
        listed = _md(", ".join(f"{name}=={version}" for name, version in packages.items()))
        lines += ["", _details(f"{len(packages)} packages", [listed])]
    for diff in each.diffs:
        lines += ["", _diff(diff)]
    in_file = {one.name for one in each.details.parameters if one.in_file}
    told = (
        (f"{k} (in {PARAMETERS_FILE})" if k in in_file else k, v) for k, v in run.parameters.items()
    )
    lines += ["", *_table(("parameter", "value"), told)]
    lines += _table(
        ("artifact", "bytes", "SHA-256 or value", "state"),
        (
            (one.name, one.size_bytes, one.sha256 or one.value, one.state)
            for one in (*each.details.inputs, *each.details.outputs)
        ),
    )
    return lines + _table(DELIVERY, delivery_rows(each))


def packages_of_run(each: ReportedRun) -> Mapping[str, str]:
    """Return the packages of the first process that tells them: all installed, else imported."""
    told = (packages_of(writer.context) or writer.packages for writer in each.writers)
    return next(filter(None, told), {})


DELIVERY: Final = ("kind", "entries", "delivered", "pending", "in doubt", "quarantined")


def delivery_rows(each: ReportedRun) -> list[tuple[object, ...]]:
    """Return what became of a run's entries, by kind."""
    return [
        (
            kind.kind,
            kind.states.entries,
            kind.states.delivered,
            kind.states.pending + kind.states.in_flight,
            kind.states.in_doubt,
            kind.states.quarantined,
        )
        for kind in (each.audit.kinds if each.audit else ())
    ]


def span(run: Run) -> str:
    """Return how long a run took, in two units at most."""
    return "-" if run.duration_s is None else duration(max(0.0, run.duration_s))


class _Bold(str):
    """A cell to be bold."""

    __slots__ = ()


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        return []
    lines = [[_md(head) for head in heads], ["---"] * len(heads), *cells]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _cell(value: object) -> str:
    text = _md(number(value))[:1_000]
    return f"**{text}**" if isinstance(value, _Bold) else text


def printable_lines(text: str) -> str:
    """Return a text of some lines with everything escaped that is invisible or turns text around.

    As in the terminal, see ``errors.printable``.
    """
    if text.isprintable():
        return text
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in lines)


def _md(value: object) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    text = printable(" ".join(str("-" if value is None else value).split()))
    text = re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("@", "&#64;")


def _details(summary: str, lines: Sequence[str]) -> str:
    """Return lines that a reader unfolds."""
    head = f"<details><summary>{_md(summary)}</summary>"
    return "\n".join([head, "", *lines, "", "</details>"])


def _diff(diff: Diff) -> str:
    shown = _fenced(diff.text[:_MARKDOWN_DIFF_CHARS], "diff") if diff.text else []
    return _details(told_of_diff(diff, _MARKDOWN_DIFF_CHARS), shown)


def _fenced(text: str, language: str) -> list[str]:
    """Return a text as a block that nothing in it ends."""
    text = printable_lines(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}{language}", *text.removesuffix("\n").split("\n"), fence]


def _code(text: str) -> str:
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence}{printable(' '.join(text.split()))}{fence}"
