"""Texts that somebody else wrote (errors of services and libraries), without what is secret in them. Pure.

Applied where such texts come in: to every error of ours (``errors.JournaltrackError``), which is what
receipts, logs and the command line show, and to what the command line prints of other people's logs
and tracebacks. What a script records is not looked at here: ``redaction`` is for that.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

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
