"""Runs as the read model shows them: folded, summed up, thinned out, and followed by ``seq``."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import journaltrack
from journaltrack import Tracker
from journaltrack.errors import (
    InvalidInputError,
    JournalError,
    JournalNotFoundError,
    MirrorError,
    NothingMatchesError,
)
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.mirror import folders
from journaltrack.mirror.ship import Shipper
from journaltrack.readmodel import model as readmodel
from journaltrack.readmodel.cache import BLOCK_POINTS, Cache
from journaltrack.readmodel.model import labels
from journaltrack.readmodel.run import MetricSummary, Points, Runs, goal_of
from journaltrack.readmodel.series import Part, thinned, within
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Reconciler
from tests.builders import CREATION, opened

NAN, INF = math.nan, math.inf


def caches():
    """The side caches that are there."""
    return sorted(Path(os.environ["XDG_CACHE_HOME"]).rglob("runs-*.db"))


def recorded(folder, values, name="loss", run="run", steps=None):
    """Record a metric's values in a journal that may be there."""
    with closing(Journal.open(folder)) as journal:
        number = journal.component(run)
        if not journal.state_entries(number):
            journal.append(number, [CREATION])
        journal.append(
            number,
            [
                vocabulary.metric(name, value, step, (1_700_000_000 + place) * 10**9)
                for place, (value, step) in enumerate(
                    zip(values, steps or range(len(values)), strict=True)
                )
            ],
        )


@contextmanager
def open_model(folder):
    """A model that has read a journal, without a cache in a file."""
    with readmodel.open([folder], cache=False) as model:
        model.refresh()
        yield model


def only(folder, **how):
    """The only run of a journal."""
    (run,) = journaltrack.runs(folder, **how)
    return run


def test_a_run_has_what_its_script_logged(tmp_path):
    """Parameters, tags, status, times, artifacts and metrics are those of the calls; the last value
    of a key counts.
    """
    (tmp_path / "model.bin").write_bytes(b"weights")
    with Tracker.create(
        "My-run",
        trial_component_name="run-1",
        journal=tmp_path / "j",
        sync="off",
        tags={"team": "vision"},
    ) as tracker:
        tracker.log_parameters({"lr": 0.1, "optimizer": "adam"})
        tracker.log_parameter("lr", 0.2)
        tracker.log_artifact(tmp_path / "model.bin")
        tracker.log_input("data", "s3://bucket/data")
        for step, value in enumerate([3.0, 1.0, 2.0]):
            tracker.log_metric("val/loss", value, step=step)
    run = only(tmp_path / "j")
    assert (run.name, run.display_name, run.status) == ("run-1", "My-run", "completed")
    assert dict(run.parameters) == {"lr": 0.2, "optimizer": "adam"}
    assert dict(run.tags) == {"team": "vision"}
    assert run.started_ns < run.ended_ns
    assert run.duration_s == pytest.approx((run.ended_ns - run.started_ns) / 1e9)
    summary = run.metrics["val/loss"]
    assert (summary.last, summary.step, summary.min, summary.max) == (2.0, 2, 1.0, 3.0)
    assert (summary.points, summary.min_step, summary.max_step) == (3, 1, 0)
    assert run.metrics("val/loss").values == [3.0, 1.0, 2.0]
    assert run.metrics("val/loss").steps == [0, 1, 2]
    model, data = run.artifacts
    assert (model.name, model.direction, model.size_bytes) == ("model.bin", "output", 7)
    assert (data.name, data.direction, data.value) == ("data", "input", "s3://bucket/data")
    assert run.delivery.entries == run.delivery.pending > 0


def test_a_run_is_listed_as_json_with_the_promised_members(tmp_path):
    """The members that scripts read are there, and the document is valid JSON with NaN in it."""
    recorded(tmp_path / "j", [1.0, NAN])
    told = json.loads(json.dumps(journaltrack.runs(tmp_path / "j").to_json(), allow_nan=False))
    members = {"name", "display_name", "status", "started", "ended", "parameters", "tags"}
    assert members | {"metrics"} <= told[0].keys()
    loss = told[0]["metrics"]["loss"]
    assert {"last", "step", "min", "max", "points"} <= loss.keys()
    assert (loss["last"], loss["min"], loss["points"]) == ("nan", 1.0, 2)


@pytest.mark.parametrize("in_file", [True, False])
def test_values_that_are_no_finite_numbers_are_kept(tmp_path, in_file):
    """NaN and infinity are values: counted, read back, gaps of the curve, and no extremes."""
    recorded(tmp_path / "j", [INF, 2.0, NAN, -INF, 10**400, 1e308, -1e308])
    with readmodel.open([tmp_path / "j"], cache=in_file) as model:
        model.refresh()
        (run,) = model.runs()
        summary = run.metrics["loss"]
        assert (summary.not_finite, summary.min, summary.max) == (4, -1e308, 1e308)
        values = run.metrics("loss").values
        assert math.isnan(values[2])
        assert [*values[:2], *values[3:]] == [INF, 2.0, -INF, INF, 1e308, -1e308]
        series = model.series(run, "loss")
        assert series.y == [None, 2.0, None, None, None, 1e308, -1e308]
        assert series.not_finite == 4


def test_steps_may_be_missing_repeated_and_go_back(tmp_path):
    """A curve is in the order of its steps; a point without one has the number of points before
    it.
    """
    recorded(tmp_path / "j", [1.0, 2.0, 3.0, 4.0], steps=[5, 5, 2, 9])
    recorded(tmp_path / "j", [7.0, 8.0, 9.0], name="other", steps=[None, None, None])
    with readmodel.open([tmp_path / "j"]) as model:
        model.refresh()
        (run,) = model.runs()
        series = model.series(run, "loss")
        assert (list(series.x), list(series.y)) == ([2, 5, 5, 9], [3.0, 1.0, 2.0, 4.0])
        assert list(model.series(run, "other").x) == [0, 1, 2]
        assert run.metrics("other").steps == [None] * 3
        assert run.metrics["other"].step is None


def test_any_name_is_a_name(tmp_path):
    """Names with quotes, slashes, line breaks and scripts are found, and keep their points."""
    names = ["a/b", 'q"uote', "two\nlines", "<script>", "ünï", "%s", "", " "]
    with opened(tmp_path, {"run": [CREATION]}) as journal:
        journal.append(
            journal.component("run"),
            [vocabulary.metric(name, float(n), 0, 1) for n, name in enumerate(names)],
        )
    run = only(tmp_path / "journal")
    assert set(run.metrics) == set(names)
    assert [run.metrics(name).values for name in names] == [[float(n)] for n in range(len(names))]
    assert "<script>" not in run._repr_html_()


def test_a_thousand_metrics_are_summed_up(tmp_path):
    """Each of a thousand metrics of a run has its own points."""
    with opened(tmp_path, {"run": [CREATION]}) as journal:
        number = journal.component("run")
        for step in range(3):
            journal.append(
                number,
                [vocabulary.metric(f"m{n}", float(n + step), step, 1) for n in range(1_000)],
            )
    run = only(tmp_path / "journal")
    assert len(run.metrics) == 1_000
    assert all(run.metrics[f"m{n}"].last == n + 2 for n in range(1_000))


@st.composite
def appended(draw):
    """Some calls that record points, of two metrics, with and without steps."""
    value = st.one_of(st.floats(), st.sampled_from([NAN, INF, 1e308]))
    point = st.tuples(st.sampled_from(["a", "b"]), value, st.none() | st.integers(0, 2**31 - 1))
    return draw(st.lists(st.lists(point, min_size=1, max_size=8), min_size=1, max_size=5))


@pytest.mark.slow
@given(appended())
@example([[("a", 0.0, None)] * 3, [("a", -0.0, 1)]])
def test_following_gives_what_reading_it_all_gives(tmp_path_factory, calls):
    """A cache that read after each call, and one that read once, hold the same."""
    folder = tmp_path_factory.mktemp("follow") / "j"
    with (
        closing(Journal.open(folder)) as journal,
        readmodel.open([folder], cache=False) as following,
    ):
        number = journal.component("run")
        journal.append(number, [CREATION])
        for call in calls:
            journal.append(number, [vocabulary.metric(name, v, step, 5) for name, v, step in call])
            assert following.refresh()
            assert not following.refresh()
        with readmodel.open([folder], cache=False) as fresh:
            fresh.refresh()
            assert repr(described(following)) == repr(described(fresh))


def test_readers_in_turn_have_all_that_the_other_one_read(tmp_path):
    """Two that share a cache file each show everything, whoever reads it from the journal."""
    folder = tmp_path / "j"
    recorded(folder, [0.0], run="first")
    with readmodel.open([folder]) as one, readmodel.open([folder]) as other:
        for step, model in enumerate([one, other, other, one, one, other], start=1):
            recorded(folder, [float(step)], run=f"run-{step % 2}", steps=[step])
            recorded(folder, [float(step)], run="first", steps=[step])
            assert model.refresh()
            found = {run.name: run.metrics["loss"] for run in model.runs()}
            assert found["first"].points == step + 1
            assert sum(summary.points for summary in found.values()) == 2 * step + 1


def described(model):
    """All that a model tells of the only run."""
    (run,) = model.runs()
    return (
        dict(run.metrics.items()),
        {name: list(run.metrics(name)) for name in run.metrics},
        {name: model.series(run, name) for name in run.metrics},
        run.delivery,
    )


@pytest.mark.parametrize("axis", ["step", "time", "relative"])
def test_a_long_curve_is_thinned_to_its_columns(tmp_path, axis):
    """Whatever the axis, at most three points a column are left, with the lowest and the highest of
    all; a range that has few points has all of them.
    """
    count = 3 * BLOCK_POINTS + 17
    values = [math.sin(n / 50) for n in range(count)]
    values[1_500], values[700] = 9.0, NAN
    recorded(tmp_path / "j", values)
    with readmodel.open([tmp_path / "j"]) as model:
        model.refresh()
        (run,) = model.runs()
        whole = model.series(run, "loss", x=axis)
        assert (len(whole.x), whole.points, whole.is_exact) == (count, count, True)
        thin = model.series(run, "loss", x=axis, columns=100)
        assert not thin.is_exact
        assert len(thin.x) <= 300
        assert max(y for y in thin.y if y is not None) == 9.0
        assert min(y for y in thin.y if y is not None) == min(v for v in values if math.isfinite(v))
        assert None in thin.y
        assert list(thin.x) == sorted(thin.x)
        lo, hi = whole.x[1_490], whole.x[1_510]
        zoomed = model.series(run, "loss", x=axis, columns=100, lo=lo, hi=hi)
        assert zoomed.is_exact
        assert list(zoomed.x) == list(whole.x[1_489:1_512])


def test_a_range_between_two_points_has_them(tmp_path):
    """A curve reaches both borders of a range that has no point in it, or lies beyond the end."""
    recorded(tmp_path / "j", [float(n) for n in range(2 * BLOCK_POINTS)])
    with readmodel.open([tmp_path / "j"]) as model:
        model.refresh()
        (run,) = model.runs()
        edge = BLOCK_POINTS - 1
        ask = {"lo": edge + 0.2, "hi": edge + 0.8}
        assert list(model.series(run, "loss", columns=10, **ask).x) == [edge, edge + 1]
        last = 2 * BLOCK_POINTS - 1
        assert list(model.series(run, "loss", lo=last + 1, hi=last + 9).x) == [last]
        assert list(model.series(run, "loss", lo=-9, hi=-1).x) == [0]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats()), min_size=1, max_size=60),
    st.integers(1, 7),
    st.integers(1, 9),
)
def test_thinning_loses_no_spike_and_no_gap(drawn, columns, size):
    """In each column the lowest and the highest finite values are those of all its points, and a
    gap is there if one of them is not finite, however the points are cut into parts.
    """
    drawn.sort(key=lambda point: point[0])
    parts = [
        Part([x for x, _ in some], [y for _, y in some], 1)
        for some in (drawn[first : first + size] for first in range(0, len(drawn), size))
    ]
    lo, hi = 0.0, 50.0
    curve = thinned(parts, columns, lo, hi)
    assert curve.x == sorted(curve.x)
    width = (hi - lo) / columns
    for column in range(columns):

        def inside(x, column=column):
            return min(int((x - lo) / width), columns - 1) == column

        values = [y for x, y in drawn if inside(x)]
        finite = [y for y in values if math.isfinite(y)]
        kept = [y for x, y in zip(curve.x, curve.y, strict=True) if inside(x)]
        kept_finite = [y for y in kept if y is not None]
        assert len(kept) <= 3
        assert (None in kept) == (len(finite) < len(values))
        if finite:
            assert (min(kept_finite), max(kept_finite)) == (min(finite), max(finite))


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=40),
    st.integers(1, 9),
    st.floats(-5, 35),
    st.floats(-5, 35),
)
@example([0, 1, 2], 1, 0.5, 1.5)
@example([0, 1, 2, 3], 2, 1.5, 1.7)
def test_a_range_has_its_points_and_a_neighbour_on_each_side(xs, size, one, other):
    """However the points are cut into parts."""
    xs.sort()
    lo, hi = sorted((one, other))
    parts = [
        Part(xs[first : first + size], xs[first : first + size], 0)
        for first in range(0, len(xs), size)
    ]
    found = [x for part in within(parts, lo, hi) for x in part.x]
    inside = [x for x in xs if lo <= x <= hi]
    assert [x for x in found if lo <= x <= hi] == inside
    assert [x for x in found if x < lo] == [x for x in xs if x < lo][-1:]
    assert [x for x in found if x > hi] == [x for x in xs if x > hi][:1]


def test_columns_may_be_narrower_than_one():
    """A range of a second or less is thinned like a long one."""
    xs = [n / 1_000 for n in range(1_000)]
    curve = thinned([Part(xs, [float(n % 10) for n in range(1_000)], 0)], 10, 0.0, 0.999)
    assert len(curve.x) == 20
    assert curve.x == sorted(curve.x)
    assert set(curve.y) == {0.0, 9.0}


# -- the cache -------------------------------------------------------------------------------


def test_the_journal_is_not_written(tmp_path):
    """Looking leaves every file of the journal as it was; the cache is elsewhere, for its owner
    alone.
    """
    recorded(tmp_path / "j", [1.0])
    before = {path: path.read_bytes() for path in (tmp_path / "j").rglob("*.db")}
    assert journaltrack.runs(tmp_path / "j")
    assert {path: path.read_bytes() for path in (tmp_path / "j").rglob("*.db")} == before
    (cache,) = caches()
    assert cache.stat().st_mode & 0o777 == 0o600
    assert cache.parent.stat().st_mode & 0o777 == 0o700


def test_a_second_look_reads_only_what_is_new(tmp_path, monkeypatch):
    """The cache follows by ``seq``: entries that it has are not read again."""
    recorded(tmp_path / "j", [1.0] * 10)
    journaltrack.runs(tmp_path / "j")
    recorded(tmp_path / "j", [2.0], steps=[10])
    taken = []
    take = Cache._take_points
    monkeypatch.setattr(
        Cache, "_take_points", lambda self, j, rows: (taken.extend(rows), take(self, j, rows))
    )
    assert only(tmp_path / "j").metrics["loss"].points == 11
    assert [row[2] for row in taken] == [2.0]


def replaced(folder):
    """Put another journal in the journal's place."""
    shutil.rmtree(folder)
    recorded(folder, [7.0, 8.0], run="other")


def gone_back(folder):
    """Put an older copy of the journal in its place, which went on otherwise."""
    shutil.rmtree(folder)
    shutil.copytree(f"{folder}.old", folder)
    recorded(folder, [5.0] * 9, steps=range(2, 11))


@pytest.mark.parametrize("change", [replaced, gone_back])
@pytest.mark.parametrize("in_view", [True, False])
def test_a_journal_that_was_replaced_is_read_anew(tmp_path, change, in_view):
    """Whether somebody looks at it meanwhile or not, nothing of what was there before is shown."""
    folder = tmp_path / "j"
    recorded(folder, [1.0, 2.0])
    shutil.copytree(folder, f"{folder}.old")
    recorded(folder, [3.0] * 9, steps=range(2, 11))
    with readmodel.open([folder]) as model:
        model.refresh()
        if not in_view:
            model.close()
        change(folder)
        if in_view:
            assert model.refresh()
            found = model.runs()
        else:
            found = journaltrack.runs(folder)
        (run,) = found
        with readmodel.open([folder], cache=False) as fresh:
            fresh.refresh()
            (expected,) = fresh.runs()
        assert (run.name, run.metrics("loss").values) == (
            expected.name,
            expected.metrics("loss").values,
        )


def test_what_was_pruned_counts_but_is_not_drawn(tmp_path):
    """After a prune, the summary says how many points there were and their extremes; the curve has
    those that are left.
    """
    folder = tmp_path / "j"
    recorded(folder, [9.0, 1.0, 5.0])
    assert only(folder).metrics["loss"].points == 3
    delivered(folder)
    recorded(folder, [4.0], steps=[3])
    journaltrack.prune(folder, delivered_before=time.time_ns(), unasked=True, compact=False)
    run = only(folder)
    summary = run.metrics["loss"]
    assert (summary.points, summary.min, summary.max, summary.last) == (4, 1.0, 9.0, 4.0)
    assert summary.removed > 0
    assert run.metrics("loss").values == [9.0, 1.0, 5.0, 4.0][summary.removed :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"no database at all"),
        lambda file: file.write_bytes(file.read_bytes()[:5_000]),
        lambda file: file.write_bytes(file.read_bytes()[:4_096] + b"\xff" * 20_000),
        lambda file: file.write_bytes(b""),
        lambda file: sqlite(file, "DROP TABLE series"),
        lambda file: sqlite(file, "UPDATE run SET folded = 'no json'"),
    ],
)
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    """Whatever is in the file, the answer is that of the journal."""
    recorded(tmp_path / "j", [float(n) for n in range(3_000)])
    expected = only(tmp_path / "j").metrics("loss").values
    damage(caches()[0])
    assert only(tmp_path / "j").metrics["loss"].points == 3_000
    assert only(tmp_path / "j").metrics("loss").values == expected


def sqlite(file, statement):
    """Execute a statement on a database."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)


def test_a_cache_that_cant_be_written_is_kept_in_memory(tmp_path, monkeypatch):
    """A cache folder that is a file, or no home folder at all, costs time and no answer."""
    recorded(tmp_path / "j", [1.0])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert only(tmp_path / "j").metrics("loss").values == [1.0]


@pytest.mark.parametrize("how", ["link", "hard link", "link to nothing", "pipe"])
def test_a_cache_that_is_not_ours_is_left_alone(tmp_path, how):
    """What lies at the cache's place in a shared folder is neither read nor written."""
    recorded(tmp_path / "j", [1.0])
    journaltrack.runs(tmp_path / "j")
    (place,) = caches()
    foreign = tmp_path / "foreign"
    with closing(sqlite3.connect(foreign)) as other, other:
        other.execute("CREATE TABLE t (x)")
    content = foreign.read_bytes()
    place.unlink()
    if how == "pipe":
        os.mkfifo(place)
    elif how == "hard link":
        os.link(foreign, place)
    else:
        place.symlink_to(foreign if how == "link" else tmp_path / "nothing")
    assert only(tmp_path / "j").metrics("loss").values == [1.0]
    assert foreign.read_bytes() == content
    assert not (tmp_path / "nothing").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_cache_of_another_user_is_not_believed(tmp_path):
    """Who can write a file at the cache's place decides no number that is shown."""
    recorded(tmp_path / "j", [1.0])
    journaltrack.runs(tmp_path / "j")
    (place,) = caches()
    sqlite(place, "UPDATE series SET last = 7")
    assert only(tmp_path / "j").metrics["loss"].last == 7
    os.chown(place, 12_345, -1)
    assert only(tmp_path / "j").metrics["loss"].last == 1


def test_a_locked_cache_is_replaced_by_one_in_memory(tmp_path, monkeypatch):
    """Another process that holds the cache for ever does not stop anybody."""
    recorded(tmp_path / "j", [1.0])
    journaltrack.runs(tmp_path / "j")
    recorded(tmp_path / "j", [2.0], steps=[1])
    monkeypatch.setattr("journaltrack.readmodel.cache_file._BUSY_S", 0.01)
    with closing(sqlite3.connect(caches()[0], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert only(tmp_path / "j").metrics("loss").values == [1.0, 2.0]


PROGRAM = """
import sys, journaltrack
(run,) = journaltrack.runs(sys.argv[1])
print(run.metrics["loss"].points, len(run.metrics("loss")))
"""


@pytest.mark.slow
def test_several_readers_share_a_cache(tmp_path):
    """Processes that begin it at the same time all get the whole, and leave one that is whole."""
    for first in range(0, 120_000, 8_000):
        steps = range(first, first + 8_000)
        recorded(tmp_path / "j", map(float, steps), steps=steps)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, tmp_path / "j"], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    assert [reader.communicate()[0].split() for reader in readers] == [["120000"] * 2] * 3
    assert len(caches()) == 1
    assert only(tmp_path / "j").metrics("loss").values == [float(n) for n in range(120_000)]


KILLED = """
import os, signal, sys
import journaltrack
from journaltrack.readmodel.cache import Cache
take, chunks = Cache._take_points, []

def killed(self, *arguments):
    take(self, *arguments)
    chunks.append(1)
    if len(chunks) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Cache._take_points = killed
journaltrack.runs(sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_reader_loses_nothing_of_the_cache(tmp_path):
    """The next one reads on behind the last whole transaction."""
    for first in range(0, 120_000, 8_000):
        steps = range(first, first + 8_000)
        recorded(tmp_path / "j", map(float, steps), steps=steps)
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "j"], check=False)
    assert killed.returncode == -signal.SIGKILL
    with closing(sqlite3.connect(caches()[0])) as connection:
        assert connection.execute("SELECT sum(points) FROM block").fetchone() == (50_000,)
    assert only(tmp_path / "j").metrics("loss").values == [float(n) for n in range(120_000)]


FEW_FILES = """
import resource, sys
import journaltrack
from journaltrack.readmodel import model
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
print(len(journaltrack.runs(sys.argv[1])))
with model.open([sys.argv[1]]) as many:
    many.refresh()
    print(many.refresh(), len(many.runs()), len(many.problems))
    print(sum(len(many.series(run, "loss").x) for run in many.runs()))
"""


@pytest.mark.slow
def test_more_journals_than_files_may_be_open_are_read(tmp_path):
    """A folder of a hundred journals is listed, followed and drawn with 400 descriptors."""
    recorded(tmp_path / "all/0", [1.0, 2.0])
    for number in range(1, 100):
        shutil.copytree(tmp_path / "all/0", tmp_path / f"all/{number}")
    done = subprocess.run(
        [sys.executable, "-c", FEW_FILES, tmp_path / "all"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["100", "False", "100", "0", "200"]


def test_a_journal_at_rest_is_read_again_when_it_changes(tmp_path, monkeypatch):
    """Its files tell, without opening it."""
    monkeypatch.setattr(readmodel, "OPEN_MAX", 0)
    recorded(tmp_path / "j", [1.0])
    with readmodel.open([tmp_path / "j"]) as model:
        assert model.refresh()
        assert not model.refresh()
        recorded(tmp_path / "j", [2.0], steps=[1])
        assert model.refresh()
        (run,) = model.runs()
        assert run.metrics("loss").values == [1.0, 2.0]
        assert list(model.series(run, "loss").x) == [0, 1]
        assert not model.refresh()


# -- several journals, and those that can't be read --------------------------------------------


def test_folders_and_bundles_stand_for_their_journals(tmp_path):
    """All runs of a folder of journals and of a bundle are listed, and each says where it is."""
    recorded(tmp_path / "all/a", [1.0], run="run-a")
    recorded(tmp_path / "all/deep/b", [2.0], run="run-b")
    recorded(tmp_path / "c", [3.0], run="run-c")
    journaltrack.bundle(tmp_path / "c", to=tmp_path / "c.bundle")
    found = journaltrack.runs(tmp_path / "all", tmp_path / "c.bundle")
    assert {run.name: run.journal for run in found} == {
        "run-a": str(tmp_path / "all/a"),
        "run-b": str(tmp_path / "all/deep/b"),
        "run-c": str(tmp_path / "c.bundle"),
    }
    assert len({run.key for run in found}) == 3
    assert {run.name: run.metrics("loss").values for run in found}["run-c"] == [3.0]


def test_the_default_journal_is_read_if_none_is_named(tmp_path, monkeypatch):
    """As for every function of the package."""
    recorded(tmp_path / "j", [1.0])
    monkeypatch.setenv("JOURNALTRACK_JOURNAL", str(tmp_path / "j"))
    assert [run.name for run in journaltrack.runs()] == ["run"]
    assert [run.name for run in journaltrack.runs(None)] == ["run"]


def damaged(folder):
    """Overwrite the middle of the database."""
    file = folder / "journal.db"
    data = bytearray(file.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    file.write_bytes(data)


def newer(folder):
    """Make it one of a newer journaltrack."""
    sqlite(folder / "journal.db", "UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize("spoil", [damaged, newer, shutil.rmtree])
def test_a_journal_that_cant_be_read_hides_no_other(tmp_path, spoil):
    """The others are listed, and its error is told; alone, it is raised."""
    for name in ("good", "bad"):
        recorded(tmp_path / name, [1.0] * 500, run=name)
    spoil(tmp_path / "bad")
    found = journaltrack.runs(tmp_path / "good", tmp_path / "bad")
    assert [run.name for run in found] == ["good"]
    ((path, error),) = found.problems
    assert path == str(tmp_path / "bad")
    assert isinstance(error, JournalError)
    assert error.hint
    with pytest.raises(JournalError):
        journaltrack.runs(tmp_path / "bad")


@pytest.mark.parametrize("spoil", [damaged, newer, shutil.rmtree])
def test_a_journal_that_spoils_while_it_is_looked_at_stays_in_view(tmp_path, spoil):
    """What was read of it is still shown, with the reason why nothing new comes; when it is back,
    so are its news.
    """
    folder = tmp_path / "j"
    recorded(folder, [1.0] * 500)
    shutil.copytree(folder, tmp_path / "copy")
    with readmodel.open([folder]) as model:
        model.refresh()
        spoil(folder)
        assert model.refresh()
        assert model.problems
        (run,) = model.runs()
        assert len(model.series(run, "loss").x) == 500
        assert not model.refresh()
        shutil.rmtree(folder, ignore_errors=True)
        (tmp_path / "copy").rename(folder)
        recorded(folder, [2.0], steps=[500])
        assert model.refresh()
        assert not model.problems
        (run,) = model.runs()
        assert run.metrics["loss"].last == 2.0


def test_no_journal_at_all_is_an_error(tmp_path):
    """A path without a journal is not an empty list."""
    with pytest.raises(JournalNotFoundError):
        journaltrack.runs(tmp_path / "nowhere")


def test_experiments_and_trials_are_no_runs(tmp_path):
    """Rows of the journal that are no components are left out."""
    with opened(
        tmp_path,
        {name: [CREATION] for name in ("run", "experiment/mine", "experiment-trial/mine")},
    ):
        pass
    assert [run.name for run in journaltrack.runs(tmp_path / "journal")] == ["run"]


# -- status and delivery -----------------------------------------------------------------------


def test_a_run_in_progress_runs_until_its_process_is_gone(tmp_path):
    """Running, then interrupted after a kill, without another entry in the journal."""
    program = (
        "import sys\nfrom journaltrack import Tracker\n"
        "t = Tracker.create(trial_component_name='run', journal=sys.argv[1], sync='off')\n"
        "t.__enter__()\nt.log_metric('loss', 1.0)\nprint('ready', flush=True)\nsys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "j"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with readmodel.open([tmp_path / "j"]) as model:
        assert process.stdout.readline() == "ready\n"
        model.refresh()
        (run,) = model.runs()
        assert (run.status, run.ended_ns) == ("running", None)
        assert run.duration_s > 0
        process.kill()
        process.communicate()
        assert model.refresh()
        (run,) = model.runs()
        assert (run.status, run.ended_ns) == ("interrupted", run.last_entry_ns)


def delivered(folder):
    """Deliver all of a journal to a remote in memory."""
    with closing(Journal.open(folder)) as journal:
        Reconciler(journal, MemoryRemote()).run()


def test_delivery_is_counted_per_run(tmp_path):
    """What arrived, what waits and what was refused add up to what was recorded."""
    recorded(tmp_path / "j", [1.0, NAN, 3.0], run="a")
    with readmodel.open([tmp_path / "j"]) as model:
        model.refresh()
        (run,) = model.runs()
        assert (run.delivery.pending, run.delivery.quarantined) == (3, 1)
        delivered(tmp_path / "j")
        recorded(tmp_path / "j", [4.0], run="a", steps=[3])
        recorded(tmp_path / "j", [4.0], run="b")
        assert model.refresh()
        counts = {run.name: run.delivery for run in model.runs()}
    assert counts["a"].delivered == 3
    assert (counts["a"].pending, counts["a"].quarantined, counts["a"].entries) == (1, 1, 5)
    assert (counts["b"].pending, counts["b"].entries) == (2, 2)


# -- choosing, comparing, showing --------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    """A journal of three runs with different parameters."""
    for place, (name, lr, values) in enumerate(
        [("wide", 0.1, [3.0, 1.0]), ("deep", 0.2, [2.0, 0.5]), ("none", "auto", [])]
    ):
        with Tracker.create(
            name, trial_component_name=f"run-{place}", journal=tmp_path / "j", sync="off"
        ) as tracker:
            tracker.log_parameters({"lr": lr, "seed": 7})
            for step, value in enumerate(values):
                tracker.log_metrics({"loss": value, "acc": value / 10}, step=step)
    return tmp_path / "j"


def test_runs_are_found_by_name_display_name_and_pattern(three):
    """In the order of the patterns, each once; without one, the newest; a misspelt name brings the
    right one.
    """
    with readmodel.open([three]) as model:
        model.refresh()
        assert [run.label for run in model.find(["run-1", "w*", "RUN-1"])] == ["deep", "wide"]
        assert [run.label for run in model.find()] == ["none"]
        assert model.find([model.find(["deep"])[0].key])[0].label == "deep"
        with pytest.raises(NothingMatchesError, match="perhaps deep"):
            model.find(["depe"])


def test_comparing_tells_what_differs_and_who_is_best(three):
    """Parameters that differ are named; the best last value is low or high as the name tells."""
    with readmodel.open([three]) as model:
        model.refresh()
        compared = model.compare(model.find(["wide", "deep", "none"]))
    assert compared.differing == ("lr",)
    assert compared.parameters["lr"] == (0.1, 0.2, "auto")
    assert (compared.metrics["loss"].goal, compared.metrics["loss"].best) == ("min", (1,))
    assert (compared.metrics["acc"].goal, compared.metrics["acc"].best) == ("max", (0,))
    assert compared.metrics["loss"].values[2] is None
    # Of one value none is the best.
    with readmodel.open([three]) as model:
        model.refresh()
        alone = model.compare(model.find(["wide", "none"])).metrics["loss"]
    assert (alone.best, alone.best_ever) == ((), ())
    json.dumps(compared.to_json(), allow_nan=False)


def test_runs_of_a_journal_that_is_gone_are_still_compared(three):
    """What was read of them stays; of their code nothing is known."""
    with readmodel.open([three]) as model:
        model.refresh()
        found = model.find(["wide", "deep"])
        shutil.rmtree(three)
        compared = model.compare(found)
    assert compared.parameters["lr"] == (0.1, 0.2)
    assert (compared.code, compared.packages) == ({}, {})


@pytest.mark.parametrize(
    ("name", "goal"),
    [
        *[(name, "min") for name in ("loss", "train:loss", "val/CrossEntropyLoss", "RMSE", "err1")],
        *[(name, "max") for name in ("acc", "valAcc", "top5_accuracy", "macro avg/f1", "reward")],
        *[(name, None) for name in ("lr", "epoch", "gpu", "space", "")],
    ],
)
def test_a_metrics_name_tells_its_goal(name, goal):
    """Words of a name decide, not letters in it; other names tell nothing."""
    assert goal_of(name) == goal


def test_the_timeline_has_all_but_metrics(three):
    """In order, a page at a time, with the state of each entry."""
    with readmodel.open([three]) as model:
        model.refresh()
        run = model.find(["wide"])[0]
        events = model.timeline(run)
        assert [event.kind for event in events][:2] == ["create", "status"]
        assert {event.state for event in events} == {"pending"}
        rest = model.timeline(run, after_seq=events[1].seq, limit=2)
        assert rest == events[2:4]


def test_the_timeline_says_what_was_set_as_people_write_it(tmp_path):
    """Whole numbers have no point, times are times, and nothing is Python's."""
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as tracker:
        tracker.log_parameters({"epochs": 30, "lr": 0.5})
        tracker.set_tags({"stage": "best", "owner": "ada"})
        tracker.trial_component.start_time = datetime(2026, 11, 3, tzinfo=timezone.utc)
    with readmodel.open([tmp_path / "j"]) as model:
        model.refresh()
        said = [event.text for event in model.timeline(model.find()[0])]
    assert [text for text in said if text[:3] in {"30", "0.5", "sta"}] == [
        "30",
        "0.5",
        "stage=best, owner=ada",
        "start=2026-11-03T00:00:00Z",
    ]


def test_questions_that_have_no_answer_are_refused(three):
    """An unknown run, metric or axis is an error of its own."""
    with readmodel.open([three]) as model:
        model.refresh()
        (run,) = model.find()
        for ask in (
            lambda: model.run("nothing"),
            lambda: model.run(run.key[:-1] + "99"),
            lambda: model.series(run, "losss"),
            lambda: run.metrics("losss"),
        ):
            with pytest.raises(NothingMatchesError):
                ask()
        with pytest.raises(InvalidInputError):
            model.series(model.find(["wide"])[0], "loss", x="sideways")
        with pytest.raises(InvalidInputError):
            model.series(model.find(["wide"])[0], "loss", columns=0)


def test_notebooks_show_runs_as_tables(three):
    """A list, a run and a tracker are HTML; names and values are escaped."""
    found = journaltrack.runs(three)
    for shown in (found._repr_html_(), found[0]._repr_html_()):
        assert shown.startswith("<table>")
        assert "auto" in shown


def test_a_notebook_shows_a_tracker(tmp_path):
    """As a table of its parameters and tags, escaped."""
    with Tracker.create("Shown", journal=tmp_path / "j", sync="off", tags={"a": "b"}) as tracker:
        tracker.log_parameter("lr", "<b>")
        shown = tracker._repr_html_()
    assert "Shown" in shown
    assert "&lt;b&gt;" in shown
    assert "InProgress" in shown


def test_points_become_a_data_frame():
    """With pandas, as columns of the right types; a missing step stays missing."""
    frame = Points("loss", [1, None], [0.5, NAN], [0, 10**9]).to_pandas()
    assert frame["value"].tolist()[0] == 0.5
    assert frame["step"].isna().tolist() == [False, True]
    assert str(frame["time"][1]) == "1970-01-01 00:00:01+00:00"


def test_a_summary_knows_the_best_for_each_goal():
    """The lowest with its step, or the highest."""
    summary = MetricSummary(1.0, 2, 0.5, 3.0, 9, 4, 6)
    assert (summary.best("min"), summary.best_step("min")) == (0.5, 4)
    assert (summary.best("max"), summary.best_step("max")) == (3.0, 6)


def test_a_list_of_runs_is_asked_by_name_and_prints_briefly(three):
    """By name or display name, else with what is near; a text has a line per run."""
    with open_model(three) as model:
        found = model.runs()
    assert found[found[0].name] is found[0]
    assert [run.name for run in found[:2]] == [run.name for run in list(found)[:2]]
    with pytest.raises(KeyError, match="no run is called 'nobody'; it has: "):
        found["nobody"]
    with pytest.raises(KeyError, match="the run has no metric 'los'; perhaps "):
        found["wide"].metrics["los"]
    text = repr(found)
    assert text.count("\n") == 3
    assert len(text) < 300
    assert all(run.label in text for run in found)
    many = Runs(list(found) * 100)
    assert (repr(many).count("\n"), "280 more" in repr(many)) == (21, True)


def test_times_of_a_data_frame_are_times(three):
    """In UTC, also where a run has no end; an empty list has the columns, too."""
    pandas = pytest.importorskip("pandas")
    with open_model(three) as model:
        found = model.runs()
    frame = Runs([*found[:1], dataclasses.replace(found[1], ended_ns=None)]).to_pandas()
    for name in ("started", "ended"):
        assert isinstance(frame[name].dtype, pandas.DatetimeTZDtype)
    assert frame["ended"].isna().tolist() == [False, True]
    assert frame["started"][0].to_pydatetime() == found[0].started
    assert Runs().to_pandas().empty


@pytest.mark.parametrize(
    ("names", "journals", "shown"),
    [
        (["digits-1", "digits-2"], ["j", "j"], ["x (digits-1)", "x (digits-2)"]),
        (["a", "a-1"], ["j", "j"], ["x (a)", "x (a-1)"]),
        (
            ["trialcomponent-2026-11-26-101500-aaaa", "trialcomponent-2026-11-26-113000-bbbb"],
            ["j", "j"],
            ["x (101500-aaaa)", "x (113000-bbbb)"],
        ),
        (
            ["learning-rate-0.1-and-a-seed", "learning-rate-0.2-and-a-seed"],
            ["j", "j"],
            ["x (1)", "x (2)"],
        ),
        (["run", "run"], ["/data/a/journal", "/data/b/journal"], ["x (a)", "x (b)"]),
        (["0" * 32, "1" * 32], ["j", "j"], ["x (00000000)", "x (11111111)"]),
        (
            ["0" * 31 + "1", "0" * 9 + "1" * 23],
            ["j", "j"],
            ["x (0000000000)", "x (0000000001)"],
        ),
        (["run", "run"], ["j", "j"], ["x", "x"]),
    ],
)
def test_runs_of_one_display_name_are_told_apart(three, names, journals, shown):
    """By what differs in their names, or in their journals; a run alone keeps its label."""
    with open_model(three) as model:
        first = model.runs()[0]
    runs = [
        dataclasses.replace(first, name=name, display_name="x", journal=journal)
        for name, journal in zip(names, journals, strict=True)
    ]
    other = dataclasses.replace(first, name="y-1", display_name=None)
    assert labels([*runs, other]) == [*shown, "y-1"]


def test_comparing_tells_the_best_of_all_values(tmp_path):
    """A run that was best once and got worse has the mark there, and not on its last value."""
    for name, values in (("a", [3.0, 0.5, 2.0]), ("b", [3.0, 2.0, 1.0])):
        recorded(tmp_path / "j", values, run=name)
    with open_model(tmp_path / "j") as model:
        compared = model.compare(model.find(["a", "b"]))
    assert (compared.metrics["loss"].best, compared.metrics["loss"].best_ever) == ((1,), (0,))


def test_runs_takes_a_mirror_and_what_takes_one_journal_says_what_to_name(tmp_path):
    """The copies of its journals are extended, as for the commands; a broken one is a problem."""
    recorded(tmp_path / "j", [1.0, 2.0])
    mirror = folders.opened(tmp_path / "mirror", create=True)
    with pytest.raises(MirrorError, match="no whole segment"):
        journaltrack.runs(mirror.path)
    with closing(Shipper(tmp_path / "j", mirror)) as shipper:
        shipper.ship()
    (run,) = journaltrack.runs(mirror.path)
    assert run.metrics["loss"].count == run.metrics["loss"].points == 2
    for call in (journaltrack.status, journaltrack.audit):
        with pytest.raises(JournalNotFoundError) as told:
            call(mirror.path)
        assert "it is a mirror" in told.value.hint
