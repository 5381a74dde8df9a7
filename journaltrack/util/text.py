"""Remove secrets from foreign texts, write log lines and HTML, read versions and times.

Secrets: services and libraries write errors that may quote secrets. All our errors
(``errors.JournaltrackError``) pass through here, and so do foreign logs and tracebacks that the
command line prints. What a script records does not: see ``validation.Redaction``.

Log lines have the form logfmt, one event a line, so that grep finds them:
``event=pass journal=/data/run-1 delivered=20``.

Times: people write them in ISO's form.

Versions: journals, bundles and receipts state the version that wrote them. That text is foreign,
and is shown only if it has the form of a version.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import quote

from journaltrack._version import __version__

REMOVED: Final = "[removed]"
SECRET_CHARS_MIN: Final = 8
"""Ours: shorter secrets are not replaced. Replacing "a" would destroy every message."""
_LOOKED_AT_MAX: Final = 16_384
_WORDS_CHARS_MAX: Final = 120
_SHOWN_CHARS_MAX: Final = 300
_MARKUP: Final = re.compile(r"(?is)<(style|script)\b.*?(?:</\1\s*>|\Z)|<!--.*?-->|<[^>]*>?")
_END: Final = r"\s\"'<>`"
_KINDS_OF_NAMES: Final = (
    r"x-amz-security-token|x-amz-signature|x-amz-credential",
    r"(?:aws_?)?session_?token|(?:aws_?)?secret_?access_?key",
    r"(?:access|refresh|id|auth|web_?identity|bearer)_?token|client_?secret|api_?key",
    r"authorization|proxy-authorization|passwo?r?d|signature",
)
_NAMES: Final = "|".join(_KINDS_OF_NAMES)
_RULES: Final = (
    # User info of a URL. A password can contain any character but a slash.
    (re.compile(rf"(://)[^/{_END}]*@"), rf"\1{REMOVED}@"),
    # Query and fragment of a URL, or of the path that urllib3 names without its host. A search
    # begins once in a word: else a long word, such as an image in base64, would take minutes.
    (
        re.compile(rf"(?<![^?#{_END}])(?=[^?#{_END}]*(?<![\w.])/)([^?#{_END}]*[?])[^{_END}]+"),
        rf"\1{REMOVED}",
    ),
    (
        re.compile(rf"(?<![^#{_END}])(?=[^#{_END}]*://)([^#{_END}]*#)[^{_END}]+"),
        rf"\1{REMOVED}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {REMOVED}"),
    (
        re.compile(rf"(?i)\b({_NAMES})([\"']?\s*[:=]\s*[\"']?)(?!\[)[^,;&)}}\]{_END}]+"),
        rf"\1\2{REMOVED}",
    ),
    # Session tokens of STS and tokens of OpenID Connect, wherever they stand.
    (re.compile(r"\b(?:IQoJb3|FwoGZX|FQoGZX)[A-Za-z0-9+/=%_-]{16,}"), REMOVED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), REMOVED),
)

_PLAIN = re.compile(r"[^\s\"=\\]+")
_FIELD = re.compile(r'([^\s=]+)=("(?:[^"\\]|\\.)*"|[^\s"]*)')
_WHOLE_MAX: Final = 1e15
"""Ours: whole numbers from here on are shown with an exponent."""
_VERSION: Final = re.compile(
    r"(\d{1,4}(?:\.\d{1,6}){1,3})(?:[.-]?(?:a|b|rc|dev|post)\d{0,9}){0,2}", re.ASCII
)


def text_or_none(value: object) -> str | None:
    """Return what should be a text, if it is one."""
    return value if isinstance(value, str) else None


def html_table(title: str, fields: Mapping[str, object]) -> str:
    """Return a title and fields as HTML, for notebooks. Everything is escaped; None is left out."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{_html(key)}</th>"
        f"<td style='text-align:left'>{_html(value)}</td></tr>"
        for key, value in fields.items()
        if value is not None
    )
    return f"<table><caption>{_html(title)}</caption><tbody>{rows}</tbody></table>"


def html_rows(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as an HTML table, with a column for each key that has a value somewhere."""
    columns = dict.fromkeys(key for row in rows for key, value in row.items() if value is not None)
    head = "".join(f"<th>{_html(column)}</th>" for column in columns)
    body = "".join(
        "<tr>"
        + "".join(f"<td>{_html('' if (v := row.get(c)) is None else v)}</td>" for c in columns)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html(value: object) -> str:
    # Its table of entities is a third of `import journaltrack`.
    import html  # noqa: PLC0415

    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if len(text) > _SHOWN_CHARS_MAX:
        text = text[: _SHOWN_CHARS_MAX - 1] + "…"
    # A lone surrogate can't be encoded.
    return html.escape(text.encode(errors="replace").decode())


def first_words(answer: str | bytes) -> str:
    """Return the first words of a page, on one line and without tags and secrets.

    They help a person to find out who sent the page.
    """
    # Its table of entities is a third of `import journaltrack`, and only strange answers need it.
    import html  # noqa: PLC0415

    begin = answer[:_LOOKED_AT_MAX]
    text = begin.decode(errors="replace") if isinstance(begin, bytes) else begin
    words = " ".join(html.unescape(_MARKUP.sub(" ", text)).split())
    words = without_secrets(words)
    return words if len(words) <= _WORDS_CHARS_MAX else words[: _WORDS_CHARS_MAX - 1] + "…"


def without_secrets(text: str, known: Iterable[str] = ()) -> str:
    """Remove user info and queries of URLs, tokens, signatures and passwords from a text.

    Args:
        text: The text.
        known: Secrets in use. They are replaced everywhere, also in their URL-quoted form.
    """
    for secret in known:
        if len(secret) >= SECRET_CHARS_MIN:
            for spelling in (secret, quote(secret, safe=""), quote(secret)):
                text = text.replace(spelling, REMOVED)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def logfmt(event: str, **fields: object) -> str:
    """Return a log line.

    Fields that are None are left out. Values with spaces, quotes or control characters become JSON
    strings.
    """
    # `import journaltrack` would load it only for this.
    import json  # noqa: PLC0415

    parts = [f"event={event}"]
    for key, value in fields.items():
        if value is not None:
            text = without_secrets(str(value))
            is_plain = text.isprintable() and _PLAIN.fullmatch(text)
            parts.append(f"{key}={text if is_plain else json.dumps(text)}")
    return " ".join(parts)


def fields_of(line: str) -> dict[str, str]:
    """Return the fields of a line that ``logfmt`` made."""
    # As above.
    import json  # noqa: PLC0415

    return {
        key: str(json.loads(text)) if text.startswith('"') else text
        for key, text in _FIELD.findall(line)
    }


def is_newer_version(stated: object, than: str = __version__) -> bool:
    """Return whether a stated version has a higher release number. Other texts have none."""
    return _release(stated) > _release(than)


def version_needed(*stated: object, reader: str = __version__) -> str:
    """Name the version that can read what a newer journaltrack wrote.

    Args:
        stated: Versions that would do, the best one first. Those that are not newer are skipped.
        reader: This version.
    """
    for version in stated:
        if is_newer_version(version, reader):
            return f"journaltrack {version} or later"
    return f"a journaltrack newer than {reader}"


def epoch_s(text: str) -> float | None:
    """Return a time such as 2026-11-03 or 2026-11-03T12:00+01:00 in seconds since the epoch.

    A time without an offset is local time. None if it is no time.
    """
    import datetime as dt  # noqa: PLC0415 - no training script needs it

    try:
        # Python 3.10 knows no "Z".
        moment = dt.datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text.strip()))
        return moment.astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def six_digits(value: object) -> str:
    """Format a value for people: a number in at most six digits, a whole one with all of them."""
    if isinstance(value, float) and not (value.is_integer() and abs(value) < _WHOLE_MAX):
        return f"{value:.6g}"
    return str(int(value) if isinstance(value, float) else value)


def duration(seconds: float) -> str:
    """Format seconds for people: "3 h 12 min"."""
    if 0 <= seconds < 0.1:  # noqa: PLR2004
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    whole = int(seconds)
    parts = (
        (whole // 86_400, "d"),
        (whole // 3_600 % 24, "h"),
        (whole // 60 % 60, "min"),
        (whole % 60, "s"),
    )
    first = next(i for i, (amount, _) in enumerate(parts) if amount)
    return " ".join(f"{amount} {unit}" for amount, unit in parts[first : first + 2] if amount)


def _release(stated: object) -> tuple[int, ...]:
    found = _VERSION.fullmatch(stated) if isinstance(stated, str) else None
    numbers = [int(number) for number in found[1].split(".")] if found else []
    # 1.0 equals 1.0.0.
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
