"""Figures, images, texts and documents as artifacts, with their bytes as of the call."""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
import struct
import sys
import types
import zlib
from collections import UserDict, UserList
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import yaml

from journaltrack import JournaltrackWarning
from journaltrack.errors import InvalidInputError, InvalidTypeError, MissingExtraError
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Reconciler

PNG = b"\x89PNG\r\n\x1a\n"


def kept(tracker, name):
    """Bytes and media type of an artifact."""
    artifact = tracker.trial_component.output_artifacts[name]
    return Path(artifact.value).read_bytes(), artifact.media_type


def entries(folder):
    """How many entries the journal has."""
    with closing(sqlite3.connect(folder / "journal.db")) as connection:
        return connection.execute("SELECT count(*) FROM entry").fetchone()[0]


def decoded(content):
    """Width, height, colour type and rows of a PNG, read by the standard's words alone."""
    assert content.startswith(PNG)
    place, parts = len(PNG), {}
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", content, place + 8 + length) == (zlib.crc32(kind + body),)
        parts[kind] = body
        place += 12 + length
    width, height, depth, colours, *_ = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert depth == 8
    raw = zlib.decompress(parts[b"IDAT"])
    size = len(raw) // height
    assert all(raw[row * size] == 0 for row in range(height))
    return width, height, colours, [list(raw[r * size + 1 : (r + 1) * size]) for r in range(height)]


class Figure:
    """What matplotlib's figure can do."""

    def savefig(self, target, **options):
        if options["format"] not in {"png", "svg", "pdf"}:
            raise ValueError(f"Format {options['format']!r} is not supported")
        target.write("{format} {metadata}".format(**options).encode())


class Plot:
    """What plotly's figure can do."""

    def to_plotly_json(self):
        return {}

    def to_json(self):
        return '{"data": []}'

    def to_html(self, *, include_plotlyjs):
        assert include_plotlyjs is True
        return "<html></html>"

    def to_image(self, **_):
        raise ValueError("Image export requires Kaleido")


class Tensor:
    """What torch's tensor can do."""

    def __init__(self, array):
        self._array = np.asarray(array)
        self.shape = self._array.shape

    def detach(self):
        return self

    cpu = float = detach

    def is_floating_point(self):
        return self._array.dtype.kind == "f"

    def numpy(self):
        return self._array


@pytest.mark.parametrize(
    ("value", "name", "kept_as", "content", "media_type"),
    [
        (Figure(), "loss", "loss.png", b"png None", "image/png"),
        (Figure(), "v1.5", "v1.5.png", b"png None", "image/png"),
        (Figure(), "a/loss.svg", "a/loss.svg", b"svg {'Date': None}", "image/svg+xml"),
        (Figure(), "x.PDF", "x.PDF", b"pdf {'CreationDate': None}", "application/pdf"),
        (types.SimpleNamespace(figure=Figure()), "axes", "axes.png", b"png None", "image/png"),
        (Plot(), "plot", "plot.json", b'{"data": []}', "application/json"),
        (Plot(), "plot.html", "plot.html", b"<html></html>", "text/html"),
    ],
)
def test_a_figure_is_kept_in_the_form_of_its_suffix(
    tracker, value, name, kept_as, content, media_type
):
    """PNG of matplotlib and JSON of plotly without one; plotly's HTML loads nothing."""
    tracker.log_figure(value, name)
    assert kept(tracker, kept_as) == (content, media_type)


@pytest.mark.parametrize(
    ("value", "colours", "rows"),
    [
        (np.array([[0, 255]], dtype=np.uint8), 0, [[0, 255]]),
        (np.array([[0.0, 0.5], [1.0, 0.25]]), 0, [[0, 128], [255, 64]]),
        (np.array([[True, False]]), 0, [[255, 0]]),
        (np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.int64), 2, [[1, 2, 3, 4, 5, 6]]),
        (np.zeros((1, 1, 4), dtype=np.float16), 6, [[0, 0, 0, 0]]),
        (np.zeros((1, 1, 2), dtype=np.uint8), 4, [[0, 0]]),
        (Tensor(np.arange(6, dtype=np.uint8).reshape(3, 1, 2)), 2, [[0, 2, 4, 1, 3, 5]]),
        (Tensor(np.ones((1, 2, 3))), 0, [[255] * 3] * 2),
    ],
    ids=range(8),
)
def test_an_image_of_any_array_is_a_png_with_its_pixels(tracker, value, colours, rows):
    """Channels behind or, of torch and where only that fits, in front; whole, float and bool."""
    tracker.log_image(value, "sample")
    content, media_type = kept(tracker, "sample.png")
    _, _, found, pixels = decoded(content)
    assert media_type == "image/png"
    assert (found, pixels) == (colours, rows)


def test_channels_in_front_where_only_that_fits(tracker):
    """An array of 3 x 5 x 7 has three channels of five rows."""
    tracker.log_image(np.zeros((3, 5, 7), dtype=np.uint8), "front")
    assert decoded(kept(tracker, "front.png")[0])[:3] == (7, 5, 2)


def test_a_pillow_image_is_saved_in_the_form_of_its_suffix(tracker):
    """By Pillow itself."""

    class Image:
        mode = "RGB"

        def save(self, target, **options):
            target.write(options["format"].encode())

    tracker.log_image(Image(), "a")
    tracker.log_image(Image(), "b.jpg")
    assert kept(tracker, "a.png") == (b"png", "image/png")
    assert kept(tracker, "b.jpg") == (b"jpeg", "image/jpeg")


@dataclasses.dataclass
class Settings:
    lr: float = 0.1


def test_documents_and_texts(tracker):
    """JSON with what JSON has, YAML by the suffix, and text in UTF-8."""
    given = {
        "a": [1, 2.5, None, True, "é"],
        "nan": [math.nan, math.inf, -math.inf],
        "numpy": np.float32(0.5),
        "array": np.array([[1, 2]]),
        3: Settings(),
        "at": datetime(2024, 1, 2, tzinfo=timezone.utc),
        "path": Path("/tmp/x"),
        "set": {1},
    }
    expected = {
        "a": [1, 2.5, None, True, "é"],
        "nan": ["NaN", "Infinity", "-Infinity"],
        "numpy": 0.5,
        "array": [[1, 2]],
        "3": {"lr": 0.1},
        "at": "2024-01-02T00:00:00+00:00",
        "path": "/tmp/x",
        "set": [1],
    }
    tracker.log_dict(given, "config")
    tracker.log_dict(given, "config.yaml")
    tracker.log_text("é\ud800\n", "notes")
    tracker.log_text("# Title", "README.md")
    content, media_type = kept(tracker, "config.json")
    assert (json.loads(content), media_type) == (expected, "application/json")
    content, media_type = kept(tracker, "config.yaml")
    assert (yaml.safe_load(content), media_type) == (expected, "text/yaml")
    assert kept(tracker, "notes.txt") == ("é\\ud800\n".encode(), "text/plain")
    assert kept(tracker, "README.md") == (b"# Title", "text/markdown")


class MissingMandatoryValue(Exception):  # noqa: N818 - its name
    """As OmegaConf's."""


def given(value):
    """Return a value, or raise as OmegaConf does for one that nobody has set."""
    if value == "???":
        raise MissingMandatoryValue("Missing mandatory value")
    return value


class Rates(UserList):
    """A list as OmegaConf's."""

    def __getitem__(self, place):
        return given(self.data[place])


class Unset(UserDict):
    """A mapping as OmegaConf's."""

    def __getitem__(self, name):
        return given(self.data[name])


def test_a_value_that_nobody_has_set_costs_no_other(tracker):
    """A document holds it as OmegaConf writes it; a parameter is left out, with the reason."""
    tracker.log_dict({"rates": Rates(["???", 1]), "net": Unset(a="???", b=2)}, "config")
    content, _ = kept(tracker, "config.json")
    assert json.loads(content) == {"rates": ["???", 1], "net": {"a": "???", "b": 2}}
    with pytest.warns(JournaltrackWarning, match="nobody has set it"):
        tracker.log_parameters(Unset(a="???", b=2))
    assert tracker.trial_component.parameters == {"b": 2.0}


def circle():
    """A mapping that contains itself."""
    made = {}
    made["self"] = made
    return made


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda t: t.log_figure(3, "x"), InvalidTypeError),
        (lambda t: t.log_figure(Figure(), "x.gif"), InvalidInputError),
        (lambda t: t.log_figure(Plot(), "x.png"), InvalidInputError),
        (lambda t: t.log_figure(Figure(), None), InvalidTypeError),
        (lambda t: t.log_figure(Figure(), "n" * 129), InvalidInputError),
        (lambda t: t.log_figure(Figure(), "x", step=-1), InvalidInputError),
        (lambda t: t.log_image("x", "x"), InvalidTypeError),
        (lambda t: t.log_image(np.zeros(3), "x"), InvalidInputError),
        (lambda t: t.log_image(np.zeros((5, 5, 5)), "x"), InvalidInputError),
        (lambda t: t.log_image(np.zeros((0, 5)), "x"), InvalidInputError),
        (lambda t: t.log_image(np.full((2, 2), 200.0), "x"), InvalidInputError),
        (lambda t: t.log_image(np.full((2, 2), math.nan), "x"), InvalidInputError),
        (lambda t: t.log_image(np.full((2, 2), -1), "x"), InvalidInputError),
        (lambda t: t.log_image(np.array([["a"]]), "x"), InvalidInputError),
        (lambda t: t.log_image(np.zeros((2, 2)), "x.jpg"), InvalidInputError),
        (lambda t: t.log_text(b"x", "x"), InvalidTypeError),
        (lambda t: t.log_dict(3, "x"), InvalidTypeError),
        (lambda t: t.log_dict({"a": 1}, "x.toml"), InvalidInputError),
        (lambda t: t.log_dict(circle(), "x"), InvalidInputError),
        (lambda t: t.log_table("t", [{"a": 1}, 3]), InvalidTypeError),
    ],
)
def test_what_can_not_be_made_raises_and_records_nothing(folder, tracker, call, error):
    """The message says what is wrong."""
    before = entries(folder)
    with pytest.raises(error, match=r"nothing was recorded|characters|step"):
        call(tracker)
    assert entries(folder) == before


def test_yaml_without_pyyaml_says_what_to_do(tracker, monkeypatch):
    """No other form is chosen silently."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match="PyYAML"):
        tracker.log_dict({}, "x.yml")


def test_a_table_of_rows_has_a_column_for_each_name(tracker):
    """What a row lacks is null."""
    tracker.log_table("rows", [{"a": 1, "b": "x"}, Settings(), {"a": math.nan}])
    with closing(sqlite3.connect(tracker.trial_component.journal.path / "journal.db")) as database:
        ((sha256,),) = database.execute(
            "SELECT json_extract(payload, '$.sha256') FROM entry WHERE kind = 'upload'"
        ).fetchall()
    place = tracker.trial_component.journal.path / "spool" / sha256[:2] / sha256
    assert json.loads(place.read_bytes())["data"] == {
        "a": [1, None, None],
        "b": ["x", None, None],
        "lr": [None, 0.1, None],
    }


def test_the_contents_of_all_steps_are_uploaded_under_one_artifact(folder, tracker):
    """However many steps: the artifact is the last, and each content has a place of its own."""
    for step in range(100):
        tracker.log_text(f"at {step}", "sample.txt", step=step)
    assert kept(tracker, "sample.txt")[0] == b"at 99"
    tracker.close()
    remote = MemoryRemote()
    with closing(Journal.open(folder)) as journal:
        report = Reconciler(journal, remote).run()
    assert (report.pending, report.quarantined, report.failed) == (0, 0, None)
    assert len(remote.objects) == 100
    value = remote.components["run"].output_artifacts["sample.txt"].value
    assert value.endswith("sample/step-000099.txt")
