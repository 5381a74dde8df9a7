"""Make the documents of charts and tables, as SageMaker Studio reads them. Pure.

Each function checks its arguments and returns a JSON document of version 0 of the chart's schema
(sagemaker-experiments, tests/unit/artifact_schemas). ``encode`` makes the bytes to record.

Bad data raises before anything is recorded, and says what is wrong with it. scikit-learn, which
computes the curves, is imported at the first use; ``pip install journaltrack[charts]`` brings it.
Must not know the journal.
"""

from __future__ import annotations

import json
import math
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from typing import Any, Final

from journaltrack import limits
from journaltrack.errors import InvalidInputError, InvalidTypeError, MissingExtraError
from journaltrack.tracking import validation
from journaltrack.util.text import first_words

LABELS_MAX: Final = 2_000
"""Ours: labels of a confusion matrix. It has as many rows and columns: 4,000,000 numbers."""
BYTES_MAX: Final = 64 << 20
"""Ours: bytes of a document."""
_NOTHING: Final = "nothing was recorded"
_SHOWN: Final = 3
_PLAIN: Final = frozenset({bool, int, float, str, type(None)})
_TYPES: Final = (
    ("datetime", "datetime"),
    ("float", "number"),
    ("int", "number"),
    ("uint", "number"),
    ("bool", "boolean"),
)
"""Beginnings of a column's dtype, in lower case, and the type of the field."""


def table(title: str, values: object, data_frame: object) -> dict[str, Any]:
    """Return the document of a table.

    Args:
        title: The title.
        values: Columns by name. Their type is "string", as in the original library.
        data_frame: A data frame instead (pandas, polars), whose dtypes give the types.

    Raises:
        InvalidInputError: Not exactly one of both is given, or the columns do not fit together.
        InvalidTypeError: It is not a table.
    """
    if (values is None) == (data_frame is None):
        why = "neither is given" if values is None else "both are given"
        raise InvalidInputError(f"a table is values= or data_frame=, and {why}; {_NOTHING}")
    given = data_frame if values is None else values
    if isinstance(given, Mapping):
        columns = [(name, _column(name, column), "string") for name, column in given.items()]
    else:
        columns = _of_frame(given)
    names = [_field(name) for name, _, _ in columns]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InvalidInputError(
            f"{len(twice)} names of columns are there twice, such as "
            f"{limits.shown(twice[0])}; {_NOTHING}"
        )
    if not names:
        raise InvalidInputError(f"the table has no columns; {_NOTHING}")
    lengths = {len(column) for _, column, _ in columns}
    if len(lengths) > 1:
        told = ", ".join(map(str, sorted(lengths)[:_SHOWN]))
        raise InvalidInputError(f"the table's columns differ in length ({told}); {_NOTHING}")
    return {
        **_begin("Table", title),
        "fields": [
            {"name": name, "type": kind} for name, (_, _, kind) in zip(names, columns, strict=True)
        ],
        "data": {
            name: [_cell(value) for value in column]
            for name, (_, column, _) in zip(names, columns, strict=True)
        },
    }


def precision_recall(
    y_true: object,
    predicted_probabilities: object,
    positive_label: object,
    title: str,
    no_skill: object,
) -> dict[str, Any]:
    """Return the document of a precision-recall curve; see ``Tracker.log_precision_recall``.

    Raises:
        InvalidInputError: No curve can be computed from these values.
        InvalidTypeError: An argument has the wrong type.
        MissingExtraError: scikit-learn is not installed.
    """
    skill = None if no_skill is None else _number(no_skill, "no_skill")
    metrics = _metrics()
    labels, scores = _labels_and_scores(y_true, predicted_probabilities, "predicted_probabilities")
    # As a keyword: the original passes it under a name that scikit-learn does not know.
    options = {} if positive_label is None else {"pos_label": positive_label}
    precision, recall, _ = _computed(metrics.precision_recall_curve, labels, scores, **options)
    average = _computed(metrics.average_precision_score, labels, scores, average="micro", **options)
    return {
        **_begin("PrecisionRecallCurve", title),
        "precision": _floats(precision, "the precision"),
        "recall": _floats(recall, "the recall"),
        "averagePrecisionScore": _number(average, "the average precision"),
        "noSkill": skill,
    }


def roc_curve(y_true: object, y_score: object, title: str) -> dict[str, Any]:
    """Return the document of a ROC curve; see ``Tracker.log_roc_curve``.

    Raises:
        InvalidInputError: No curve can be computed from these values.
        InvalidTypeError: An argument has the wrong type.
        MissingExtraError: scikit-learn is not installed.
    """
    metrics = _metrics()
    labels, scores = _labels_and_scores(y_true, y_score, "y_score")
    if len(_distinct(labels)) == 1:
        raise InvalidInputError(
            f"y_true has one label only, {limits.shown(str(labels[0]))}: there is no ROC curve; "
            f"{_NOTHING}"
        )
    false_positive, true_positive, _ = _computed(metrics.roc_curve, labels, scores)
    area = _computed(metrics.auc, false_positive, true_positive)
    return {
        **_begin("ROCCurve", title),
        "falsePositiveRate": _floats(false_positive, "the false positive rate"),
        "truePositiveRate": _floats(true_positive, "the true positive rate"),
        "areaUnderCurve": _number(area, "the area under the curve"),
    }


def confusion_matrix(y_true: object, y_pred: object, title: str) -> dict[str, Any]:
    """Return the document of a confusion matrix; see ``Tracker.log_confusion_matrix``.

    Raises:
        InvalidInputError: No matrix can be computed from these values.
        InvalidTypeError: An argument has the wrong type.
        MissingExtraError: scikit-learn is not installed.
    """
    metrics = _metrics()
    true, predicted = _array(y_true, "y_true"), _array(y_pred, "y_pred")
    _check_lengths(true, predicted, "y_pred")
    count = len(_distinct(true) | _distinct(predicted))
    if count > LABELS_MAX:
        raise InvalidInputError(
            f"y_true and y_pred have {count} labels, and a confusion matrix takes {LABELS_MAX}; "
            f"{_NOTHING}",
            hint="pass classes, not scores; group rare classes",
        )
    matrix = _computed(metrics.confusion_matrix, true, predicted)
    return {
        **_begin("ConfusionMatrix", title),
        "confusionMatrix": [[int(cell) for cell in row] for row in matrix.tolist()],
    }


def encode(document: Mapping[str, Any]) -> bytes:
    """Return a document's bytes.

    Raises:
        InvalidInputError: It is too large.
    """
    content = json.dumps(document, allow_nan=False).encode()
    if len(content) > BYTES_MAX:
        raise InvalidInputError(
            f"the chart has {len(content)} bytes, and a chart takes at most {BYTES_MAX}; "
            f"{_NOTHING}",
            hint="log fewer points, or a file: log_artifact(file_path)",
        )
    return content


def checked_title(title: object, kind: str, now_s: float) -> str:
    """Return a chart's title; without one, its type and the time, as in the original library.

    Raises:
        InvalidTypeError: It is neither text nor None.
    """
    if title is None or title == "":
        return f"{kind}-{int(now_s)}"
    if not isinstance(title, str):
        raise InvalidTypeError(
            f"title must be a str or None, not {type(title).__name__}; {_NOTHING}"
        )
    return str.__str__(title)


def _begin(kind: str, title: str) -> dict[str, Any]:
    return {"type": kind, "version": 0, "title": title}


def _metrics() -> Any:  # noqa: ANN401 - scikit-learn has no types
    try:
        from sklearn import metrics  # noqa: PLC0415 - takes a second, and is an extra
    except ImportError as error:
        raise MissingExtraError(
            f"charts need scikit-learn, and it can't be imported ({error}); {_NOTHING}",
            hint="pip install 'journaltrack[charts]'",
        ) from error
    return metrics


def _computed(function: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
    """Return the result of a function of scikit-learn, which refuses data with any exception."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        text = first_words(str(error)) or type(error).__name__
        raise InvalidInputError(
            f"scikit-learn can't compute it: {text}; {_NOTHING}",
            hint="binary labels are 0 and 1; log_precision_recall takes positive_label= for others"
            if "pos_label" in text
            else "",
        ) from error


def _array(value: object, what: str) -> Any:  # noqa: ANN401 - NumPy's
    """Return labels or scores as a NumPy array with one dimension.

    Raises:
        InvalidInputError: It is empty, or has another shape.
        InvalidTypeError: It is not a sequence.
    """
    import numpy as np  # noqa: PLC0415 - scikit-learn brings it

    if isinstance(value, (str, bytes, Mapping, set, frozenset)) or not isinstance(value, Iterable):
        raise InvalidTypeError(
            f"{what} must be a list or an array, not {type(value).__name__}; {_NOTHING}"
        )
    try:
        made = np.asarray(value if hasattr(value, "__len__") else list(value))
    # A ragged list, a tensor on another device, a lazy array.
    except Exception as error:
        text = first_words(str(error)) or type(error).__name__
        raise InvalidInputError(f"{what} can't be read: {text}; {_NOTHING}") from error
    # One column counts as a list.
    found = made.ravel() if made.ndim == 2 and made.shape[1] == 1 else made  # noqa: PLR2004
    if found.ndim != 1:
        raise InvalidInputError(
            f"{what} has the shape {made.shape}, and must have one value per sample; {_NOTHING}",
            hint="of a score per class, pass the positive one's: scores[:, 1]",
        )
    if not len(found):
        raise InvalidInputError(f"{what} is empty; {_NOTHING}")
    if found.dtype.kind == "f":
        _check_finite(found, what)
    return found


def _labels_and_scores(y_true: object, scores: object, what: str) -> tuple[Any, Any]:
    labels, found = _array(y_true, "y_true"), _array(scores, what)
    _check_lengths(labels, found, what)
    try:
        made = found.astype(float)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"{what} must be numbers: {error}; {_NOTHING}") from error
    _check_finite(made, what)
    return labels, made


def _check_lengths(labels: Any, others: Any, what: str) -> None:  # noqa: ANN401 - NumPy's
    if len(labels) != len(others):
        raise InvalidInputError(
            f"y_true has {len(labels)} values and {what} has {len(others)}; {_NOTHING}"
        )


def _distinct(labels: Any) -> set[Any]:  # noqa: ANN401 - NumPy's
    try:
        return set(labels.tolist())
    except TypeError as error:
        raise InvalidTypeError(f"labels must be numbers or text: {error}; {_NOTHING}") from error


def _check_finite(found: Any, what: str) -> None:  # noqa: ANN401 - NumPy's
    import numpy as np  # noqa: PLC0415 - scikit-learn brings it

    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        raise InvalidInputError(
            f"{what} has {len(wrong)} values that are NaN or infinite, the first at index "
            f"{wrong[0]}; {_NOTHING}",
            hint="leave these samples out",
        )


def _number(value: Any, what: str) -> float:  # noqa: ANN401 - whatever a caller has
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"{what} must be a number, not {type(value).__name__}; {_NOTHING}"
        ) from error
    if not math.isfinite(number):
        raise InvalidInputError(f"{what} is {number}, which JSON can't hold; {_NOTHING}")
    return number


def _floats(values: Any, what: str) -> list[float]:  # noqa: ANN401 - NumPy's
    return [_number(value, what) for value in values.tolist()]


def _field(name: object) -> str:
    return name if isinstance(name, str) else str(name)


def _column(name: object, column: object) -> list[Any]:
    if isinstance(column, (str, bytes, Mapping, set, frozenset)) or not isinstance(
        column, Iterable
    ):
        raise InvalidTypeError(
            f"the column {limits.shown(_field(name))} must be a list, not "
            f"{type(column).__name__}; {_NOTHING}",
            hint='for example {"x": [1, 2, 3]}',
        )
    return list(column)


def _of_frame(frame: Any) -> list[tuple[object, list[Any], str]]:  # noqa: ANN401 - pandas, polars
    """Return name, values and type of each column of a data frame."""
    try:
        names = list(frame.columns)
        # pandas finds one of several columns of a name by its place alone.
        found = getattr(frame, "iloc", None)
        columns = [
            frame[name] if found is None else found[:, place] for place, name in enumerate(names)
        ]
        return [
            (name, list(column), _type(column.dtype))
            for name, column in zip(names, columns, strict=True)
        ]
    except (AttributeError, TypeError, LookupError) as error:
        raise InvalidTypeError(
            f"a table must be a dict of lists or a data frame, not {type(frame).__name__}; "
            f"{_NOTHING}"
        ) from error


def _type(dtype: object) -> str:
    text = str(dtype).lower()
    return next((kind for begin, kind in _TYPES if text.startswith(begin)), "string")


def _cell(value: Any) -> str | float | bool | None:  # noqa: ANN401 - whatever a table holds
    """Return a value as JSON has it. What is missing, NaN or infinite is null."""
    if type(value) not in _PLAIN:
        value = validation.scalar(value)
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, (datetime, date, time)) and value == value:  # noqa: PLR0124 - pandas' NaT
        return value.isoformat()
    try:
        text = str(value)
    except Exception as error:
        raise InvalidInputError(
            f"a cell of the type {type(value).__name__} has no text; {_NOTHING}"
        ) from error
    return None if text in {"NaT", "<NA>"} else text
