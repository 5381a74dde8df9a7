"""Charts and tables: documents that SageMaker Studio reads, and clear words for bad data."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import sys

import numpy as np
import pandas as pd
import pytest

from journaltrack import Tracker
from journaltrack.errors import (
    InvalidInputError,
    InvalidTypeError,
    JournalFullError,
    MissingExtraError,
)
from journaltrack.journal import view
from journaltrack.tracking import charts

pytestmark = pytest.mark.lineage

TRUE = [0, 0, 1, 1]
SCORES = [0.1, 0.4, 0.35, 0.8]


@pytest.fixture
def tracker(tmp_path):
    """A tracker whose journal is looked at afterwards."""
    made = Tracker.create(journal=tmp_path / "journal", sync="off")
    yield made
    made.close()


def recorded(tmp_path):
    """The kind, name and payload of everything but the creation."""
    with view.opened(tmp_path / "journal") as journal:
        return [(e.kind, e.name, e.detail) for e in journal.entries() if e.kind != "create"]


def document(tmp_path, place=0):
    """The bytes of a recorded chart, as JSON."""
    _, _, detail = [e for e in recorded(tmp_path) if e[0] == "upload"][place]
    sha256 = detail["sha256"]
    return json.loads((tmp_path / "journal" / "spool" / sha256[:2] / sha256).read_bytes())


def test_a_precision_recall_curve_has_exactly_the_members_of_its_schema(tracker, tmp_path):
    """Type, version 0, title, two lists of numbers, the average, and the precision of guessing."""
    tracker.log_precision_recall(TRUE, SCORES, title="PR", no_skill=0.5)
    found = document(tmp_path)
    assert found == {
        "type": "PrecisionRecallCurve",
        "version": 0,
        "title": "PR",
        "precision": pytest.approx([0.5, 2 / 3, 0.5, 1.0, 1.0]),
        "recall": [1.0, 1.0, 0.5, 0.5, 0.0],
        "averagePrecisionScore": pytest.approx(0.8333333),
        "noSkill": 0.5,
    }


def test_a_roc_curve_has_exactly_the_members_of_its_schema(tracker, tmp_path):
    """Type, version 0, title, both rates and the area."""
    tracker.log_roc_curve(np.array(TRUE), np.array(SCORES, dtype=np.float32), "ROC")
    found = document(tmp_path)
    assert found == {
        "type": "ROCCurve",
        "version": 0,
        "title": "ROC",
        "falsePositiveRate": [0.0, 0.0, 0.5, 0.5, 1.0],
        "truePositiveRate": [0.0, 0.5, 0.5, 1.0, 1.0],
        "areaUnderCurve": 0.75,
    }
    assert {type(rate) for rate in found["falsePositiveRate"]} == {float}


def test_a_confusion_matrix_has_exactly_the_members_of_its_schema(tracker, tmp_path):
    """Rows are the true labels, columns the predicted ones, sorted; the numbers are integers."""
    tracker.log_confusion_matrix(["cat", "dog", "cat"], ["cat", "cat", "dog"], title="CM")
    found = document(tmp_path)
    assert found == {
        "type": "ConfusionMatrix",
        "version": 0,
        "title": "CM",
        "confusionMatrix": [[1, 1], [1, 0]],
    }
    assert {type(cell) for row in found["confusionMatrix"] for cell in row} == {int}


def test_a_table_of_lists_has_exactly_the_members_of_its_schema(tracker, tmp_path):
    """Columns given as lists are of the type "string", as in the original library."""
    tracker.log_table("T", {"x": [1, 2.5], "y": ["a", None]})
    assert document(tmp_path) == {
        "type": "Table",
        "version": 0,
        "title": "T",
        "fields": [{"name": "x", "type": "string"}, {"name": "y", "type": "string"}],
        "data": {"x": [1, 2.5], "y": ["a", None]},
    }


def test_the_dtypes_of_a_data_frame_give_the_types(tracker, tmp_path):
    """Also those that pandas has beside NumPy's; what is not known is text."""
    day = dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc)
    frame = pd.DataFrame(
        {
            "float": [1.5, math.nan],
            "int": np.array([1, 2], dtype=np.uint8),
            "nullable": pd.array([1, None], dtype="Int64"),
            "bool": [True, False],
            "boolean": pd.array([True, None], dtype="boolean"),
            "time": pd.to_datetime([day, None], utc=True),
            "text": ["a", None],
            "category": pd.Categorical(["u", "v"]),
            "span": pd.to_timedelta([1, 2], unit="s"),
            "complex": [1j, 2j],
            7: [math.inf, -math.inf],
        }
    )
    tracker.log_table(title="T", data_frame=frame)
    found = document(tmp_path)
    assert {field["name"]: field["type"] for field in found["fields"]} == {
        "float": "number",
        "int": "number",
        "nullable": "number",
        "bool": "boolean",
        "boolean": "boolean",
        "time": "datetime",
        "text": "string",
        "category": "string",
        "span": "string",
        "complex": "string",
        "7": "number",
    }
    assert found["data"] == {
        "float": [1.5, None],
        "int": [1, 2],
        "nullable": [1, None],
        "bool": [True, False],
        "boolean": [True, None],
        "time": ["2026-01-02T00:00:00+00:00", None],
        "text": ["a", None],
        "category": ["u", "v"],
        "span": ["0 days 00:00:01", "0 days 00:00:02"],
        "complex": ["1j", "2j"],
        "7": [None, None],
    }


def test_cells_of_mixed_types_keep_what_json_can_hold(tracker, tmp_path):
    """Numbers, truth values and times keep their meaning, anything else its text."""

    class Tensor:
        """A scalar of a library without NumPy's dtypes."""

        shape, dtype = (), "tensor.float"

        def item(self):
            return 1.5

    column = [
        1,
        np.float32(0.5),
        np.bool_(True),
        decimal.Decimal("2.5"),
        dt.date(2026, 1, 2),
        b"bytes",
        2**70,
        math.nan,
        [1],
        np.datetime64("NaT"),
        np.datetime64("2026-01-02"),
        Tensor(),
    ]
    tracker.log_table("mixed", {"x": tuple(column), "n": np.arange(12)})
    assert document(tmp_path)["data"] == {
        "x": [
            1,
            0.5,
            True,
            "2.5",
            "2026-01-02",
            "b'bytes'",
            2**70,
            None,
            "[1]",
            None,
            "2026-01-02",
            1.5,
        ],
        "n": list(range(12)),
    }


@pytest.mark.parametrize(
    ("labels", "positive", "average"),
    [(["n", "n", "p", "p"], "p", 0.8333333), ([1, 1, 0, 0], 0, 0.8333333), (TRUE, None, 0.8333333)],
)
def test_the_positive_label_is_passed_as_scikit_learn_names_it(labels, positive, average):
    """Also the label 0, which is no missing one."""
    found = charts.precision_recall(labels, SCORES, positive, "t", None)
    assert found["averagePrecisionScore"] == pytest.approx(average)
    assert found["noSkill"] is None


def test_one_column_counts_as_a_list():
    """As many libraries return the scores of a single class."""
    column = np.array(SCORES).reshape(-1, 1)
    assert charts.roc_curve(TRUE, column, "t") == charts.roc_curve(TRUE, SCORES, "t")


def test_ten_thousand_points_make_a_curve():
    """A curve has a point for each score; only a matrix grows with the square of the labels."""
    scores = np.linspace(0, 1, 10_000)
    found = charts.precision_recall(scores > 0.3, scores, None, "t", None)
    assert len(found["precision"]) == len(found["recall"]) == 10_001
    assert json.loads(charts.encode(found)) == found


@pytest.mark.parametrize(
    ("call", "arguments", "words"),
    [
        ("log_precision_recall", ([0, 1], [0.5]), "y_true has 2 values and predicted"),
        ("log_precision_recall", ([0, 1], [math.nan, 0.5]), "NaN or infinite, the first at index"),
        ("log_precision_recall", ([0, 1], [0.5, math.inf]), "the first at index 1"),
        ("log_precision_recall", ([0.0, math.nan], [0.5, 0.5]), "y_true has 1 values that"),
        ("log_precision_recall", ([], []), "y_true is empty"),
        ("log_precision_recall", ([0, 1], ["a", "b"]), "must be numbers"),
        ("log_precision_recall", ("01", [0.5, 0.5]), "y_true must be a list or an array, not str"),
        ("log_precision_recall", (None, [0.5, 0.5]), "not NoneType"),
        ("log_precision_recall", ([0, 1], [[0.1, 0.9], [0.9, 0.1]]), "one value per sample"),
        (
            "log_precision_recall",
            ([[0], [1, 2]], [0.1, 0.2]),
            "y_true can't be read: setting an array",
        ),
        ("log_precision_recall", (["n", "p"], [0.1, 0.2]), "scikit-learn can't compute it"),
        ("log_precision_recall", ([0, 1], [0.1, 0.2], None, 7), "title must be a str or None"),
        ("log_precision_recall", ([0, 1], [0.1, 0.2], None, "t", True, "x"), "no_skill must be"),
        ("log_precision_recall", ([0, 1], [0.1, 0.2], None, "t", True, math.nan), "no_skill is"),
        ("log_roc_curve", ([1, 1], [0.1, 0.2]), "y_true has one label only"),
        ("log_roc_curve", ([0, 1, 2], [0.1, 0.2, 0.3]), "scikit-learn can't compute it"),
        ("log_confusion_matrix", ([0, 1], [0]), "y_true has 2 values and y_pred has 1"),
        ("log_confusion_matrix", ([0, 1], [0.25, 0.5]), "scikit-learn can't compute it"),
        ("log_confusion_matrix", ([1, None], [1, 2]), "scikit-learn can't compute it"),
        ("log_confusion_matrix", (range(10_000), range(10_000)), "have 10000 labels"),
        ("log_confusion_matrix", ({0: 1}, [0]), "not dict"),
        ("log_confusion_matrix", ([{}, {}], [0, 1]), "labels must be numbers or text"),
        ("log_roc_curve", ([{}, {}], [0.1, 0.2]), "labels must be numbers or text"),
        ("log_table", ("t",), "neither is given"),
        ("log_table", ("t", {"x": [1]}, {"x": [1]}), "both are given"),
        ("log_table", ("t", {}), "no columns"),
        ("log_table", ("t", {"x": [1], "y": [1, 2]}), "differ in length (1, 2)"),
        ("log_table", ("t", {"x": "text"}), "must be a list, not str"),
        ("log_table", ("t", {"x": 1}), "must be a list, not int"),
        ("log_table", ("t", {1: [1], "1": [2]}), "there twice, such as '1'"),
        ("log_table", ("t", [1, 2]), "a dict of lists or a data frame, not list"),
    ],
)
def test_bad_data_raises_at_the_call_and_nothing_else_is_lost(
    tracker, tmp_path, call, arguments, words
):
    """The error says what is wrong and that nothing was recorded; the run goes on."""
    tracker.log_parameter("before", 1)
    with pytest.raises((InvalidInputError, InvalidTypeError)) as caught:
        getattr(tracker, call)(*arguments)
    assert words in caught.value.message
    assert "nothing was recorded" in caught.value.message
    tracker.log_parameter("after", 2)
    assert [(kind, name) for kind, name, _ in recorded(tmp_path)] == [
        ("parameter", "before"),
        ("parameter", "after"),
    ]


def test_a_document_that_is_too_large_is_refused(monkeypatch, tracker, tmp_path):
    """Its size is named, and what to do instead."""
    monkeypatch.setattr(charts, "BYTES_MAX", 100)
    with pytest.raises(InvalidInputError, match="at most 100; nothing was recorded"):
        tracker.log_table("t", {"x": list(range(100))})
    assert recorded(tmp_path) == []


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("log_precision_recall", (TRUE, SCORES)),
        ("log_roc_curve", (TRUE, SCORES)),
        ("log_confusion_matrix", (TRUE, TRUE)),
    ],
)
def test_without_scikit_learn_the_error_names_the_extra(
    tracker, tmp_path, monkeypatch, call, arguments
):
    """It is an ImportError, too; a table, and everything else, needs no extra."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError) as caught:
        getattr(tracker, call)(*arguments)
    assert isinstance(caught.value, ImportError)
    assert "journaltrack[charts]" in caught.value.hint
    tracker.log_table("t", {"x": [1]})
    assert [kind for kind, _, _ in recorded(tmp_path)] == ["upload", "lineage"]


def test_a_chart_is_recorded_with_its_lineage_in_one_call(tracker, tmp_path):
    """Upload and lineage name the same content; the chart is no artifact of the component."""
    tracker.log_confusion_matrix(TRUE, TRUE, title="CM")
    tracker.log_table("Used", {"x": [1]}, output_artifact=False)
    (_, name, upload), (kind, artifact, lineage), _, (_, _, used) = recorded(tmp_path)
    size = len(json.dumps(document(tmp_path)))
    assert (name, upload["media_type"], upload["size"]) == ("CM.json", "application/json", size)
    assert (kind, artifact) == ("lineage", "CM")
    assert lineage == {
        "sha256": upload["sha256"],
        "type": "ConfusionMatrix",
        "direction": "output",
    }
    assert (used["type"], used["direction"]) == ("Table", "input")
    assert tracker.trial_component.output_artifacts == {}


def test_a_chart_without_a_title_is_named_by_type_and_time(tracker, tmp_path):
    """As in the original library."""
    tracker.log_confusion_matrix(TRUE, TRUE)
    (_, name, _), (_, artifact, _) = recorded(tmp_path)
    kind, _, at_s = artifact.partition("-")
    assert (kind, at_s.isdigit(), name) == ("ConfusionMatrix", True, f"{artifact}.json")


@pytest.mark.parametrize(
    ("title", "artifact", "file"),
    [
        ("Churn by month", "Churn-by-month", "Churn by month.json"),
        ("größe (µ)", "groe", "größe (µ).json"),
        ("混同行列", None, "混同行列.json"),
        ("-a-", "a", "-a-.json"),
        ("two\nlines", "two-lines", "two-lines.json"),
        ("x" * 5000, "x" * 120, "x" * 120 + ".json"),
        ("lone \udc80", "lone", "lone.json"),
    ],
)
def test_a_title_that_sagemaker_refuses_gets_an_acceptable_name(
    tracker, tmp_path, title, artifact, file
):
    """The document keeps the title; the lineage artifact has a name that SageMaker takes."""
    tracker.log_table(title, {"x": [1]})
    (_, name, _), (_, found, detail) = recorded(tmp_path)
    assert document(tmp_path)["title"] == title
    assert detail["title"] == title
    if artifact is None:
        assert found == f"artifact-{detail['sha256'][:12]}"
        artifact = found
    assert (found, name) == (artifact, file)
    with view.opened(tmp_path / "journal") as journal:
        assert journal.database.read("SELECT * FROM delivery") == []


def test_the_spool_s_limit_holds_for_charts(tmp_path, monkeypatch):
    """A chart for which no room can be made is refused, like a file."""
    monkeypatch.setenv("JOURNALTRACK_SPOOL_MAX_BYTES", "10")
    with Tracker.create(journal=tmp_path / "journal", sync="off") as tracker:
        with pytest.raises(JournalFullError, match="over its limit of 10"):
            tracker.log_table("t", {"x": [1]})
        assert [kind for kind, _, _ in recorded(tmp_path)] == ["status"]
