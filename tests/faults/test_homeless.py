"""A user without a home (`env -i` in a container whose user has no name): journaltrack works, or
says what to set.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.patience import FOREVER_S
from tests.processes import ENVIRONMENT, states
from tests.simulator import simulator

NAMELESS = """
import pwd

def nobody(*_):
    raise KeyError("no such user")

pwd.getpwuid = pwd.getpwnam = nobody
"""
"""The C library's table of users, as it is in such a container."""
TRAINING = """
import sys
from journaltrack import Tracker
with Tracker.create(trial_component_name="run", **({"journal": sys.argv[1]} if sys.argv[1:] else {})) as tracker:
    tracker.log_metric("loss", 1.0)
print(tracker.trial_component.journal.path)
"""
COMMAND = "import sys; from journaltrack.cli import main; main()"


def homeless(code, *arguments, cwd, **environment):
    """Run a program as such a user; nothing is in its environment but what is given."""
    command = [sys.executable, "-c", NAMELESS + code, *arguments]
    env = {
        "PYTHONPATH": os.getcwd(),
        "PATH": os.environ["PATH"],
        "JOURNALTRACK_CLOSE_DEADLINE_S": "3600",
        **environment,
    }
    return subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, timeout=FOREVER_S, check=False
    )


@pytest.fixture
def folder(tmp_path):
    """A working folder in which nothing may appear."""
    (tmp_path / "work").mkdir()
    (tmp_path / "tmp").mkdir()
    yield tmp_path / "work"
    assert list((tmp_path / "work").iterdir()) == [], "no folder named ~, say"


@pytest.mark.parametrize("home", [{}, {"HOME": ""}], ids=["unset", "empty"])
def test_a_named_journal_needs_no_home(tmp_path, folder, home):
    """With journal= everything is recorded and delivered without HOME and without a name, and
    without a word about it.
    """
    with simulator() as sim:
        known = {
            **ENVIRONMENT,
            "AWS_ENDPOINT_URL": sim.endpoint_url,
            "TMPDIR": str(tmp_path / "tmp"),
            **home,
        }
        done = homeless(TRAINING, str(tmp_path / "j"), cwd=folder, **known)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert "run" in sim.components
    assert states(tmp_path / "j")["pending"] == 0
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("variable", ["JOURNALTRACK_HOME", "JOURNALTRACK_JOURNAL", "XDG_DATA_HOME"])
def test_a_home_of_our_own_is_enough(tmp_path, folder, variable):
    """Whatever variable names a place, it is used, without a word."""
    done = homeless(
        TRAINING, cwd=folder, **{variable: str(tmp_path / "there"), "JOURNALTRACK_SYNC": "off"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "there"))
    assert done.stderr == ""


def test_without_a_home_the_default_journal_is_in_a_folder_of_the_users_own(tmp_path, folder):
    """No HOME and no name: the default journal is below TMPDIR, readable by its owner alone,
    with a warning; the command line finds it.
    """
    env = {"TMPDIR": str(tmp_path / "tmp"), "JOURNALTRACK_SYNC": "off"}
    for _ in range(2):
        done = homeless(TRAINING.replace('"run"', '"run", resume=True'), cwd=folder, **env)
        assert done.returncode == 0, done.stderr
        assert "JOURNALTRACK_HOME" in done.stderr
    own = tmp_path / "tmp" / f"journaltrack-{os.getuid()}"
    assert own.stat().st_mode & 0o777 == 0o700
    assert (own / "journal" / "journal.db").exists()
    status = homeless(COMMAND, "status", cwd=folder, **env)
    assert str(own / "journal") in status.stdout, status.stderr


def planted_link(place, elsewhere):
    """A link that leads to somebody's files."""
    elsewhere.mkdir()
    place.symlink_to(elsewhere)


def planted_folder(place, _):
    """A folder that others may write to."""
    place.mkdir()
    place.chmod(0o777)


def planted_file(place, _):
    """No folder at all."""
    place.write_text("")


@pytest.mark.parametrize("plant", [planted_link, planted_folder, planted_file])
def test_what_others_put_in_its_place_is_not_used(tmp_path, folder, plant):
    """Everybody may write to /tmp: a folder there that is not the user's alone is refused, and
    the message says what to set.
    """
    plant(tmp_path / "tmp" / f"journaltrack-{os.getuid()}", tmp_path / "elsewhere")
    done = homeless(TRAINING, cwd=folder, TMPDIR=str(tmp_path / "tmp"), JOURNALTRACK_SYNC="off")
    assert done.returncode == 1
    assert "InvalidInputError" in done.stderr
    assert "set JOURNALTRACK_HOME" in done.stderr
    assert not (tmp_path / "elsewhere").exists() or list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["~/j"], {}),
        ([], {"JOURNALTRACK_JOURNAL": "~/j"}),
        ([], {"JOURNALTRACK_CONFIG": "~/c.toml"}),
    ],
)
def test_a_tilde_without_a_home_is_a_clear_error(folder, arguments, environment):
    """~ can't be told then: an error that says so and what to do, and no folder named ~."""
    done = homeless(TRAINING, *arguments, cwd=folder, JOURNALTRACK_SYNC="off", **environment)
    assert done.returncode == 1
    assert "there is no home folder" in done.stderr
    assert "InvalidInputError" in done.stderr


def test_a_working_folder_that_was_removed_is_no_reason_to_fail(tmp_path):
    """Training whose working folder is gone records and delivers into a named journal."""
    gone = tmp_path / "gone"
    gone.mkdir()
    # A script has its own folder in the path of modules, and not the working folder: packages may
    # look at each of them when they are imported, and boto3 imports what is there.
    leaving = "import os, sys; sys.path.remove(''); os.rmdir(os.getcwd())\n"
    if homeless(leaving + "import socket", str(tmp_path / "j"), cwd=gone).returncode != 0:
        pytest.skip(
            "this Python can't import its own socket module there (CPython 3.13.0: SystemError)"
        )
    gone.mkdir()
    code = leaving + TRAINING
    with simulator() as sim:
        env = {
            **ENVIRONMENT,
            "AWS_ENDPOINT_URL": sim.endpoint_url,
            "JOURNALTRACK_HOME": str(tmp_path / "home"),
        }
        done = homeless(code, str(tmp_path / "j"), cwd=gone, **env)
        assert done.returncode == 0, done.stderr
        assert "run" in sim.components
