"""Configuration: the file, variables over it, the command line over both, and every mistake an
error that says where.
"""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.errors import InvalidInputError, InvalidTypeError
from journaltrack.tracking.settings import settings_of
from journaltrack.util import config
from journaltrack.util.config import Configuration, load, settings, value_of


@pytest.fixture
def write(tmp_path):
    """Writes a configuration file."""

    def write(text, name="config.toml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_without_anything_there_are_the_defaults():
    """No file and no variable: every value is the default, and says so."""
    loaded = load(environ={})
    assert loaded.configuration == Configuration()
    assert loaded.path is None
    assert set(loaded.origins.values()) == {"default"}


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("JOURNALTRACK_SYNCH", "JOURNALTRACK_SYNC"),
        ("JOURNALTRACK_WATCH_DEBOUNCE", "JOURNALTRACK_WATCH_DEBOUNCE_S"),
        ("JOURNALTRACK_HOMES", "JOURNALTRACK_HOME"),
        ("JOURNALTRACK_CONFIGS", "JOURNALTRACK_CONFIG"),
        ("journaltrack_sync", "JOURNALTRACK_SYNC"),
        ("JOURNALTRACK_", "journaltrack config"),
        ("JOURNALTRACK_QQQQ\x1b[2J", "journaltrack config"),
    ],
)
def test_a_misspelt_variable_is_told(tmp_path, monkeypatch, caplog, variable, meant):
    """Every command says that it has no effect, and what may be meant; a tracker logs it once in
    a process and goes on.
    """
    monkeypatch.setattr(config, "_told", set())
    monkeypatch.setenv(variable, "off")
    for number in range(2):
        with Tracker.create(trial_component_name=f"run-{number}", journal=tmp_path, sync="off"):
            pass
    told = [each.getMessage() for each in caplog.records if "no effect" in each.getMessage()]
    assert len(told) == 1
    assert meant in told[0]
    for command in (["config"], ["audit", str(tmp_path)], ["status", str(tmp_path)]):
        done = CliRunner().invoke(main, command)
        assert done.stderr.count("no effect") == 1
        assert meant in done.stderr
        assert "\x1b" not in done.stderr
    assert (
        variable
        in json.loads(CliRunner().invoke(main, ["config", "--json"]).stdout)["unknown_variables"]
    )


def test_variables_that_are_known_or_empty_are_no_news():
    """Neither a key's variable, nor the two of the file and the home, nor an empty one, nor
    another program's.
    """
    known = [each.variable for each in settings()] + ["JOURNALTRACK_HOME", "JOURNALTRACK_CONFIG"]
    environ = {**dict.fromkeys(known, "x"), "JOURNALTRACK_SYNCH": "", "_JOURNALTRACK_COMPLETE": "x"}
    assert config.unknown_variables({**environ, "JOURNALTRACKER_X": "1"}) == []


def test_each_source_comes_before_the_one_below(write):
    """The command line comes before variables, these before the file, and that before defaults;
    each value says where it is from.
    """
    file = write(
        "concurrency = 2\nsync = 'off'\nregion = 'eu-west-1'\n[watch]\ndebounce_s = 2\npoll_s = 2\n"
    )
    environ = {
        "JOURNALTRACK_SYNC": "background",
        "JOURNALTRACK_WATCH_DEBOUNCE_S": "3",
        "JOURNALTRACK_CONCURRENCY": "3",
        "JOURNALTRACK_REGION": "",
    }
    loaded = load(file, environ=environ, overrides={"concurrency": 4, "profile": None})
    known = loaded.configuration
    assert (known.concurrency, loaded.origins["concurrency"]) == (4, "command line")
    assert (known.sync, loaded.origins["sync"]) == ("background", "JOURNALTRACK_SYNC")
    assert (known.watch.debounce_s, loaded.origins["watch.debounce_s"]) == (
        3.0,
        "JOURNALTRACK_WATCH_DEBOUNCE_S",
    )
    assert (known.watch.poll_s, loaded.origins["watch.poll_s"]) == (2.0, str(file))
    assert (known.region, loaded.origins["region"]) == ("eu-west-1", str(file)), (
        "an empty variable is none"
    )
    assert (known.profile, loaded.origins["profile"]) == (None, "default")


def test_the_file_is_found_where_the_platform_has_it(tmp_path, monkeypatch):
    """Without a name, it is config.toml in the user's folder; a variable names another one."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "journaltrack").mkdir()
    (tmp_path / "journaltrack" / "config.toml").write_text("concurrency = 5\n")
    assert load().configuration.concurrency == 5
    (tmp_path / "other.toml").write_text("concurrency = 6\n")
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(tmp_path / "other.toml"))
    assert load().configuration.concurrency == 6


def test_paths_in_the_file_start_at_its_folder(write, tmp_path):
    """Relative paths do not depend on where a command runs; a tilde is the home."""
    file = write(
        "journal = 'j'\n[watch]\nfolders = ['in', '/abs', '~/x']\nhealth_file = 'h.json'\n"
    )
    known = load(file, environ={}).configuration
    assert known.journal == str(tmp_path / "j")
    assert known.watch.folders == (str(tmp_path / "in"), "/abs", os.path.expanduser("~/x"))
    assert known.watch.health_file == str(tmp_path / "h.json")
    assert load(
        environ={"JOURNALTRACK_WATCH_FOLDERS": f"/a{os.pathsep}/b"}
    ).configuration.watch.folders == ("/a", "/b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("concurrency = 0", ["concurrency", "1 to 256"]),
        ("concurrency = 257", ["concurrency", "256"]),
        ("concurrency = true", ["concurrency", "whole number"]),
        ("concurrency = 1.5", ["concurrency", "whole number"]),
        ("close_deadline_s = 0", ["close_deadline_s", "more than 0"]),
        ("close_deadline_s = -1", ["close_deadline_s"]),
        ("close_deadline_s = nan", ["close_deadline_s"]),
        ("close_deadline_s = inf", ["close_deadline_s"]),
        ("close_deadline_s = '10'", ["close_deadline_s", "number"]),
        ("requests_per_s = -1", ["requests_per_s", "0 or more"]),
        ("sync = 'sometimes'", ["sync", "close, background, off"]),
        ("durability = 'disk'", ["durability", "process, power"]),
        ("end_interrupted = 'no'", ["end_interrupted", "true or false"]),
        ("end_interrupted = 1", ["end_interrupted", "true or false"]),
        ("sigterm = 'ignore'", ["sigterm", "default, stop"]),
        ("region = 7", ["region", "text"]),
        ("concurency = 2", ["'concurency'", "concurrency"]),
        ("watch = 3", ["watch", "table"]),
        ("[watch]\nfolder = ['x']", ["watch.folder", "watch.folders"]),
        ("[watch]\nfolders = 'x'", ["watch.folders", "list of paths"]),
        ("[watch]\ndebounce = 1", ["watch.debounce", "watch.debounce_s"]),
        ("[other]\nx = 1", ["other"]),
        ("concurrency = 2\nsync = = 2", ["TOML", "line 2"]),
    ],
)
def test_every_mistake_names_itself_and_its_place(write, text, words):
    """What can't be right is refused with the key, the file, what it must be, and a hint."""
    file = write(text)
    with pytest.raises(InvalidInputError) as caught:
        load(file, environ={})
    assert str(file) in caught.value.message
    assert caught.value.hint
    for word in words:
        assert word in str(caught.value)


def test_a_wrong_variable_is_named(write):
    """A variable's mistake names the variable, not the file."""
    with pytest.raises(InvalidInputError, match="JOURNALTRACK_CONCURRENCY"):
        load(write("concurrency = 2"), environ={"JOURNALTRACK_CONCURRENCY": "many"})


def test_a_file_that_is_named_must_be_there_and_readable(tmp_path):
    """A named file that is missing, a folder, or not text is an error, not silence."""
    with pytest.raises(InvalidInputError, match="no configuration file"):
        load(tmp_path / "missing.toml", environ={})
    with pytest.raises(InvalidInputError, match="can't be read"):
        load(tmp_path, environ={})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match="not TOML"):
        load(tmp_path / "binary.toml", environ={})


def test_the_example_is_the_defaults(write):
    """The example file can be loaded, and changes nothing; every key is in it."""
    text = CliRunner().invoke(main, ["config", "--example"]).stdout
    assert load(write(text), environ={}).configuration == Configuration()
    for setting in settings():
        assert setting.key.rpartition(".")[2] in text


def test_every_key_can_be_set_by_its_variable():
    """No key is beyond its variable's reach."""
    for setting in settings():
        by_type = {int: "7", float: "7.5", tuple: "/x"}.get(type(setting.default), "123456789012")
        value = setting.choices[-1] if setting.choices else by_type
        if setting.key == "deliver_to":
            value = "sagemaker"
        loaded = load(environ={setting.variable: value})
        assert loaded.origins[setting.key] == setting.variable
        wanted = (
            [False] if isinstance(setting.default, bool) else [value, 7, 7.5, ("/x",), (value,)]
        )
        assert value_of(loaded.configuration, setting.key) in wanted


def test_current_follows_the_file_and_the_environment(write, monkeypatch):
    """The accessor of trackers reads again when the file or a variable changed."""
    file = write("concurrency = 2")
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(file))
    assert config.current().concurrency == 2
    assert config.current() is config.current()
    write("concurrency = 33")
    assert config.current().concurrency == 33
    monkeypatch.setenv("JOURNALTRACK_CONCURRENCY", "4")
    assert config.current().concurrency == 4


def test_a_tracker_takes_its_settings_from_the_file(write, tmp_path, monkeypatch):
    """Journal, durability and sync of a tracker come from the configuration; arguments come
    first.
    """
    file = write("journal = 'mine'\nsync = 'off'\ndurability = 'power'\nclose_deadline_s = 3\n")
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(file))
    tracker = Tracker.create()
    assert (tmp_path / "mine" / "journal.db").exists()
    assert tracker._settings.sync == "off"
    assert tracker._settings.close_deadline_s == 3
    with tracker._journal.database.lock:
        assert tracker._journal.database.connection.execute("PRAGMA synchronous").fetchone()[0] == 2
    tracker.close()
    given = Tracker.create(durability="process", sync="close", close_deadline_s=0.1)
    assert (given._settings.sync, given._settings.durability, given._settings.close_deadline_s) == (
        "close",
        "process",
        0.1,
    )
    given._settings = tracker._settings
    given.close()


def test_a_mirror_leaves_the_delivery_to_others_unless_asked(write, tmp_path, monkeypatch):
    """With a mirror, from the file, a variable or an argument, a tracker delivers nothing by
    itself; what ``sync`` says, comes first.
    """
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(write("mirror = 'shared'")))
    assert (settings_of().sync, settings_of().mirror) == ("off", tmp_path / "shared")
    assert settings_of(sync="close").sync == "close"
    monkeypatch.setenv("JOURNALTRACK_MIRROR", str(tmp_path / "other"))
    assert settings_of().mirror == tmp_path / "other"
    assert settings_of(mirror=tmp_path / "given").mirror == tmp_path / "given"
    monkeypatch.setenv("JOURNALTRACK_SYNC", "background")
    assert settings_of().sync == "background"
    monkeypatch.setenv("JOURNALTRACK_CONFIG", str(write("")))
    for name in ("MIRROR", "SYNC"):
        monkeypatch.delenv(f"JOURNALTRACK_{name}")
    assert (settings_of().sync, settings_of().mirror) == ("close", None)
    assert settings_of(mirror="m").sync == "off"
    with pytest.raises(InvalidTypeError, match="mirror must be"):
        settings_of(mirror=3)


def test_the_command_says_what_is_in_force_and_from_where(write, monkeypatch):
    """`journaltrack config` lists every key with value and origin; --json has the same for
    scripts.
    """
    file = write("[watch]\ndebounce_s = 2\n")
    monkeypatch.setenv("JOURNALTRACK_SYNC", "off")
    done = CliRunner().invoke(main, ["config", "--config", str(file)])
    assert done.exit_code == 0
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()[2:]}
    assert rows["watch.debounce_s"] == ["2.0", str(file)]
    assert rows["sync"] == ["off", "JOURNALTRACK_SYNC"]
    assert rows["concurrency"] == ["96", "default"]
    told = json.loads(CliRunner().invoke(main, ["config", "--config", str(file), "--json"]).stdout)
    assert {s["key"] for s in told["settings"]} == {s.key for s in settings()}
    assert told["file"] == str(file)
    wrong = CliRunner().invoke(main, ["config", "--config", str(write("x = 1"))])
    assert wrong.exit_code == 2
    assert "hint:" in wrong.stderr


def test_timestamps_that_are_too_old_can_be_shifted():
    """With ``shift``, points outside of the window get the time of delivery, the others keep
    theirs; values and steps stay.
    """
    from journaltrack.replay.plan.actions import MetricPoint, PutMetrics

    now_ns = 1_800_000_000 * 10**9
    day_ns = 86_400 * 10**9
    times = [now_ns - 20 * day_ns, now_ns - day_ns, now_ns, now_ns + day_ns]
    points = tuple(MetricPoint("loss", float(n), n, at) for n, at in enumerate(times))
    request = PutMetrics(1, "run", points, (1, 2, 3, 4))
    sent = request.within(now_ns, 14 * 86_400, 7_200)
    assert [point.timestamp_ns for point in sent.points] == [
        now_ns,
        now_ns - day_ns,
        now_ns,
        now_ns,
    ]
    assert [(p.name, p.value, p.step) for p in sent.points] == [
        (p.name, p.value, p.step) for p in points
    ]
    assert sent.seqs == request.seqs
    recent = request.pick([1, 2])
    assert recent.within(now_ns, 14 * 86_400, 7_200) is recent
