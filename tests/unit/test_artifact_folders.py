"""``log_artifacts``: everything below a folder that can be recorded is, and what can't be is
told.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import traceback
import warnings
from contextlib import closing
from pathlib import Path

import pytest

from journaltrack import Tracker
from journaltrack.errors import ArtifactError, InvalidTypeError
from journaltrack.tracking.validation import JournaltrackWarning


@pytest.fixture
def tracker(tmp_path):
    """A tracker that replays nothing."""
    return Tracker.create(journal=tmp_path / "journal", sync="off")


@pytest.fixture
def root(tmp_path):
    """A folder with one file in it."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("a")
    return tmp_path / "d"


def names(tracker):
    """The artifacts that were recorded."""
    return sorted(tracker.trial_component.output_artifacts)


def contents(tracker):
    """Their bytes, as text, by name."""
    found = {}
    for name, artifact in tracker.trial_component.output_artifacts.items():
        with open(artifact.value) as kept:
            found[name] = kept.read()
    return found


def test_links_to_files_and_folders_are_followed(tracker, root, tmp_path):
    """What a link leads to is recorded under the link's name; two links to one folder are two
    names.
    """
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "b.txt").write_text("b")
    (root / "link.txt").symlink_to(root / "a.txt")
    (root / "latest").symlink_to(tmp_path / "elsewhere")
    (root / "step-1").symlink_to("../elsewhere", target_is_directory=True)
    tracker.log_artifacts(root)
    assert contents(tracker) == {
        "a.txt": "a",
        "link.txt": "a",
        "latest/deep/b.txt": "b",
        "step-1/deep/b.txt": "b",
    }


def test_the_folder_itself_may_be_a_link(tracker, root, tmp_path):
    """Names are relative to what was given."""
    (tmp_path / "link").symlink_to(root)
    tracker.log_artifacts(tmp_path / "link")
    assert names(tracker) == ["a.txt"]


def test_circles_of_links_end(tracker, root):
    """A link to a folder that it lies in adds nothing: what is there is recorded under its own
    name, once.
    """
    (root / "sub").mkdir()
    (root / "sub" / "b.txt").write_text("b")
    (root / "sub" / "up").symlink_to("..")
    (root / "self").symlink_to(".")
    (root / "other").mkdir()
    (root / "other" / "to_sub").symlink_to("../sub")
    tracker.log_artifacts(root)
    assert names(tracker) == ["a.txt", "other/to_sub/b.txt", "sub/b.txt"]


@pytest.mark.parametrize(
    "name",
    [b"n" * 129, b"line\nbreak", b"not utf-8 \xff", b"carriage\rreturn"],
    ids=["too long", "line break", "not UTF-8", "carriage return"],
)
def test_a_name_that_can_not_be_sent_loses_that_file_alone(tracker, root, name):
    """The others are recorded, and the warning names the file and the reason."""
    with open(os.path.join(os.fsencode(root), name), "w") as file:
        file.write("x")
    with pytest.warns(
        JournaltrackWarning, match="1 files or folders in .* are not recorded, 1 are: .*name"
    ):
        tracker.log_artifacts(root)
    assert names(tracker) == ["a.txt"]


def test_a_folder_below_whose_path_is_too_long_is_told(tracker, root):
    """The limit is one of the whole name, path included."""
    (root / ("x" * 100)).mkdir()
    (root / ("x" * 100) / ("y" * 100)).write_text("deep")
    with pytest.warns(JournaltrackWarning, match="201 characters"):
        tracker.log_artifacts(root)
    assert names(tracker) == ["a.txt"]


def test_links_to_nothing_and_what_is_no_file_are_told(tracker, root):
    """A broken link, a link to itself and a FIFO are left out, with a warning that names each
    and doesn't wait for any.
    """
    (root / "broken").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    with pytest.warns(
        JournaltrackWarning,
        match="3 files or folders.*'broken': No such file.*'loop': Too many.*'pipe': not a "
        "regular file",
    ):
        tracker.log_artifacts(root)
    assert names(tracker) == ["a.txt"]


def as_somebody(action):
    """Run it as a user whom permissions concern: root reads anything."""
    if os.geteuid() != 0:
        action()
        return
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65_534)
            os.setuid(65_534)
            action()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child ends here
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_may_not_be_read_is_told(monkeypatch):
    """An unreadable file and an unreadable folder lose themselves alone; an unreadable folder
    with nothing else is an error.
    """
    with tempfile.TemporaryDirectory() as outside:
        os.chmod(outside, 0o777)
        monkeypatch.setenv("XDG_CONFIG_HOME", outside)

        def check():
            root = Path(outside) / "d"
            (root / "closed").mkdir(parents=True)
            for path in (root / "a.txt", root / "closed" / "c.txt", root / "secret.txt"):
                path.write_text("x")
            for path in (root / "closed", root / "secret.txt"):
                path.chmod(0)
            tracker = Tracker.create(journal=Path(outside) / "journal", sync="off")
            with pytest.warns(
                JournaltrackWarning,
                match="2 files or folders.*'closed': Permission "
                "denied.*secret.txt.*Permission denied",
            ):
                tracker.log_artifacts(root)
            assert names(tracker) == ["a.txt"]
            with pytest.raises(ArtifactError, match="can't be read: Permission denied"):
                tracker.log_artifacts(root / "closed")
            tracker.close()

        as_somebody(check)


def test_what_can_not_be_read_is_told(tracker, root):
    """Also where the kernel says so to everybody: files and folders of a process that is gone, a
    file that fails when it is read.
    """
    (root / "closed").symlink_to("/proc/self/task/1")
    (root / "memory").symlink_to("/proc/self/mem")
    with pytest.warns(
        JournaltrackWarning, match="2 files or folders.*'closed'.*'memory'.*could not be read"
    ):
        tracker.log_artifacts(root)
    assert names(tracker) == ["a.txt"]


def test_many_are_told_in_one_warning_of_bounded_length(tracker, root):
    """A folder of a thousand bad names gives one line."""
    for number in range(1_000):
        (root / f"bad\n{number}").write_text("x")
    with pytest.warns(JournaltrackWarning, match="1000 files or folders.*and 995 more") as caught:
        tracker.log_artifacts(root)
    assert len(caught) == 1
    assert len(str(caught[0].message)) < 2_000


def test_nothing_that_can_be_recorded_is_an_error(tracker, tmp_path):
    """A folder of which every file is left out raises and records nothing; an empty one is fine."""
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    tracker.log_artifacts(tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a\nb").write_text("x")
    with pytest.raises(ArtifactError, match="1 files or folders"):
        tracker.log_artifacts(tmp_path / "bad")
    assert names(tracker) == []


@pytest.mark.parametrize(
    "path", ["/nonexistent", "/etc/hostname", "", "nul\0", "\ud800", "~nobody-of-that-name/x"]
)
def test_what_is_no_folder_is_an_artifact_error(tracker, path):
    """Whatever the path looks like."""
    with pytest.raises(ArtifactError, match="is not a folder"):
        tracker.log_artifacts(path)


@pytest.mark.parametrize(
    "path", ["/nonexistent", "", "nul\0", "\ud800", "/", "~nobody-of-that-name/x"]
)
def test_what_is_no_file_is_an_artifact_error(tracker, path):
    """Whatever the path looks like."""
    with pytest.raises(ArtifactError, match="can't be logged"):
        tracker.log_artifact(path, name="name")


@pytest.mark.parametrize("path", [None, 3, ["a"]])
def test_what_is_no_path_is_our_type_error(tracker, path):
    """At each call that takes one."""
    for call in (
        tracker.log_artifact,
        tracker.log_artifacts,
        tracker.log_input_artifact,
        tracker.log_output_artifact,
    ):
        with pytest.raises(InvalidTypeError, match="a path must be"):
            call(path)


def test_a_tilde_is_the_home_folder(tracker, root, monkeypatch):
    """As in every shell; a file whose very name begins with one is that file."""
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.chdir(root)
    (root / "~backup").write_text("b")
    tracker.log_artifact("~/a.txt")
    tracker.log_artifact("~backup")
    assert names(tracker) == ["a.txt", "~backup"]
    tracker.log_input_artifact("~/a.txt")
    assert list(tracker.trial_component.input_artifacts) == ["a.txt"]
    (root / "sub").mkdir()
    (root / "sub" / "c.txt").write_text("c")
    tracker.log_artifacts("~/sub")
    assert "c.txt" in names(tracker)


def test_the_61st_file_of_a_call_is_marked_with_its_upload(tracker, root, tmp_path):
    """What SageMaker can't refer to is not uploaded either, in one call as in several."""
    for number in range(60):
        (root / f"{number}").write_text(str(number))
    with pytest.warns(JournaltrackWarning, match="60 output artifacts"):
        tracker.log_artifacts(root)
    with closing(sqlite3.connect(tmp_path / "journal" / "journal.db")) as connection:
        refused = connection.execute(
            "SELECT kind, name FROM entry JOIN delivery USING (seq) ORDER BY kind"
        ).fetchall()
    assert refused == [("output", "a.txt"), ("upload", "a.txt")]


def test_a_folder_is_told_again_only_when_something_else_is_wrong(tracker, root):
    """Logged once an epoch, a folder with one bad name warns once."""
    (root / "a\nb").write_text("x")
    with pytest.warns(JournaltrackWarning):
        tracker.log_artifacts(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log_artifacts(root)
    (root / "c\nd").write_text("x")
    with pytest.warns(JournaltrackWarning, match="2 files"):
        tracker.log_artifacts(root)


def test_a_file_that_goes_while_the_folder_is_read_loses_itself_alone(tracker, root, tmp_path):
    """Names are listed first: a file that its writer removes meanwhile is told, the others are
    recorded.
    """
    (root / "z.txt").write_text("z")

    class Uploader:
        def upload_artifact(self, file_path):
            if file_path.endswith("a.txt"):
                (root / "z.txt").unlink()
            elif not os.path.exists(file_path):
                raise ArtifactError("it is gone")
            return "s3://bucket/key", "etag"

    own = Tracker(tracker.trial_component, None, Uploader())
    with pytest.warns(JournaltrackWarning, match="'z.txt': it is gone"):
        own.log_artifacts(root)
    assert names(tracker) == ["a.txt"]


def test_one_media_type_for_a_folder(tracker, root):
    """A media type that is given is that of every file; else each file's suffix tells it."""
    (root / "b.csv").write_text("b")
    tracker.log_artifacts(root)
    before = tracker.trial_component.output_artifacts
    assert {name: each.media_type for name, each in before.items()} == {
        "a.txt": "text/plain",
        "b.csv": "text/csv",
    }
    tracker.log_artifacts(root, "application/x-own", direction="input")
    after = tracker.trial_component.input_artifacts
    assert {each.media_type for each in after.values()} == {"application/x-own"}
