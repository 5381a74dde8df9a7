"""Texts of other people without their secrets, log lines, and versions as they are stated. Pure.

Texts that somebody else wrote (errors of services and libraries), without what is secret in them. Pure.

Applied where such texts come in: to every error of ours (``errors.JournaltrackError``), which is what
receipts, logs and the command line show, and to what the command line prints of other people's logs
and tracebacks. What a script records is not looked at here: ``redaction`` is for that.

Log lines that can be grepped: ``event=pass journal=/data/run-1 delivered=20``, one event a line (logfmt).

Versions of journaltrack, as journals, bundles and files of receipts state them: is one newer, and which is needed.

What is stated is somebody else's text: it is shown only if it can be nothing but a version. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from journaltrack._version import __version__

REMOVED: Final = "[removed]"
SECRET_CHARS_MIN: Final = 8
"""Ours: shorter ones are left alone: replacing "a" eats the letters of every message, and hides nothing."""
_LOOKED_AT_MAX: Final = 16_384
_WORDS_CHARS_MAX: Final = 120
_MARKUP: Final = re.compile(r"(?is)<(style|script)\b.*?(?:</\1\s*>|\Z)|<!--.*?-->|<[^>]*>?")
_URL: Final = r"[a-zA-Z][a-zA-Z0-9+.-]*://"
_END: Final = r"\s\"'<>`"
_NAMES: Final = (
    r"x-amz-security-token|x-amz-signature|x-amz-credential|(?:aws_?)?session_?token|(?:aws_?)?secret_?access_?key|"
    r"(?:access|refresh|id|auth|web_?identity|bearer)_?token|client_?secret|api_?key|authorization|proxy-authorization|passwo?r?d|signature"
)
_RULES: Final = (
    # User info of a URL; a password may have any character but a slash.
    (re.compile(rf"({_URL})[^/{_END}]*@"), rf"\1{REMOVED}@"),
    # Query and fragment of a URL, or of the path that urllib3 names without its host.
    (re.compile(rf"((?:{_URL}|(?<![\w.])/)[^?#{_END}]*[?])[^{_END}]+"), rf"\1{REMOVED}"),
    (re.compile(rf"({_URL}[^#{_END}]*#)[^{_END}]+"), rf"\1{REMOVED}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {REMOVED}"),
    (re.compile(rf"(?i)\b({_NAMES})([\"']?\s*[:=]\s*[\"']?)(?!\[)[^,;&)}}\]{_END}]+"), rf"\1\2{REMOVED}"),
    # What STS calls a session token, and tokens of OpenID Connect, wherever they stand.
    (re.compile(r"\b(?:IQoJb3|FwoGZX|FQoGZX)[A-Za-z0-9+/=%_-]{16,}"), REMOVED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), REMOVED),
)


def first_words(answer: str | bytes) -> str:
    """What a page or document begins with, for a person who has to find out whose it is: without tags and secrets, on one line."""
    import html  # noqa: PLC0415 - its table of entities is a third of `import journaltrack`, and only strange answers need it

    begin = answer[:_LOOKED_AT_MAX]
    text = begin.decode(errors="replace") if isinstance(begin, bytes) else begin
    words = " ".join(html.unescape(_MARKUP.sub(" ", text)).split())
    words = without_secrets(words)
    return words if len(words) <= _WORDS_CHARS_MAX else words[: _WORDS_CHARS_MAX - 1] + "…"


def without_secrets(text: str, known: Iterable[str] = ()) -> str:
    """The text without user info and queries of URLs, tokens, signatures and passwords.

    Args:
        text: As it came.
        known: Secrets in use, which are replaced wherever they stand, also where they are quoted for a URL.
    """
    for secret in known:
        if len(secret) >= SECRET_CHARS_MIN:
            for spelling in (secret, quote(secret, safe=""), quote(secret)):
                text = text.replace(spelling, REMOVED)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


_PLAIN = re.compile(r"[^\s\"=\\]+")


def logfmt(event: str, **fields: object) -> str:
    """One line; fields that are None are left out, values with spaces or quotes become JSON strings (control characters escaped)."""
    import json  # noqa: PLC0415 - `import journaltrack` would load it for this alone

    parts = [f"event={event}"]
    for key, value in fields.items():
        if value is not None:
            text = without_secrets(str(value))
            parts.append(f"{key}={text if text.isprintable() and _PLAIN.fullmatch(text) else json.dumps(text)}")
    return " ".join(parts)


_VERSION: Final = re.compile(r"(\d{1,4}(?:\.\d{1,6}){1,3})(?:[.-]?(?:a|b|rc|dev|post)\d{0,9}){0,2}", re.ASCII)


def is_newer_version(stated: object, than: str = __version__) -> bool:
    """Return whether a stated version has a higher release number; what is no version has none."""
    return _release(stated) > _release(than)


def version_needed(*stated: object, reader: str = __version__) -> str:
    """Name the version that reads what a newer journaltrack wrote, from what it states.

    Args:
        stated: Versions that would do, the best one first; those that are not newer are passed over.
        reader: This version.
    """
    for version in stated:
        if is_newer_version(version, reader):
            return f"journaltrack {version} or later"
    return f"a journaltrack newer than {reader}"


def _release(stated: object) -> tuple[int, ...]:
    found = _VERSION.fullmatch(stated) if isinstance(stated, str) else None
    numbers = [int(number) for number in found[1].split(".")] if found else []
    while numbers and not numbers[-1]:  # 1.0 is 1.0.0
        numbers.pop()
    return tuple(numbers)
