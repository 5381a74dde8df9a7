"""Gather what a report of runs says, and write it as Markdown.

A report is for somebody without the journal: who recorded what, when, with which code, what became
of it, and how to verify that. ``page`` writes the same as HTML. Needs no server and no network, and
changes nothing. Names and values are foreign text: each format escapes them.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from journaltrack._version import __version__
from journaltrack.errors import JournaltrackError, NothingMatchesError, printable
from journaltrack.journal import view
from journaltrack.journal.context import packages_of
from journaltrack.journal.provenance import DIFF_NAME
from journaltrack.journal.vocabulary import PARAMETERS_FILE
from journaltrack.readmodel.artifacts import output_tail
from journaltrack.readmodel.model import labels
from journaltrack.readmodel.run import BADLY_ENDED
from journaltrack.replay.evidence import anchors
from journaltrack.reports.processes import told
from journaltrack.util.text import duration, six_digits

if TYPE_CHECKING:
    from journaltrack.doctor import Examination
    from journaltrack.readmodel.artifacts import Artifact, Preview, Table
    from journaltrack.readmodel.model import ReadModel
    from journaltrack.readmodel.run import Comparison, MetricSummary, Run, Series
    from journaltrack.readmodel.source import Source
    from journaltrack.reports.component import ArtifactView, ComponentView
    from journaltrack.reports.report import AuditReport, ComponentAudit

CURVES_MAX: Final = 100
"""Our limit: metrics that are drawn; the others are in the table."""
COLUMNS: Final = 500
"""Our choice: columns of pixels of a curve. Ten runs of ten metrics take 2 MB."""

DIFF_CHARS_MAX: Final = 200_000
"""Our limit: characters of git's diff that a report shows."""
_DIFFS_MAX: Final = 5
PREVIEWS_BYTES_MAX: Final = 8_000_000
"""Our limit: what a report holds of artifacts."""
_IMAGE_BYTES_MAX: Final = 2_000_000
_ROWS_MAX: Final = 50
_MARKDOWN_ROWS: Final = 10
_MARKDOWN_COLUMNS: Final = 12
_TEXT_CHARS_MAX: Final = 10_000
_STEPS_MAX: Final = 6
"""Ours: of an artifact with steps, so many are shown."""
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
    """A run: what it is, who recorded it, and what became of each kind of entry.

    Attributes:
        label: A name that tells it from the others.
        output: The last lines that it printed, if it ended badly.
    """

    label: str
    run: Run
    details: ComponentView
    audit: ComponentAudit | None
    diffs: tuple[Diff, ...] = ()
    artifacts: tuple[ReportedArtifact, ...] = ()
    output: tuple[str, ...] = ()


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
class ReportedArtifact:
    """An artifact.

    Attributes:
        view: What it is.
        preview: What is shown of it; None if nothing is.
    """

    view: ArtifactView
    preview: Preview | None = None


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
            return self.runs[0].label
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
    room = _Room()
    return Report(
        now_ns,
        tuple(
            _reported(model, label, run, journals[run.journal].audit, room)
            for label, run in zip(labels(runs), runs, strict=True)
        ),
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


def _reported(
    model: ReadModel, label: str, run: Run, audited: AuditReport | None, room: _Room
) -> ReportedRun:
    components = audited.components if audited else ()
    details = model.details(run, metrics=False)
    files: dict[str | None, Artifact] = {
        each.sha256: each for each in run.artifacts if each.sha256 is not None
    }
    return ReportedRun(
        label,
        run,
        details,
        next((each for each in components if each.name == run.name), None),
        tuple(islice(_diffs(details, files), _DIFFS_MAX)),
        tuple(_artifacts(details, files, room)),
        tuple(output_tail(run.artifacts)) if run.status in BADLY_ENDED else (),
    )


def _diffs(details: ComponentView, files: Mapping[str | None, Artifact]) -> Iterator[Diff]:
    for each in details.artifacts:
        if each.name == DIFF_NAME and each.sha256 is not None:
            content = b""
            # It may be pruned meanwhile, or be no file of ours.
            with contextlib.suppress(JournaltrackError, KeyError):
                content = files[each.sha256].read()
            text = content.decode(errors="replace")
            yield Diff(text[:DIFF_CHARS_MAX] or None, len(text), each.sha256)


class _Room:
    """How much a report may still hold of artifacts."""

    def __init__(self) -> None:
        self._left = PREVIEWS_BYTES_MAX

    def taken(self, preview: Preview) -> bool:
        """Take the room that a preview needs. Return whether there was enough."""
        cells = preview.table.rows if preview.table else ()
        size = len(preview.image) + len(preview.text) + sum(len(str(row)) for row in cells)
        fits = len(preview.image) <= _IMAGE_BYTES_MAX and size <= self._left
        self._left -= size if fits else 0
        return fits


def _artifacts(
    details: ComponentView, files: Mapping[str | None, Artifact], room: _Room
) -> Iterator[ReportedArtifact]:
    of_name: dict[str, list[ArtifactView]] = defaultdict(list)
    for each in details.artifacts:
        if each.name != DIFF_NAME:
            of_name[each.name].append(each)
    for group in of_name.values():
        # Of many steps, those that are evenly apart, with the first and the last.
        count = min(len(group), _STEPS_MAX)
        places = {round(i * (len(group) - 1) / max(1, count - 1)) for i in range(count)}
        for place, each in enumerate(group):
            preview = None
            with contextlib.suppress(JournaltrackError, KeyError):
                if place in places:
                    preview = files[each.sha256].preview(_ROWS_MAX)
            if preview is not None and preview.kind == "text":
                preview = preview._replace(text=preview.text[:_TEXT_CHARS_MAX])
            is_shown = preview is not None and preview.kind != "none" and room.taken(preview)
            yield ReportedArtifact(each, preview if is_shown else None)


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


def recorded_by(each: ReportedRun) -> list[tuple[str, str]]:
    """Return who recorded a run, with which code (see ``processes.told``) and datasets."""
    details = each.details
    return [
        *told(details.writers, imported_from=details.imported_from, is_import=details.is_import),
        *(("dataset", dataset.text) for dataset in details.datasets),
    ]


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
                each.label,
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
    named_runs = [each.label for each in report.runs]
    lines += ["## Metrics", "", "Last value (lowest … highest); the best one is bold.", ""]
    lines += _table(
        ("metric", *named_runs),
        (
            (
                name,
                *(
                    None
                    if value is None
                    else _Bold(metric_text(value))
                    if place in metric.best
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
            text = ["```json", journal.document.decode(), "```"]
            lines += ["", _details(f"{anchor_name(journal)}: this text, without a line end", text)]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _run(each: ReportedRun) -> list[str]:
    run = each.run
    lines = [f"## {_md(each.label)}", ""]
    lines += [f"- name: {_md(run.name)}"] if run.name != each.label else []
    lines += [f"- {label}: {_md(text)}" for label, text in recorded_by(each)]
    lines += [f"- note: {_md(run.note)}"] if run.note else []
    lines += (
        [f"- tags: {_md(', '.join(f'{k}={v}' for k, v in run.tags.items()))}"] if run.tags else []
    )
    packages = packages_of_run(each)
    if packages:
        listed = _md(", ".join(f"{name}=={version}" for name, version in packages.items()))
        lines += ["", _details(f"{len(packages)} packages", [listed])]
    lines += _failure(each)
    for diff in each.diffs:
        lines += ["", _diff(diff)]
    in_file = {one.name for one in each.details.parameters if one.in_file}
    values = (
        (f"{k} (in {PARAMETERS_FILE})" if k in in_file else k, v) for k, v in run.parameters.items()
    )
    lines += ["", *_table(("parameter", "value"), values)]
    lines += _table(
        ("artifact", "type", "bytes", "SHA-256 or value", "state"),
        (
            (
                named(one.view),
                kind_of(one.view),
                one.view.size_bytes,
                one.view.sha256 or one.view.value,
                one.view.state,
            )
            for one in each.artifacts
        ),
    )
    for one in each.artifacts:
        if one.preview is not None and one.preview.table is not None:
            lines += [_details(named(one.view), _table_lines(one.preview.table)), ""]
    return lines + _table(DELIVERY, delivery_rows(each))


def _failure(each: ReportedRun) -> list[str]:
    """Return how a run failed: its message, the traceback, and what it printed last."""
    status = each.details.status
    lines = ["", f"> {_md(status.message)}"] if status.message else []
    for title, text in (
        ("traceback", status.traceback),
        ("last lines of the output", "\n".join(each.output)),
    ):
        if text:
            lines += ["", _details(title, _fenced(text[-_TEXT_CHARS_MAX:], "text"))]
    return lines


def named(artifact: ArtifactView) -> str:
    """Return an artifact's name, with its step."""
    return artifact.name if artifact.step is None else f"{artifact.name} (step {artifact.step})"


def kind_of(artifact: ArtifactView) -> str | None:
    """Return what an artifact is: a chart's type, or the media type."""
    kind = artifact.kind or artifact.media_type
    return f"{kind or ''} (input)".strip() if artifact.direction == "input" else kind


def rows_left_out(table: Table) -> str:
    """Return how many rows are not shown; "" if all are."""
    if table.more is None:
        return "… more rows"
    return f"… {table.more} more rows" if table.more else ""


def _table_lines(table: Table) -> list[str]:
    shown = _table(
        [str(name) for name in table.columns[:_MARKDOWN_COLUMNS]],
        [row[:_MARKDOWN_COLUMNS] for row in table.rows[:_MARKDOWN_ROWS]],
    )
    left = None if table.more is None else table.more + max(0, len(table.rows) - _MARKDOWN_ROWS)
    return [*shown, rows_left_out(table._replace(more=left))]


def packages_of_run(each: ReportedRun) -> Mapping[str, str]:
    """Return the packages of the newest process that tells them: all installed, else imported."""
    writers = () if each.details.is_import else reversed(each.details.writers)
    found = (packages_of(writer.context) or writer.packages for writer in writers)
    return next(filter(None, found), {})


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
