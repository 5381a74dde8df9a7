"""Make the bytes of what a script shows: figures, images, texts and documents. Pure.

Each function returns a name and a content. The name's suffix says the form; without one, the
function's own form counts, and its suffix is added. Objects of other libraries (matplotlib, plotly,
Pillow, torch) are recognized by what they can do. Nothing of theirs is imported. NumPy, which
whoever has an array has, and PyYAML are imported at the first use.

What can't be turned into bytes raises before anything is recorded. Must not know the journal.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import mimetypes
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date
from pathlib import PurePath, PurePosixPath
from typing import Any, Final, NamedTuple, TypeVar, cast

from journaltrack import limits
from journaltrack.errors import (
    InvalidInputError,
    InvalidTypeError,
    JournaltrackError,
    MissingExtraError,
)
from journaltrack.tracking import shapes, validation
from journaltrack.util.text import first_words

T = TypeVar("T")

_NOTHING: Final = "nothing was recorded"
_CHANNELS: Final = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's colour types by channels: gray, gray and alpha, RGB, RGBA (ISO/IEC 15948, 11.2.2)."""
_YAML: Final = frozenset({".yaml", ".yml"})
_NO_DOCUMENTS: Final = frozenset({".toml", ".ini", ".cfg", ".xml", ".csv", ".tsv", ".html"})
"""Suffixes of forms that a document is not written in."""
_MEDIA_TYPES: Final = {".yaml": "text/yaml", ".yml": "text/yaml", ".md": "text/markdown"}
"""Those that ``mimetypes`` does not know everywhere."""


class Media(NamedTuple):
    """A content, the name of its artifact, and its media type."""

    name: str
    content: bytes
    media_type: str


def figure(value: Any, name: object) -> Media:  # noqa: ANN401 - matplotlib's, plotly's
    """Return a figure: PNG of matplotlib, JSON of plotly; or the form of the name's suffix.

    Plotly's HTML holds its script of 4.5 MB, and loads nothing from elsewhere.

    Raises:
        InvalidInputError: It can't be drawn in this form.
        InvalidTypeError: It is no figure.
    """
    return made("the figure", lambda: _figure(value, name))


def _figure(value: Any, name: object) -> Media:  # noqa: ANN401 - matplotlib's, plotly's
    if callable(getattr(value, "to_plotly_json", None)):
        return _of_plotly(value, _named(name, ".json"))
    # An axes has a figure; seaborn's grids, too.
    drawn: Any = value if hasattr(value, "savefig") else getattr(value, "figure", None)
    if not callable(getattr(drawn, "savefig", None)):
        raise InvalidTypeError(
            f"a figure is matplotlib's or plotly's, not {type(value).__name__}; {_NOTHING}",
            hint="log_image(image, name) takes arrays and Pillow's images",
        )
    chosen = _named(name, ".png")
    form = _suffix(chosen)[1:]
    # Without the time of the call, the same figure is the same content.
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    target = io.BytesIO()
    drawn.savefig(target, format=form, metadata=dates)
    return _media(chosen, target.getvalue())


def _of_plotly(value: Any, name: str) -> Media:  # noqa: ANN401 - plotly's
    form = _suffix(name)[1:]
    if form == "json":
        content = str(value.to_json()).encode()
    elif form in {"html", "htm"}:
        content = str(value.to_html(include_plotlyjs=True)).encode()
    else:
        content = bytes(value.to_image(format=form))
    return _media(name, content)


def image(value: Any, name: object) -> Media:  # noqa: ANN401 - Pillow's, arrays of any library
    """Return an image: PNG, or of Pillow's the form of the name's suffix.

    Args:
        value: Pillow's, or an array: height x width, with or without 1 to 4 channels behind. A
            tensor may have its channels in front, as torch has. Values are integers from 0 to 255,
            numbers from 0 to 1, or booleans.
        name: The artifact's.

    Raises:
        InvalidInputError: The array has another shape, or other values; Pillow refuses the form.
        InvalidTypeError: It is no image.
    """
    return made("the image", lambda: _image(value, name))


def _image(value: Any, name: object) -> Media:  # noqa: ANN401 - Pillow's, arrays of any library
    chosen = _named(name, ".png")
    if callable(getattr(value, "save", None)) and hasattr(value, "mode"):
        form = {".jpg": "jpeg", ".tif": "tiff"}.get(_suffix(chosen), _suffix(chosen)[1:])
        target = io.BytesIO()
        value.save(target, format=form)
        return _media(chosen, target.getvalue())
    if _suffix(chosen) != ".png":
        raise InvalidInputError(
            f"an array becomes PNG, not {limits.shown(_suffix(chosen))}; {_NOTHING}",
            hint="give a name that ends in .png, or Pillow's image",
        )
    return _media(chosen, _png(_pixels(value)))


def text(value: object, name: object) -> Media:
    """Return a text in UTF-8.

    Raises:
        InvalidTypeError: It is no text.
    """
    if not issubclass(type(value), str):
        raise InvalidTypeError(f"a text must be a str, not {type(value).__name__}; {_NOTHING}")
    chosen = _named(name, ".txt")
    plain = str.__str__(cast("str", value))
    return _media(chosen, plain.encode(errors="backslashreplace"), "text/plain")


def document(value: object, name: object) -> Media:
    """Return a mapping, object or list as JSON; as YAML if the name ends so.

    NaN and infinity, which JSON lacks, become the texts "NaN", "Infinity" and "-Infinity".

    Raises:
        InvalidInputError: It contains itself, or a value has no text.
        InvalidTypeError: It is no mapping, object or list.
        MissingExtraError: The name asks for YAML, and PyYAML is not installed.
    """
    return made("the document", lambda: _document(value, name))


def _document(value: object, name: object) -> Media:
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if shapes.members(value) is None and not is_list:
        raise InvalidTypeError(
            f"a document must be a mapping or a list, not {type(value).__name__}; {_NOTHING}"
        )
    chosen = _named(name, ".json")
    if _suffix(chosen) in _NO_DOCUMENTS:
        raise InvalidInputError(
            f"a document is written as JSON or YAML, not as {_suffix(chosen)}; {_NOTHING}",
            hint="give a name that ends in .json or .yaml, or log_text(text, name)",
        )
    plain = _plain(value, frozenset())
    if _suffix(chosen) not in _YAML:
        content = json.dumps(plain, indent=2, allow_nan=False) + "\n"
        return _media(chosen, content.encode(), "application/json")
    try:
        # It has no types of its own.
        yaml: Any = importlib.import_module("yaml")
    except ImportError as error:
        raise MissingExtraError(
            f"YAML needs PyYAML, and it can't be imported ({error}); {_NOTHING}",
            hint="pip install pyyaml, or give a name that ends in .json",
        ) from error
    return _media(chosen, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())


def made(what: str, make: Callable[[], T]) -> T:
    """Return what is made of foreign objects, which may fail with any exception.

    Raises:
        InvalidInputError: Making failed.
    """
    try:
        return make()
    except JournaltrackError:
        raise
    except Exception as error:
        told = first_words(str(error)) or type(error).__name__
        raise InvalidInputError(f"{what} can't be made: {told}; {_NOTHING}") from error


def _media(name: str, content: bytes, otherwise: str = "application/octet-stream") -> Media:
    suffix = _suffix(name)
    guessed = _MEDIA_TYPES.get(suffix) or mimetypes.guess_type(f"x{suffix}")[0]
    return Media(name, content, guessed or otherwise)


def _named(name: object, suffix: str) -> str:
    if not isinstance(name, str):
        raise InvalidTypeError(f"name must be a str, not {type(name).__name__}; {_NOTHING}")
    plain = str.__str__(name)
    return plain if _suffix(plain) else f"{plain}{suffix}"


def _suffix(name: str) -> str:
    """Return the suffix in lower case. That of ``v1.5`` and ``a.b c`` is none."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix[1:].isalnum() and not suffix[1:].isdigit() else ""


# -- arrays ----------------------------------------------------------------------------------------


def _pixels(value: Any) -> Any:  # noqa: ANN401 - NumPy's
    """Return an array of bytes: height x width x channels."""
    is_torch = callable(getattr(value, "detach", None))
    if not hasattr(value, "shape"):
        raise InvalidTypeError(
            f"an image is Pillow's or an array, not {type(value).__name__}; {_NOTHING}"
        )
    array = _array(value, is_torch=is_torch)
    if array.ndim == 2:  # noqa: PLR2004 - without channels
        array = array[:, :, None]
    in_front = array.ndim == 3 and array.shape[0] in _CHANNELS  # noqa: PLR2004
    behind = array.ndim == 3 and array.shape[2] in _CHANNELS  # noqa: PLR2004
    if in_front and (is_torch or not behind):
        array = array.transpose(1, 2, 0)
    elif not behind:
        raise InvalidInputError(
            f"an image of the shape {tuple(array.shape)} can't be shown; {_NOTHING}",
            hint="height x width, and 1 to 4 channels",
        )
    if 0 in array.shape:
        raise InvalidInputError(f"the image is empty: {tuple(array.shape)}; {_NOTHING}")
    return _bytes(array)


def _array(value: Any, *, is_torch: bool) -> Any:  # noqa: ANN401 - NumPy's
    import numpy as np  # noqa: PLC0415 - whoever has an array has it

    if is_torch:
        value = value.detach().cpu()
        # NumPy has no bfloat16.
        return (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value.numpy() if callable(getattr(value, "numpy", None)) else value)


def _bytes(array: Any) -> Any:  # noqa: ANN401 - NumPy's
    kind = array.dtype.kind
    if array.dtype == "uint8":
        return array
    if kind not in "biuf":
        raise InvalidInputError(f"an image of {array.dtype} can't be shown; {_NOTHING}")
    if kind == "b":
        return array.astype("uint8") * 255
    most = 1 if kind == "f" else 255
    if kind == "f" and (array != array).any():  # noqa: PLR0124 - NaN
        raise InvalidInputError(
            f"the image has values that are NaN; {_NOTHING}",
            hint="numpy.nan_to_num(image) makes them 0",
        )
    if not (array.min() >= 0 and array.max() <= most):
        raise InvalidInputError(
            f"the image has values from {array.min()} to {array.max()}, and {array.dtype} is "
            f"shown from 0 to {most}; {_NOTHING}",
            hint="divide floats by their maximum, or convert to uint8",
        )
    return (array * 255).round().astype("uint8") if kind == "f" else array.astype("uint8")


def _png(pixels: Any) -> bytes:  # noqa: ANN401 - NumPy's
    """Return an array of bytes as PNG (ISO/IEC 15948): 8 bits, no filter, one part."""
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, -1)
    raw = b"".join(b"\x00" + row.tobytes() for row in rows)

    def part(kind: bytes, content: bytes) -> bytes:
        """Return a part with its length and checksum."""
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, 8, _CHANNELS[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", head)
        + part(b"IDAT", zlib.compress(raw, 6))
        + part(b"IEND", b"")
    )


# -- documents -------------------------------------------------------------------------------------


def _plain(value: Any, above: frozenset[int]) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return a value as JSON has it."""
    value = validation.scalar(value)
    if type(value) is shapes.Unreadable:
        if value.is_missing:
            return shapes.MISSING
        raise value.error
    if value is None or isinstance(value, (bool, str)):
        return str.__str__(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _number(float(value))
    members = shapes.members(value)
    if members is None and hasattr(value, "tolist"):
        value = value.tolist()
    is_list = isinstance(value, (Sequence, AbstractSet)) and not isinstance(value, (bytes, range))
    if members is None and not is_list:
        return _text(value)
    if id(value) in above or len(above) >= limits.PAYLOAD_DEPTH_MAX:
        raise InvalidInputError(
            f"the document contains itself, or is nested deeper than {limits.PAYLOAD_DEPTH_MAX}; "
            f"{_NOTHING}"
        )
    above |= {id(value)}
    if members is not None:
        return {_text(name): _plain(member, above) for name, member in members}
    return [_plain(member, above) for member in _listed(value)]


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - a sequence, or a set
    try:
        return list(value)
    # A list of OmegaConf can't be read whole if it lacks a value.
    except Exception:
        if not isinstance(value, Sequence):
            raise
        return [shapes.read(value.__getitem__, place) for place in range(len(value))]


def _number(number: float) -> float | str:
    if math.isnan(number):
        return "NaN"
    return number if math.isfinite(number) else ("Infinity" if number > 0 else "-Infinity")


def _text(value: object) -> str:
    if isinstance(value, (str, date, PurePath)):
        return value.isoformat() if isinstance(value, date) else str(value)
    return str(value)


def rows_of(value: object) -> Mapping[str, list[Any]] | None:
    """Return the columns of a table that is given as rows; None if it is no list of mappings.

    What a row lacks is None.
    """
    if not isinstance(value, (list, tuple)) or not value:
        return None
    rows = [shapes.members(row) for row in value]
    found = [dict(row) for row in rows if row is not None]
    if len(found) < len(rows):
        return None
    names = dict.fromkeys(name for row in found for name in row)
    return {name: [row.get(name) for row in found] for name in names}
