"""Write a report as one HTML file, which opens without a network, prints, and runs no code.

Everything is inside: styles, curves as SVG, and our scripts, which make the curves interactive
where scripts may run. A policy in the file names the digests of those scripts and styles, so
nothing else runs, whatever the names in a journal say. Each foreign text passes ``_text``.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from journaltrack.journal import view
from journaltrack.ui.report import (
    DELIVERY,
    Report,
    ReportedJournal,
    ReportedRun,
    anchor_name,
    commands,
    delivery_rows,
    kind_of,
    named,
    not_finite_text,
    number,
    packages_of_run,
    printable_lines,
    recorded_by,
    rows_left_out,
    span,
    told_of_diff,
    verdict,
)

if TYPE_CHECKING:
    from journaltrack.readmodel.artifacts import Preview
    from journaltrack.readmodel.run import Series
    from journaltrack.reports.component import ArtifactView, ParameterView

_STATIC: Final = Path(__file__).with_name("static")
_STYLES: Final = ("vendor/uPlot.min.css", "style.css")
_SCRIPTS: Final = ("vendor/uPlot.iife.min.js", "common.js", "report.js")
_COLOURS: Final = 8
_WIDTH, _HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 10, 24
_DIGITS: Final = 6
_CHARS_MAX: Final = 20_000
_BRIEF_CHARS: Final = 60
_SHORT_CHARS: Final = 24
"""Cells up to this length are not folded."""
_UNFOLDED: Final = 40
"""Ours: more parameters are folded."""
_SMALLEST: Final = 1e-300
"""A power of ten below this is 0 as a double."""


def to_html(report: Report) -> str:
    """Return the report as one HTML document."""
    styles = [(_STATIC / name).read_text(encoding="utf-8") for name in _STYLES]
    scripts = [(_STATIC / name).read_text(encoding="utf-8") for name in _SCRIPTS]
    policy = (
        f"default-src 'none'; script-src {_digests(scripts)}; style-src {_digests(styles)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    # A data block is never run. No tag can end it.
    data = json.dumps(_data(report), allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
    body = "".join(
        [
            f"<header><h1>{_text(report.title)}</h1>",
            f"<p class=muted>Report of {_text(report.made_by)}. It needs no network.</p></header>",
            _summary(report),
            _charts(report),
            _numbers(report),
            *(_run(each) for each in report.runs),
            *(_journal(journal) for journal in report.journals),
        ]
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="referrer" content="no-referrer"><title>{_text(report.title)}</title>'
        f"{''.join(f'<style>{each}</style>' for each in styles)}</head>"
        f'<body class="report"><main>{body}</main>'
        f'<script type="application/json" id="curves">{data}</script>'
        f"{''.join(f'<script>{each}</script>' for each in scripts)}</body></html>\n"
    )


def _digests(texts: Iterable[str]) -> str:
    sums = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in sums)


def _text(value: object) -> str:
    """Return a foreign text for HTML, between tags or in a quoted attribute."""
    text = number(value)
    if len(text) > _CHARS_MAX:
        text = f"{text[:_CHARS_MAX]}… ({len(text)} characters)"
    return _escaped(text)


def _escaped(text: str) -> str:
    return html.escape(printable_lines(text))


def _data(report: Report) -> list[dict[str, Any]]:
    """Return the curves for the script: short, with six digits."""
    places = {each.run.key: place for place, each in enumerate(report.runs)}
    return [
        {
            "metric": metric,
            "series": [
                {
                    "label": report.runs[places[series.run]].label,
                    "colour": places[series.run],
                    "x": [_short(x) for x in series.x],
                    "y": [None if y is None else _short(y) for y in series.y],
                }
                for series in curves
            ],
        }
        for metric, curves in report.curves.items()
    ]


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")


def _section(title: str, body: str) -> str:
    return f'<section class="panel"><header><h2>{_text(title)}</h2></header>{body}</section>'


def _table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [
        f"<tr><th scope=row>{_html(row[0])}</th>" + "".join(map(_cell, row[1:])) + "</tr>"
        for row in rows
    ]
    if not lines:
        return ""
    head = "".join(f"<th scope=col>{_text(each)}</th>" for each in heads)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    is_long = not isinstance(value, _Html) and len(str(value)) > _SHORT_CHARS
    return f'<td class="{"wide" if is_long else "short"}">{_html(value)}</td>'


class _Html(str):
    """Markup of ours: everything foreign in it is escaped."""

    __slots__ = ()


def _html(value: object) -> str:
    return value if isinstance(value, _Html) else _text(value)


def _swatch(place: int, label: str) -> _Html:
    shown = f'<span class="swatch c{place % _COLOURS}"></span>{_key(place)} {_text(label)}'
    return _Html(shown)


def _key(place: int) -> str:
    """Return a piece of a run's curve: on paper without colours, the dashes tell whose it is."""
    path = f'<path class="line c{place % _COLOURS}" d="M0,3L28,3"/>'
    return f'<svg class="drawn key" viewBox="0 0 28 6" aria-hidden="true">{path}</svg>'


def _summary(report: Report) -> str:
    differing = report.comparison.differing[:12]
    rows = (
        (
            _swatch(place, each.label),
            _Html(f'<span class="chip">{_text(each.run.status)}</span>'),
            view.iso_seconds(each.run.started_ns),
            span(each.run),
            ", ".join(dict.fromkeys(str(writer.user) for writer in each.details.writers)),
            *(_brief(each.run.parameters.get(name)) for name in differing),
        )
        for place, each in enumerate(report.runs)
    )
    return _section(
        "Runs", _table(("run", "status", "started", "duration", "by", *differing), rows)
    )


def _brief(value: object) -> object:
    is_long = isinstance(value, str) and len(value) > _BRIEF_CHARS
    return f"{str(value)[:_BRIEF_CHARS]}…" if is_long else value


def _charts(report: Report) -> str:
    places = {each.run.key: place for place, each in enumerate(report.runs)}
    labels = [each.label for each in report.runs]
    drawn = []
    for place_of_metric, (metric, curves) in enumerate(report.curves.items()):
        lines = [(places[series.run], series) for series in curves]
        values = report.comparison.metrics[metric].values
        legend = "".join(
            f'<li class="c{place % _COLOURS}"><span class="swatch"></span>{_key(place)}'
            f'<span class="label">{_text(labels[place])}</span>'
            f"<span>{_text(view.to_json(value.last))}</span></li>"
            for place, value in ((place, values[place]) for place, _ in lines)
            if value is not None
        )
        drawn.append(
            f'<section class="chart" data-chart="{place_of_metric}">'
            f"<header><h3>{_text(metric)}</h3></header>"
            f'<div class="plot"></div><div class="still">{_svg(metric, lines)}</div>'
            f'<ul class="legend">{legend}</ul></section>'
        )
    left_out = len(report.comparison.metrics) - len(report.curves)
    more = f"<p class=muted>{left_out} more metrics are in the table.</p>" if left_out else ""
    return f'<h2 class="charts-title">Curves</h2><div class="charts">{"".join(drawn)}</div>{more}'


def _svg(metric: str, lines: Sequence[tuple[int, Series]]) -> str:
    """Draw curves that print, and show where no script may run."""
    xs = [
        x for _, series in lines for x, y in zip(series.x, series.y, strict=True) if y is not None
    ]
    ys = [y for _, series in lines for y in series.y if y is not None]
    if not xs:
        return '<p class="muted">No finite points.</p>'
    across, up = _Axis(xs, _LEFT, _WIDTH - _RIGHT), _Axis(ys, _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up.at(tick)}" '
        f'y2="{up.at(tick)}"/><text x="{_LEFT - 6}" y="{up.at(tick) + 4}" '
        f'text-anchor="end">{_text(tick)}</text>'
        for tick in up.ticks(4)
    ]
    parts += [
        f'<text x="{across.at(tick)}" y="{_HEIGHT - 6}" text-anchor="middle">{_text(tick)}</text>'
        for tick in across.ticks(6)
    ]
    for place, series in lines:
        path, pen = [], "M"
        for x, y in zip(series.x, series.y, strict=True):
            if y is None:
                pen = "M"
                continue
            path.append(f"{pen}{across.at(x)},{up.at(y)}")
            pen = "L"
        dot = "l.01,0" if len(path) == 1 else ""
        parts.append(f'<path class="line c{place % _COLOURS}" d="{"".join(path)}{dot}"/>')
    return (
        f'<svg class="drawn" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{_text(metric)} by step">{"".join(parts)}</svg>'
    )


class _Axis:
    """Map values to pixels."""

    def __init__(self, values: Sequence[float], first: float, end: float) -> None:
        low, high = min(values), max(values)
        if low == high:
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        self._low, self._high, self._first, self._end = low, high, first, end

    def at(self, value: float) -> float:
        """Return the pixel, with one decimal."""
        # Halves, since the difference of extremes is no double.
        share = (value / 2 - self._low / 2) / (self._high / 2 - self._low / 2)
        return round(self._first + share * (self._end - self._first), 1)

    def ticks(self, count: int) -> list[float]:
        """Return about so many round values."""
        raw = self._high / count - self._low / count
        power = 10.0 ** math.floor(math.log10(raw)) if raw > _SMALLEST else raw
        step = next((each * power for each in (1, 2, 5, 10) if each * power >= raw), raw)
        first = math.ceil(self._low / step)
        found = [(first + i) * step for i in range(2 * count + 2)]
        return [float(f"{each:.12g}") for each in found if each <= self._high]


def _numbers(report: Report) -> str:
    rows = []
    for name, metric in report.comparison.metrics.items():
        cells: list[object] = [name]
        for place, value in enumerate(metric.values):
            if value is None:
                cells.append(None)
                continue
            best = ' class="best"' if place in metric.best else ""
            span = f"{_text(value.min)} … {_text(value.max)}{not_finite_text(value)}"
            last = _text(view.to_json(value.last))
            cells.append(_Html(f"<span{best}>{last}</span><br><small>{span}</small>"))
        rows.append(cells)
    labels = [each.label for each in report.runs]
    return _section("Metrics", _table(("metric: last, min … max", *labels), rows))


def _facts(rows: Iterable[tuple[str, object]]) -> str:
    shown = "".join(
        f"<dt>{_text(name)}</dt><dd>{_html(value)}</dd>"
        for name, value in rows
        if value not in (None, "")
    )
    return f'<div class="body"><dl class="facts">{shown}</dl></div>'


def _run(each: ReportedRun) -> str:
    run, details = each.run, each.details
    packages = packages_of_run(each)
    traceback = details.status.traceback
    facts: list[tuple[str, object]] = [
        ("name", run.name),
        ("status", run.status),
        ("message", run.message),
        ("started", view.iso_seconds(run.started_ns)),
        ("ended", view.iso_seconds(run.ended_ns)),
        ("tags", ", ".join(f"{key}={value}" for key, value in run.tags.items())),
        ("note", run.note),
        ("trials", ", ".join(" / ".join(filter(None, pair)) for pair in run.experiments)),
        ("ARN", details.arn),
        ("journal", run.journal),
    ]
    facts += recorded_by(each)
    if packages:
        listed = "<br>".join(_text(f"{name}=={version}") for name, version in packages.items())
        told = f"<details><summary>{len(packages)} packages</summary>{listed}</details>"
        facts.append(("packages", _Html(told)))
    for diff in each.diffs:
        shown = f"<pre>{_escaped(diff.text)}</pre>" if diff.text else ""
        told = f"<details><summary>{_text(told_of_diff(diff))}</summary>{shown}</details>"
        facts.append(("git diff", _Html(told if shown else _text(told_of_diff(diff)))))
    if traceback:
        facts.append(("traceback", _Html(f"<pre>{_text(traceback)}</pre>")))
    if each.output:
        printed = _escaped("\n".join(each.output))
        facts.append(("last lines of the output", _Html(f"<pre>{printed}</pre>")))
    return _section(
        f"Run {each.label}",
        _facts(facts)
        + _parameters(details.parameters)
        + _artifacts(each)
        + _table(DELIVERY, delivery_rows(each))
        + _problems(each),
    )


def _parameters(parameters: Sequence[ParameterView]) -> str:
    table = _table(
        ("parameter", "value", "state"), ((one.name, one.value, one.place) for one in parameters)
    )
    if len(parameters) <= _UNFOLDED:
        return table
    return f'<details class="body"><summary>{len(parameters)} parameters</summary>{table}</details>'


def _artifacts(each: ReportedRun) -> str:
    """Return the artifacts as a table, and below it what is shown of them."""
    rows = (
        (
            named(one.view),
            kind_of(one.view),
            one.view.size_bytes,
            _Html(f"<code>{_text(one.view.sha256)}</code>") if one.view.sha256 else None,
            one.view.value,
            one.view.state,
        )
        for one in each.artifacts
    )
    heads = ("artifact", "type", "bytes", "SHA-256", "value", "state")
    shown = "".join(
        f"<details open><summary>{_text(named(one.view))}</summary>"
        f"{_preview(one.view, one.preview)}</details>"
        for one in each.artifacts
        if one.preview is not None
    )
    return _table(heads, rows) + (f'<div class="body previews">{shown}</div>' if shown else "")


def _preview(artifact: ArtifactView, preview: Preview) -> str:
    if preview.kind == "image":
        content = base64.b64encode(preview.image).decode()
        source = f"data:{preview.media_type};base64,{content}"
        return f'<img alt="{_text(named(artifact))}" src="{source}">'
    if preview.table is None:
        return f"<pre>{_escaped(preview.text)}</pre>"
    more = rows_left_out(preview.table)
    return _table(preview.table.columns, preview.table.rows) + (
        f"<p class=muted>{_text(more)}</p>" if more else ""
    )


def _problems(each: ReportedRun) -> str:
    found = each.audit.problems if each.audit else ()
    rows = ((one.kind, one.name, one.state, one.entries, one.reason, one.code) for one in found)
    return _table(("problem", "name", "state", "entries", "reason", "code"), rows)


def _journal(journal: ReportedJournal) -> str:
    facts: list[tuple[str, object]] = [("result of check", verdict(journal))]
    if journal.audit is not None:
        totals = journal.audit.totals
        told = f"{totals.entries} entries, {totals.delivered} delivered"
        facts += [("journal id", journal.audit.journal_id), ("holds", told)]
    for what, command in commands(journal):
        facts.append((f"verify: {what}", _Html(f"<code>{_text(command)}</code>")))
    if journal.document is not None:
        link = f"data:application/json;base64,{base64.b64encode(journal.document).decode()}"
        name = _text(anchor_name(journal))
        sha256 = hashlib.sha256(journal.document).hexdigest()
        told = (
            f'<a href="{link}" download="{name}">{name}</a> (the newest digest of each chain, as '
            f"of this report; SHA-256 <code>{sha256}</code>)"
        )
        facts.append(("anchor to save", _Html(told)))
    findings = journal.examination.findings if journal.examination else ()
    rows = ((one.severity, one.check, one.message, one.advice) for one in findings)
    return _section(
        f"Journal {journal.path}",
        _facts(facts) + _table(("finding", "check", "what was found", "advice"), rows),
    )
