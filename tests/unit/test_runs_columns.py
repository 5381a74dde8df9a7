"""Which columns `runs` shows if none are named, in which order, and how wide."""

from __future__ import annotations

import pytest

from journaltrack import Tracker
from tests.unit.test_terminal import on_terminal

pytestmark = pytest.mark.fast


def recorded(journal, name, *, parameters=None, metrics=(), tags=None, note=None):
    """Record one run."""
    with Tracker.create(trial_component_name=name, journal=journal, sync="off") as tracker:
        tracker.log_parameters(parameters or {})
        for metric in metrics:
            tracker.log_metric(metric, 1.0, step=0)
        if tags:
            tracker.set_tags(tags)
        if note:
            tracker.set_note(note)


def titles(arguments, monkeypatch, width=200):
    """The titles of a list on a terminal."""
    return on_terminal(["runs", *arguments], width, monkeypatch).splitlines()[0].split()


@pytest.mark.parametrize("many", ["metrics", "parameters"])
def test_one_run_with_a_thousand_names_takes_no_column(tmp_path, monkeypatch, many):
    """Columns are of what most of the shown runs have; a hint counts the others."""
    names = [f"a{number:03}" for number in range(290)]
    for place in range(4):
        parameters = {"lr": place}
        if many == "parameters" and place == 3:
            parameters |= dict.fromkeys(names, 1)
        more = names if many == "metrics" and place == 3 else []
        recorded(
            tmp_path / "j",
            f"run-{place}",
            parameters=parameters,
            metrics=["loss", "val:loss", *more],
        )
    shown = on_terminal(["runs", tmp_path / "j"], 200, monkeypatch)
    assert shown.splitlines()[0].split()[4:] == ["lr", "loss", "val:loss"]
    assert "290 columns left out" in shown
    narrow = on_terminal(["runs", tmp_path / "j"], 80, monkeypatch)
    assert narrow.splitlines()[0].split()[4:] == ["lr", "loss", "val:loss"]


def test_runs_that_share_nothing_have_columns_too(tmp_path, monkeypatch):
    """As many as there are by default."""
    for place in range(4):
        recorded(tmp_path / "j", f"run-{place}", metrics=[f"m{place}{n}" for n in range(20)])
    assert len(titles([tmp_path / "j"], monkeypatch)) == 4 + 8


def test_runs_of_several_frameworks_show_a_metric_of_each(tmp_path, monkeypatch):
    """Beside the parameters that vary, before those that only some have."""
    trees = {f"a{n}": n for n in range(30)}
    for place in range(3):
        parameters = {"lr": place, "run/event_files": place, **trees}
        recorded(tmp_path / "j", f"net-{place}", parameters=parameters, metrics=["val:loss"])
    recorded(tmp_path / "j", "trees", metrics=["valid/auc", *(f"w{n}" for n in range(20))])
    shown = titles([tmp_path / "j"], monkeypatch)[4:]
    assert shown[-2:] == ["val:loss", "valid/auc"]
    assert "lr" in shown
    assert "run/event_files" not in shown
    assert {"lr", "val:loss", "valid/auc"} <= set(titles([tmp_path / "j"], monkeypatch, width=80))


def test_the_order_of_columns_is_that_of_their_names(tmp_path, monkeypatch):
    """First parameters, then metrics, then tags, whichever runs are shown."""
    recorded(tmp_path / "j", "one", parameters={"zeta": 1, "lr": 1}, metrics=["b", "a"])
    recorded(
        tmp_path / "j",
        "two",
        parameters={"lr": 2},
        metrics=["b"],
        tags={"team": "x", "area": "y"},
    )
    for more in ([], ["--where", "lr > 1"], ["--where", "lr < 9"], ["--limit", "1"]):
        found = titles([tmp_path / "j", *more], monkeypatch)[4:]
        expected = ["lr", "zeta", "a", "b", "tags.area", "tags.team"]
        assert found == [name for name in expected if name in found]
        assert {"lr", "b"} <= set(found)


def test_what_tools_note_for_themselves_takes_no_column(tmp_path, monkeypatch):
    """Tags of an import and of MLflow are shown where they are asked for."""
    own = {"mlflow.user": "ada", "imported_from": "mlruns"}
    recorded(tmp_path / "j", "one", tags={**own, "team": "x"})
    assert titles([tmp_path / "j"], monkeypatch)[-1] == "tags.team"
    assert "tags.mlflow.user" in titles([tmp_path / "j", "--tag", "mlflow.user"], monkeypatch)


def test_a_tag_that_was_asked_for_is_shown(tmp_path, monkeypatch):
    """Also where others have to go."""
    parameters = {f"parameter-{n}": n for n in range(20)}
    recorded(tmp_path / "j", "one", parameters=parameters, tags={"team": "vision", "area": "x"})
    assert "tags.team" in titles([tmp_path / "j", "--tag", "team"], monkeypatch, width=80)
    assert "tags.team" not in titles([tmp_path / "j"], monkeypatch, width=80)


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("letter", ["x", "\N{CJK UNIFIED IDEOGRAPH-4E2D}"])
def test_a_long_text_takes_the_width_there_is(tmp_path, monkeypatch, width, letter):
    """It ends at the border, or is whole; a hint says where the rest is."""
    recorded(tmp_path / "j", "run", note=letter * 150)
    shown = on_terminal(["runs", tmp_path / "j", "--columns", "note"], width, monkeypatch)
    row = shown.splitlines()[1]
    each = 1 if letter == "x" else 2
    if each * 150 + 5 <= width:
        assert letter * 150 in row
        assert "hint" not in shown
    else:
        assert width - 2 <= len(row) + (each - 1) * row.count(letter) <= width
        assert "--json shows in full" in shown


def test_journals_lose_their_common_beginning_and_not_their_end(tmp_path, monkeypatch):
    """What tells one from the other is there at 80 columns."""
    folder = tmp_path / ("long-" * 20) / "runs"
    for name in ("node-1", "node-2"):
        recorded(folder / name, f"on-{name}")
    shown = on_terminal(["runs", folder, "--columns", "journal"], 80, monkeypatch)
    assert [line.split()[-1] for line in shown.splitlines()[1:3]] == ["…/node-2", "…/node-1"]
    alone = on_terminal(["runs", folder / "node-1", "--columns", "journal"], 80, monkeypatch)
    assert alone.splitlines()[1].endswith("runs/node-1")


def test_a_title_of_wide_letters_keeps_its_end_in_the_width_of_a_cell(tmp_path, monkeypatch):
    """A letter that takes two columns counts as two, so that values beside it have room."""
    metric = "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 30 + "end"
    recorded(tmp_path / "j", "run", metrics=[metric])
    (title,) = titles([tmp_path / "j", "--columns", f'"{metric}"'], monkeypatch)[1:]
    assert title == "…" + metric[-13:]
