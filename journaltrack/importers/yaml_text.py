"""Read the YAML that PyYAML writes: of Lightning's hyper-parameters, and of MLflow's runs.

A part of YAML 1.1: mappings and lists in blocks or in brackets, plain, quoted and literal texts,
anchors. A tag such as ``!!python/tuple`` is dropped, and no object is ever made. All else is an
error that names the line. So no library is needed for files that are nearly always a few lines.

Pure.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

DEPTH_MAX: Final = 64
REPEATED_MAX: Final = 10_000
"""Ours: how deep a document may nest, and how many values its names may stand for.

A few lines of names that stand for names could describe more than fits into memory.
"""
_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_OCTAL: Final = re.compile(r"[-+]?0[0-7_]+")
_HEX: Final = re.compile(r"[-+]?0x[0-9a-fA-F_]+")
_BINARY: Final = re.compile(r"[-+]?0b[01_]+")
_FLOAT: Final = re.compile(r"[-+]?([0-9][0-9_]*)\.[0-9_]*([eE][-+][0-9]+)?|[-+]?\.[0-9][0-9_]*")
_INFINITE: Final = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_ODD: Final = re.compile("[\x85\u2028\u2029]")
_BLANKS: Final = " \t\n"
_WORDS: Final[dict[str, Any]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_ESCAPES: Final = dict(
    zip(
        '0abtnvfre "/\\\tN_LP',
        '\0\a\b\t\n\v\f\r\x1b "/\\\t\x85\xa0\u2028\u2029',
        strict=True,
    )
)
_HEXES: Final = {"x": 2, "u": 4, "U": 8}
_PROPERTY: Final = re.compile(r"([&*!])([^ \t\n]*)(?:[ \t\n]+|$)")
_FLOW_WORD: Final = re.compile(r"(?:[^,\[\]{}:]|:(?![ \t\n,\]}]|$))*")
_KEY_END: Final = re.compile(r":(?=[ \t\n]|$)")
_QUOTED: Final = re.compile(r"(?<=[\[{,: \t\n])(?:'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\")", re.DOTALL)
_OPENED: Final = re.compile(r"(?<=[\[{,: \t\n])['\"]")
_COMMENT: Final = re.compile(r"(?:^|[ \t\n])#")


def load(text: str) -> Any:  # noqa: ANN401 - any document
    """Return what a document says: dicts, lists, texts, numbers, booleans, None.

    Raises:
        ValueError: It is beyond the part of YAML that is read. The message names the line.
    """
    return _Reader(text).document()


class _Reader:
    """Read one document, line by line."""

    def __init__(self, text: str) -> None:
        self._lines = re.split(r"\r\n|\n|\r", text)
        self._at = next((n for n, line in enumerate(self._lines) if _ODD.search(line)), 0)
        if _ODD.search(self._lines[self._at]):
            raise self._error("a line break that is none of ASCII's is not read")
        # With how many values it stands for.
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._repeated = 0

    def document(self) -> Any:  # noqa: ANN401
        """Return the document."""
        self._skip()
        while self._at < len(self._lines) and self._line().startswith(("%", "---")):
            line = self._line()
            if line.startswith("---") and (rest := line[3:].strip(_BLANKS)) and rest[0] != "#":
                self._lines[self._at] = rest
                break
            self._at += 1
            self._skip()
        found = self._block(0, 0) if self._at < len(self._lines) else None
        self._skip()
        if self._at < len(self._lines) and not self._line().startswith(("...", "---")):
            raise self._error("this line belongs to nothing")
        return found

    # -- lines -------------------------------------------------------------------------------------

    def _line(self) -> str:
        return self._lines[self._at]

    def _indent(self) -> int:
        line = self._line()
        return len(line) - len(line.lstrip(" "))

    def _skip(self) -> None:
        """Go to the next line that is neither empty nor a comment."""
        while self._at < len(self._lines) and (
            not self._line().strip(_BLANKS) or self._line().lstrip(_BLANKS).startswith("#")
        ):
            self._at += 1

    def _error(self, why: str) -> ValueError:
        return ValueError(f"line {min(self._at, len(self._lines) - 1) + 1} of the YAML: {why}")

    # -- blocks ------------------------------------------------------------------------------------

    def _block(self, indent: int, depth: int) -> Any:  # noqa: ANN401
        """Return the value that begins at this line, of lines that are indented so far or more."""
        self._skip()
        if depth > DEPTH_MAX:
            raise self._error("it is nested too deep")
        if self._at >= len(self._lines) or self._indent() < indent:
            return None
        indent, text = self._indent(), self._line().strip(_BLANKS)
        if "\t" in self._line()[: indent + 1]:
            raise self._error("a tab can't indent")
        if text == "-" or text.startswith("- "):
            return self._list(indent, depth)
        if self._key_of(text) is not None:
            return self._mapping(indent, depth)
        self._lines[self._at] = text
        return self._value(text, indent - 1, depth)

    def _list(self, indent: int, depth: int) -> list[Any]:
        found: list[Any] = []
        while self._at < len(self._lines) and self._indent() == indent:
            text = self._line().strip(_BLANKS)
            if text != "-" and not text.startswith("- "):
                break
            rest = text[1:].lstrip(_BLANKS)
            if rest.startswith("#"):
                rest = ""
            if not rest:
                self._at += 1
                found.append(self._block(indent + 1, depth + 1))
            elif rest == "-" or rest.startswith("- ") or self._key_of(rest) is not None:
                # A block that begins beside the dash.
                place = self._line().index("-") + 1
                place += len(self._line()[place:]) - len(self._line()[place:].lstrip(_BLANKS))
                self._lines[self._at] = " " * place + rest
                found.append(self._block(place, depth + 1))
            else:
                found.append(self._value(rest, indent, depth + 1))
            self._skip()
        return found

    def _mapping(self, indent: int, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        while self._at < len(self._lines) and self._indent() == indent:
            text = self._line().strip(_BLANKS)
            split = self._key_of(text)
            if split is None:
                if text.startswith(("...", "---", "- ")) or text == "-":
                    break
                raise self._error("it is no `key: value`")
            key, rest = split
            if not rest or _is_properties(rest):
                found[key] = self._below(rest, indent, depth)
            else:
                found[key] = self._value(rest, indent, depth + 1)
            self._skip()
        return found

    def _below(self, rest: str, indent: int, depth: int) -> Any:  # noqa: ANN401
        """Return the block below a key, with an anchor or a tag behind the key."""
        anchor, _ = self._properties(rest)
        self._at += 1
        self._skip()
        # PyYAML does not indent a list below its key.
        is_list = (
            self._at < len(self._lines)
            and self._indent() == indent
            and (
                self._line().strip(_BLANKS) == "-" or self._line().lstrip(_BLANKS).startswith("- ")
            )
        )
        value = self._block(indent if is_list else indent + 1, depth + 1)
        return self._named(anchor, value)

    def _named(self, anchor: str | None, value: Any) -> Any:  # noqa: ANN401
        """Return a value, which may have a name."""
        if anchor:
            self._anchors[anchor] = value, _count(value)
        return value

    def _key_of(self, text: str) -> tuple[Any, str] | None:
        """Return the key of a line and what stands behind it; None if it has none."""
        if text == "?" or text.startswith("? "):
            raise self._error("a key behind a question mark is not read")
        if text[:1] in {"[", "{", "|", ">", "#", "*", "&", "!"}:
            return None
        if text[:1] in {"'", '"'}:
            end = _end_of_quoted(text)
            if end is None or not _KEY_END.match(text, end):
                return None
            return self._quoted(text[:end]), _uncommented(text[end + 1 :].strip(_BLANKS))
        end_of_key = _KEY_END.search(text)
        if end_of_key is None or _COMMENT.search(text, 0, end_of_key.start()):
            return None
        key = text[: end_of_key.start()].strip(_BLANKS)
        return _resolved(key), _uncommented(text[end_of_key.end() :].strip(_BLANKS))

    # -- values ------------------------------------------------------------------------------------

    def _value(self, text: str, indent: int, depth: int) -> Any:  # noqa: ANN401
        """Return the value that begins with a text at the end of this line; go behind it.

        Its further lines are indented more than ``indent``.
        """
        anchor, text = self._properties(text)
        if text.startswith("*"):
            self._at += 1
            name = text[1:].strip(_BLANKS)
            if name not in self._anchors:
                raise self._error(f"nothing is named *{name}")
            value, count = self._anchors[name]
            self._repeated += count
            if self._repeated > REPEATED_MAX:
                raise self._error(f"names stand for more than {REPEATED_MAX} values")
            return value
        if text[:1] in {"|", ">"}:
            value = self._literal(text, indent)
        elif text[:1] in {"'", '"'}:
            value = self._quoted(self._joined(text, indent, _is_quoted_whole))
        elif text[:1] in {"[", "{"}:
            joined = self._joined(text, indent, _is_flow_whole)
            value, end = self._flow(joined, 0, depth)
            if joined[end:].strip(_BLANKS) and not joined[end:].lstrip(_BLANKS).startswith("#"):
                raise self._error("something stands behind a bracket")
        else:
            value = self._plain(text, indent)
        return self._named(anchor, value)

    def _properties(self, text: str) -> tuple[str | None, str]:
        """Return the anchor before a value, and the value's text without its tag."""
        anchor = None
        while (found := _PROPERTY.match(text)) and found[1] != "*":
            if found[1] == "&":
                anchor = found[2]
            text = text[found.end() :]
        return anchor, text

    def _joined(self, text: str, indent: int, is_whole: Any) -> str:  # noqa: ANN401
        """Return a value of several lines in one, with line breaks between them."""
        self._at += 1
        while not is_whole(text):
            if self._at >= len(self._lines):
                raise self._error("a quote or bracket is never closed")
            line = self._line()
            if line.strip(_BLANKS) and self._indent() <= indent:
                raise self._error("a quote or bracket is not closed")
            text += "\n" + line.strip(_BLANKS)
            self._at += 1
        return text

    def _plain(self, text: str, indent: int) -> Any:  # noqa: ANN401
        """Return a plain scalar, with its further lines folded."""
        parts, blanks = [_uncommented(text)], 0
        self._at += 1
        while self._at < len(self._lines):
            line = self._line()
            if not line.strip(_BLANKS):
                blanks += 1
            elif self._indent() <= indent or line.lstrip(_BLANKS).startswith("#"):
                break
            else:
                parts += ["\n" * blanks if blanks else " ", _uncommented(line.strip(_BLANKS))]
                blanks = 0
            self._at += 1
        joined = "".join(parts)
        if len(parts) > 1 and self._key_of(joined) is not None:
            raise self._error("a plain text of several lines has a colon")
        if joined[:1] in {"@", "`", "%", ","}:
            raise self._error("a plain text can't begin so")
        return _resolved(joined)

    def _literal(self, text: str, indent: int) -> str:
        """Return a text behind ``|`` or ``>``."""
        head = re.fullmatch(r"([|>])([1-9]?)([-+]?)([1-9]?)(\s+#.*)?", text)
        if head is None:
            raise self._error("what stands behind | or > is not read")
        self._at += 1
        lines: list[str] = []
        given = head[2] or head[4]
        width = max(indent, 0) + int(given) if given else None
        while self._at < len(self._lines):
            line = self._line()
            if line.strip(_BLANKS):
                width = self._indent() if width is None else width
                if self._indent() < width or width <= indent:
                    break
            lines.append(line[width or 0 :])
            self._at += 1
        body = "\n".join(lines)
        stripped = body.rstrip("\n")
        ending = body[len(stripped) :] + ("\n" if self._at < len(self._lines) else "")
        if head[1] == ">":
            stripped = _folded_lines(stripped.split("\n"))
        if head[3] == "-" or not stripped:
            return stripped
        return stripped + (ending if head[3] == "+" else "\n")

    def _quoted(self, text: str) -> str:
        """Return a quoted text, whose lines are folded."""
        end = _end_of_quoted(text)
        if end is None or (
            text[end:].strip(_BLANKS) and not text[end:].lstrip(_BLANKS).startswith("#")
        ):
            raise self._error("something stands behind a quoted text")
        body = text[1 : end - 1]
        if text[0] == "'":
            return _folded(body).replace("''", "'")
        # A backslash at the end of a line joins it with the next one.
        body = re.sub(r"(?<!\\)((?:\\\\)*)\\[ \t]*\n[ \t\n]*", r"\1", body)
        return re.sub(r"\\(x..|u....|U.{8}|.)", self._unescaped, _folded(body), flags=re.DOTALL)

    def _unescaped(self, found: re.Match[str]) -> str:
        code = found[1]
        if code[0] in _HEXES and len(code) == _HEXES[code[0]] + 1:
            try:
                return chr(int(code[1:], 16))
            except (ValueError, OverflowError) as error:
                raise self._error(f"\\{code} is no character") from error
        if code not in _ESCAPES:
            raise self._error(f"\\{code} is not read")
        return _ESCAPES[code]

    def _flow(self, text: str, at: int, depth: int) -> tuple[Any, int]:
        """Return the value in brackets at a place, and the place behind it."""
        if depth > DEPTH_MAX:
            raise self._error("it is nested too deep")
        at = _behind_blanks(text, at)
        if text[at : at + 1] in {"'", '"'}:
            end = _end_of_quoted(text, at)
            if end is None:
                raise self._error("a quote is never closed")
            return self._quoted(text[at:end]), end
        if text[at : at + 1] not in {"[", "{"}:
            found = _FLOW_WORD.match(text, at)
            word = found[0] if found else ""
            anchor, plain = self._properties(_folded(word.strip(_BLANKS)))
            if anchor or plain[:1] in {"*", "?"}:
                raise self._error("a name or question mark inside of brackets is not read")
            return _resolved(plain), at + len(word)
        if text[at] == "{":
            return self._flow_mapping(text, at + 1, depth)
        items: list[Any] = []
        at = _behind_blanks(text, at + 1)
        while text[at : at + 1] != "]":
            item, at = self._flow(text, at, depth + 1)
            items.append(item)
            at = self._next(text, at, "]")
        return items, at + 1

    def _flow_mapping(self, text: str, at: int, depth: int) -> tuple[dict[Any, Any], int]:
        members: dict[Any, Any] = {}
        at = _behind_blanks(text, at)
        while text[at : at + 1] != "}":
            key, at = self._flow(text, at, depth + 1)
            if isinstance(key, (dict, list)):
                raise self._error("a key in brackets is not read")
            at, members[key] = _behind_blanks(text, at), None
            if text[at : at + 1] == ":":
                members[key], at = self._flow(text, at + 1, depth + 1)
            at = self._next(text, at, "}")
        return members, at + 1

    def _next(self, text: str, at: int, closing: str) -> int:
        """Return the place of the next item in brackets, or of the closing one."""
        at = _behind_blanks(text, at)
        if text[at : at + 1] == ",":
            return _behind_blanks(text, at + 1)
        if text[at : at + 1] != closing:
            raise self._error("a bracket has something that is not read")
        return at


def _behind_blanks(text: str, at: int) -> int:
    return at + len(text[at:]) - len(text[at:].lstrip(_BLANKS))


def _resolved(text: str) -> Any:  # noqa: ANN401
    """Return what a plain text stands for, as PyYAML does."""
    if text in _WORDS:
        return _WORDS[text]
    plain = text.replace("_", "")
    if _OCTAL.fullmatch(text):
        return int(plain, 8)
    if _INT.fullmatch(text):
        # So many digits are no number that somebody chose.
        return int(plain) if len(plain) < 4_000 else text  # noqa: PLR2004
    if _HEX.fullmatch(text):
        return int(plain, 16)
    if _BINARY.fullmatch(text):
        return int(plain, 2)
    if _FLOAT.fullmatch(text):
        return float(plain)
    infinite = _INFINITE.fullmatch(text)
    return math.inf * (-1 if infinite[1] == "-" else 1) if infinite else text


def _count(value: Any) -> int:  # noqa: ANN401
    """Return how many values a value has, and itself."""
    if isinstance(value, dict):
        return 1 + sum(map(_count, value.values()))
    return 1 + sum(map(_count, value)) if isinstance(value, list) else 1


def _is_properties(text: str) -> bool:
    return bool(re.fullmatch(r"([&!][^ \t\n]*[ \t\n]*)+", text))


def _uncommented(text: str) -> str:
    """Remove a comment behind a plain text; in a quoted one there is none."""
    if text[:1] in {"'", '"', "[", "{"}:
        return text
    found = _COMMENT.search(text)
    return text[: found.start()].rstrip(_BLANKS) if found else text


def _end_of_quoted(text: str, at: int = 0) -> int | None:
    """Return the place behind the closing quote of a text that is quoted from a place on."""
    pattern = r"'(?:[^']|'')*'" if text[at] == "'" else r'"(?:[^"\\]|\\.)*"'
    found = re.compile(pattern, re.DOTALL).match(text, at)
    return found.end() if found else None


def _is_quoted_whole(text: str) -> bool:
    return _end_of_quoted(text) is not None


def _is_flow_whole(text: str) -> bool:
    """Return whether as many brackets are closed as opened, outside of quotes."""
    bare = _QUOTED.sub("", text)
    return not _OPENED.search(bare) and bare.count("[") + bare.count("{") <= bare.count(
        "]"
    ) + bare.count("}")


def _folded(text: str) -> str:
    """Fold the line breaks of a quoted text: one is a space, of more one is dropped."""
    return re.sub(
        r"[ \t]*\n[ \t\n]*",
        lambda found: "\n" * (found[0].count("\n") - 1) or " ",
        text,
    )


def _folded_lines(lines: list[str]) -> str:
    """Fold the lines behind ``>``: those that are indented further stay."""
    text, before = lines[0], lines[0]
    for line in lines[1:]:
        if line and before and not line.startswith(" ") and not before.startswith(" "):
            text += " " + line
        elif line and not before and not line.startswith(" ") and text.endswith("\n"):
            text += line
        else:
            text += "\n" + line
        before = line
    return text
