"""Log lines that can be grepped: ``event=pass journal=/data/run-1 delivered=20``, one event a line (logfmt)."""

from __future__ import annotations

import json
import re

from journaltrack.util.foreign_text import without_secrets

_PLAIN = re.compile(r"[^\s\"=\\]+")


def logfmt(event: str, **fields: object) -> str:
    """One line; fields that are None are left out, values with spaces or quotes become JSON strings (control characters escaped)."""
    parts = [f"event={event}"]
    for key, value in fields.items():
        if value is not None:
            text = without_secrets(str(value))
            parts.append(f"{key}={text if text.isprintable() and _PLAIN.fullmatch(text) else json.dumps(text)}")
    return " ".join(parts)
