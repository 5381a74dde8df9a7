"""Which runs an expression chooses, how they are sorted, and what a wrong one is told."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack.errors import InvalidInputError, NothingMatchesError
from journaltrack.readmodel.expression import (
    Names,
    column_names,
    in_order,
    parsed,
    sort_key,
    sort_name,
)
from journaltrack.readmodel.run import Delivery, Metrics, MetricSummary, Points, Run

SECOND = 10**9


def run(name, *, status="completed", parameters=None, tags=None, age_s=60, note=None, **metrics):
    """A run that began ``age_s`` ago and took half of that."""
    summaries = {
        key: MetricSummary(values[-1], 7, min(values), max(values), len(values))
        for key, values in metrics.items()
    }
    return Run(
        key=f"k.{name}",
        name=name,
        display_name=None,
        journal="/data/j",
        status=status,
        started_ns=(10_000 - age_s) * SECOND,
        ended_ns=(10_000 - age_s // 2) * SECOND,
        last_entry_ns=None,
        seen_ns=10_000 * SECOND,
        parameters=parameters or {},
        tags=tags or {},
        note=note,
        metrics=Metrics(summaries, lambda metric: Points(metric, [], [], [])),
    )


RUNS = [
    run(
        "a", parameters={"lr": 0.1, "opt": "adam"}, age_s=60, loss=[3.0, 1.0], **{"val/acc": [0.5]}
    ),
    run(
        "b", parameters={"lr": 0.01, "opt": "sgd"}, tags={"team": "x"}, age_s=7_200, loss=[0.5, 2.0]
    ),
    run("c", status="failed", parameters={"lr": "auto", "two words": 1.0}, age_s=200_000),
    run("d", status="running", tags={"team": "y", "old": ""}, note="seen", loss=[math.nan]),
]
NAMES = Names.of(RUNS)


def chosen(expression):
    """The names of the runs that it chooses."""
    test = parsed(expression, NAMES)
    return "".join(each.name for each in RUNS if test(each))


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("lr<0.1", "b"),
        ("lr <= 0.1 and status=completed", "ab"),
        ("lr = 0.1", "a"),
        ("lr == .1", "a"),
        ("lr != 0.1", "bc"),
        ("lr = auto", "c"),
        ("lr > 0.05", "a"),
        ("lr >= 0 or lr <= 0", "ab"),
        ("lr > atom", "c"),
        ("lr > 'atom'", "c"),
        ("lr = '0.1'", "a"),
        ("started > 1970-01-01T02:30Z", "ad"),
        ("ended <= '1970-01-01 02:00+00:00'", "bc"),
        ("started < 0 or ended >= 9900", "acd"),
        ("not lr = 0.1", "bcd"),
        ("loss < 1.5", "a"),
        ("loss.min < 1", "b"),
        ("loss.max >= 3 or loss.points = 1", "ad"),
        ("loss = nan", "d"),
        ("loss != nan", "ab"),
        ("loss", "abd"),
        ("not loss", "c"),
        ("val/acc > 0.4", "a"),
        ("metrics.val/acc.last > 0.4", "a"),
        ("status = COMPLETED", "ab"),
        ("status != completed", "cd"),
        ("opt ~ 'A*'", "a"),
        ("opt !~ a*", "b"),
        ("name ~ [ab]", "ab"),
        ("age < 2min", "ad"),
        ("age >= 2h", "bc"),
        ("age > 2 d", None),
        ("age > '2d'", "c"),
        ("duration <= 30s", "ad"),
        ("duration >= 0", "abcd"),
        ("duration > 1d", "c"),
        ("tags.team = x", "b"),
        ("team", "bd"),
        ("old", "d"),
        ("tags.old = ''", "d"),
        ("params.lr = 0.01", "b"),
        ('"two words" = 1', "c"),
        ("'two words'", "c"),
        ("note = seen", "d"),
        ("not not lr < 0.1", "b"),
        ("status=failed or status=running and tags.team=y", "cd"),
        ("(status=failed or status=running) and tags.team=y", "d"),
        ("NOT (lr<0.1 OR lr=auto) AND loss", "ad"),
        ("journal ~ */j", "abcd"),
        ("status ~ *ed", "abc"),
        ("status = stopped", ""),
        ("status = STOPPING", ""),
        ("lr != auto", "ab"),
        ("opt = 5", ""),
        ("opt < b", "a"),
    ],
)
def test_an_expression_chooses_runs(expression, names):
    """Comparisons are by number if both sides are numbers; what a run lacks is never equal."""
    if names is None:
        with pytest.raises(InvalidInputError):
            chosen(expression)
    else:
        assert chosen(expression) == names


def test_runs_are_chosen_by_what_became_of_their_entries():
    """What is pending, in doubt or quarantined is a number of every run."""
    troubled = replace(RUNS[0], delivery=Delivery(6, 1, 1, 2, 2))
    for field in ("pending", "in_doubt", "quarantined"):
        chooses = parsed(f"{field} > 0", NAMES)
        assert [each.name for each in (troubled, RUNS[1]) if chooses(each)] == ["a"]


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("lr >", "expected a value, at the end (character 5)"),
        ("lr > 1 and", "expected a name, at the end (character 11)"),
        ("> 1", "expected a name, at '> 1' (character 1)"),
        ("lr = 1 loss = 2", "expected and, or, or the end, at 'loss = 2' (character 8)"),
        ("(lr = 1", "expected ), at the end (character 8)"),
        ("lr = 1)", "expected and, or, or the end, at ')' (character 7)"),
        ("lr = 'open", "this can't be read, at \"'open\" (character 6)"),
        ("lr = 1, loss", "this can't be read, at ', loss' (character 7)"),
        ("age < soon", "age needs a number with a unit: 90s, 30min, 2h, 3d, at 'soon'"),
        ("age < 5", "age needs a number with a unit: 90s, 30min, 2h, 3d, at '5'"),
        ("duration > nan", "duration needs a number with a unit"),
        ("status = done", "a status is one of running, completed, failed, stopped, stopping"),
        ("status != done", "a status is one of"),
        ("status ~ don*", "a status is one of"),
        ("status = ''", "a status is one of"),
        ("status < 5", "a status has no order: use =, !=, ~ or !~, at '5' (character 10)"),
        ("loss < abc", "loss has only numbers, and this is none, at 'abc' (character 8)"),
        ("loss.min != 'abc'", "loss.min has only numbers"),
        ("pending = some", "pending has only numbers"),
        ("'two words' = one", "two words has only numbers"),
        ("opt < 5", "opt has only texts, which no number orders, at '5'"),
        ("name >= 5", "name has only texts"),
        ("started > soon", "started is compared with 2026-11-03 or 2026-11-03T12:00, at 'soon'"),
        ("", "expected a name, at the end (character 1)"),
        ("and", "expected a name, at 'and' (character 1)"),
        ("(" * 60 + "lr" + ")" * 60, "nested deeper than 50 levels"),
        ("not " * 60 + "lr", "nested deeper than 50 levels"),
        ("lr=1 or " * 2_000 + "lr=1", "more than 10000 characters"),
    ],
)
def test_what_cant_be_understood_says_where(expression, says):
    """The message has the place, and the hint an example."""
    with pytest.raises(InvalidInputError) as refused:
        parsed(expression, NAMES)
    assert says in refused.value.message


@pytest.mark.parametrize(
    ("expression", "near"),
    [("losss < 1", "loss"), ("lr = 1 and statsu = failed", "status"), ("tags.taem = x", "team")],
)
def test_a_name_that_no_run_has_brings_the_right_one(expression, near):
    """An empty list would look like an answer."""
    with pytest.raises(NothingMatchesError) as refused:
        parsed(expression, NAMES)
    assert near in refused.value.hint


@given(st.text(max_size=40) | st.text(alphabet="lr <>=!~()'\"andotrloss0.1 ", max_size=40))
def test_any_text_is_an_expression_or_an_error_of_ours(text):
    """Whatever is typed, nothing else is raised, and the test that comes out answers."""
    try:
        test = parsed(text, NAMES)
    except InvalidInputError:
        return
    assert all(test(each) in {True, False} for each in RUNS)


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("loss", "abdc"),
        ("-loss", "badc"),
        ("loss.min", "badc"),
        ("-loss.max", "abdc"),
        ("lr", "bacd"),
        ("-lr", "abcd"),
        ("age", "adbc"),
        ("-age", "cbad"),
        ("name", "abcd"),
        ("-name", "dcba"),
        ("tags.team", "bdac"),
        ("-tags.team", "dbac"),
        ("'two words'", "cabd"),
    ],
)
def test_runs_without_the_value_come_last(sort, names):
    """In either direction; numbers come before texts, and NaN after both."""
    ask, descends = sort_key(sort, NAMES)
    assert "".join(each.name for each in in_order(RUNS, ask, descends=descends)) == names


@pytest.mark.parametrize(
    ("sort", "name"),
    [
        ("loss", ("loss", False)),
        (" -loss.min ", ("loss.min", True)),
        ("-'two words'", ("two words", True)),
        ('"-x"', ("-x", False)),
    ],
)
def test_the_name_to_sort_by_has_no_sign_and_no_quotes(sort, name):
    """So a table can have it as a column."""
    assert sort_name(sort, NAMES) == name


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("lr, loss.min ,age", ["lr", "loss.min", "age"]),
        (" ,, ", []),
        ("\"a, b\",'c\\'d',e\"f", ["a, b", "c'd", 'e"f']),
        ('"open, x', ['"open', "x"]),
    ],
)
def test_names_of_columns_may_have_a_comma(text, names):
    """In quotes, as in an expression."""
    assert column_names(text) == names


@pytest.mark.parametrize("sort", ["", "-", "nope", "loss.median"])
def test_what_cant_be_sorted_by_is_refused(sort):
    """Nothing to sort by, and names that no run has."""
    with pytest.raises(InvalidInputError):
        sort_key(sort, NAMES)
