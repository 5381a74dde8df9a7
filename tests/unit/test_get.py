"""`journaltrack get`, `Run.artifact`, and what is listed and previewed of a run's artifacts."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

import journaltrack
from journaltrack import Tracker
from journaltrack.cli import main
from journaltrack.cli.get import safe
from journaltrack.errors import ArtifactError, JournalAlteredError, NothingMatchesError
from journaltrack.journal import contents, vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.spool.spool import Spool
from journaltrack.readmodel.artifacts import plain
from journaltrack.reports.component import show
from journaltrack.util import paths
from tests.unit.test_terminal import on_terminal

pytestmark = [pytest.mark.fast, pytest.mark.lineage]

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 32


class Image:
    """What ``log_image`` takes for an image of Pillow."""

    mode = "L"

    def __init__(self, number):
        self.number = number

    def save(self, target, format):  # noqa: A002 - Pillow's
        target.write(PNG + bytes([self.number]))


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """A journal with one of everything; the working folder is another, empty one."""
    folder = tmp_path / "journal"
    (tmp_path / "model.bin").write_bytes(b"\0weights")
    with Tracker.create("Digits", trial_component_name="run", journal=folder, sync="off") as run:
        run.log_input("data", "s3://bucket/data")
        run.log_artifact(tmp_path / "model.bin", name="models/model.bin")
        run.log_table("matrix", {"label": ["a", "b"], "hits": [1, 2]})
        for step in (0, 10, 20):
            run.log_image(Image(step), "sample.png", step=step)
        run.log_text("\x1b[31mred\x1b[0m\nepoch 1\repoch 2", "notes.txt")
        run.log_text("a,b\n1,2\n3\n", "rows.csv")
        run.log_dict({"depth": 3}, "config.json")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return folder


def call(*arguments):
    """Run a command; returns code, stdout and stderr."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return done.exit_code, done.stdout, done.stderr


def only(journal):
    (run,) = journaltrack.runs(journal)
    return run


def files():
    """The files below the working folder."""
    return sorted(str(each) for each in Path().rglob("*") if each.is_file())


def test_everything_that_a_run_has_is_an_artifact(journal):
    """Charts, each step of an image, files and references, in Python as in `show --json`."""
    listed = [(a.name, a.step, a.kind, a.direction) for a in only(journal).artifacts]
    assert listed == [
        ("sample.png", 0, None, "output"),
        ("sample.png", 10, None, "output"),
        ("sample.png", 20, None, "output"),
        ("data", None, None, "input"),
        ("models/model.bin", None, None, "output"),
        ("notes.txt", None, None, "output"),
        ("rows.csv", None, None, "output"),
        ("config.json", None, None, "output"),
        ("matrix.json", None, "Table", "output"),
    ]
    shown = show(journal, "run")
    assert [(a.name, a.step, a.kind, a.direction) for a in shown.artifacts] == listed
    assert {each.state for each in shown.artifacts} == {"pending"}
    told = only(journal).to_json()["artifacts"]
    assert {each["name"] for each in told if each["file"]} == {n for n, *_ in listed} - {"data"}


def test_show_lists_artifacts_with_their_steps(journal, monkeypatch):
    """One row for a name; on a terminal the digest is short."""
    text = on_terminal(["show", "run", "-j", journal], 120, monkeypatch)
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert "0 to 20 (3)" in rows["sample.png"]
    assert "Table" in rows["matrix.json"]
    assert "s3://bucket/data" in rows["data"]
    sha256 = hashlib.sha256(b"\0weights").hexdigest()
    assert sha256[:12] in rows["models/model.bin"]
    assert sha256[:13] not in text


def test_a_run_reads_its_artifacts(journal):
    """Bytes, tables and single steps; a name that is none is answered with those that there are."""
    run = only(journal)
    assert run.artifact("models/model.bin").read() == b"\0weights"
    assert run.artifact("sample.png").read()[-1] == 20
    assert run.artifact("sample.png", step=10).read()[-1] == 10
    table = run.artifact("matrix.json").table()
    assert (table.columns, table.rows) == (["label", "hits"], [["a", 1], ["b", 2]])
    assert run.artifact("rows.csv").table().rows == [["1", "2"], ["3", ""]]
    with pytest.raises(NothingMatchesError, match="no artifact 'matrix'") as error:
        run.artifact("matrix")
    assert "matrix.json" in error.value.hint
    with pytest.raises(NothingMatchesError, match="of step 11"):
        run.artifact("sample.png", step=11)
    with pytest.raises(ArtifactError, match="a reference to s3://bucket/data"):
        run.artifact("data").read()
    with pytest.raises(ArtifactError, match="no table"):
        run.artifact("notes.txt").table()


def test_get_writes_files_with_the_content_that_was_logged(journal):
    """By name, pattern and digest; of steps the last one, or the one that was asked for; each file
    is for its owner alone.
    """
    assert call("get", "run", "models/model.bin", "-j", journal)[0] == 0
    file = Path("models/model.bin")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"\0weights", 0o600)
    assert call("get", "Digits", "*.png", "-j", journal, "-o", "here.png")[0] == 0
    assert Path("here.png").read_bytes()[-1] == 20
    assert call("get", "run", "sample.png", "--step", 10, "-o", "out/", "-j", journal)[0] == 0
    assert Path("out/sample.png").read_bytes()[-1] == 10
    digest = only(journal).artifact("config.json").sha256
    assert call("get", "run", digest[:10], "-j", journal, "-o", "by-digest")[0] == 0
    assert json.loads(Path("by-digest").read_text()) == {"depth": 3}
    code, printed, _ = call("get", "run", "rows.csv", "-o", "-", "-j", journal)
    assert (code, printed) == (0, "a,b\n1,2\n3\n")


def test_get_writes_all_into_a_folder_of_the_runs_name(journal):
    """Every content, with all steps; the document says which file is which."""
    code, printed, _ = call("get", "run", "--all", "--json", "-j", journal)
    told = json.loads(printed)
    assert (code, told["exit_code"], told["run"]) == (0, 0, "run")
    steps = [f"run/sample/step-{step:06d}.png" for step in (0, 10, 20)]
    names = ("config.json", "matrix.json", "models/model.bin", "notes.txt", "rows.csv")
    assert files() == sorted([*steps, *(f"run/{name}" for name in names)])
    assert sorted(os.path.relpath(each["file"]) for each in told["files"]) == files()
    for each in told["files"]:
        assert hashlib.sha256(Path(each["file"]).read_bytes()).hexdigest() == each["sha256"]


def test_get_without_an_artifact_lists_them(journal):
    """And writes nothing."""
    code, printed, _ = call("get", "run", "-j", journal)
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines()][-1] == "matrix.json"
    told = json.loads(call("get", "run", "--json", "-j", journal)[1])
    assert len(told["artifacts"]) == 9
    assert files() == []


def test_get_replaces_nothing_unless_forced(journal):
    """The file stays as it is, the others are written, and the exit code says so."""
    Path("config.json").write_text("mine")
    code, _, errors = call("get", "run", "config.json", "rows.csv", "-j", journal)
    assert (code, "exists; it was left as it is" in errors) == (2, True)
    assert (Path("config.json").read_text(), Path("rows.csv").exists()) == ("mine", True)
    assert call("get", "run", "config.json", "--force", "-j", journal)[0] == 0
    assert json.loads(Path("config.json").read_text()) == {"depth": 3}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "name a run"),
        (("run", "nothing"), 2, "has no artifact 'nothing'"),
        (("run", "data"), 2, "a reference to s3://bucket/data"),
        (("run", "*.png", "--step", "7"), 2, "step 7"),
        (("run", "*.json", "-o", "-"), 2, "stdout takes one"),
        (("run", "rows.csv", "-o", "-", "--json"), 2, "--json needs stdout"),
    ],
)
def test_get_refuses_what_cant_be_meant(journal, arguments, code, told):
    """With what there is; no file is written."""
    ended, _, errors = call("get", *arguments, "-j", journal)
    assert ended == code
    assert told in errors
    assert files() == []


def test_what_was_altered_or_is_gone_is_no_file(journal):
    """An altered content is never under its name, on the disk or on stdout; one that was pruned is
    told as that.
    """
    file = only(journal).artifact("models/model.bin").file
    file.chmod(0o600)
    file.write_bytes(b"\0others!")
    with pytest.raises(JournalAlteredError, match="not what was recorded"):
        only(journal).artifact("models/model.bin").read()
    code, _, errors = call("get", "run", "models/model.bin", "rows.csv", "-j", journal)
    assert (code, files()) == (8, ["rows.csv"])
    assert "not what was recorded" in errors
    code, printed, _ = call("get", "run", "models/model.bin", "-o", "-", "-j", journal)
    assert (code, printed) == (8, "")
    file.unlink()
    code, _, errors = call("get", "run", "models/model.bin", "-j", journal)
    assert (code, "is not in the journal" in errors) == (4, True)
    assert files() == ["rows.csv"]


@pytest.mark.parametrize(
    "name",
    [
        *("../../outside", "/etc/passwd", "a/../../b", "..", ".", "/", "", ".bashrc", ".ssh/keys"),
        *("a\nb", "\x1b[31m", "x" * 5_000, "a\\b", "\u202eb/…", "~/x", "ü/\U0001f40d", "C:"),
    ],
)
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    """Whatever a journal calls an artifact: its file is below the folder, and can be made."""
    path = safe(name)
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert not path.parts[0].startswith((".", "~")) or path.parts[0] == "~"
    place = tmp_path / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"")
    assert place.resolve().is_relative_to(tmp_path.resolve())


def test_a_strangers_names_are_written_below_the_folder(journal, tmp_path):
    """Also those that no tracker takes; two that would be one file are refused before any is."""
    spool = Spool(journal / paths.SPOOL)
    with closing(Journal.open(journal)) as opened:
        number = opened.component("stranger")
        opened.append(number, [vocabulary.create(owner="me")])
        for name, each in (("../x", b"one"), ("x", b"two")):
            blob = spool.add_bytes(each, opened.renew_blob)
            ref = vocabulary.BlobRef(blob.sha256, None, None)
            opened.append(
                number,
                [
                    vocabulary.upload(name, ref, blob.size_bytes, None, "x"),
                    vocabulary.artifact(vocabulary.OUTPUT, name, ref, None),
                ],
            )
    code, _, errors = call("get", "stranger", "--all", "-j", journal)
    assert (code, "would both be" in errors) == (2, True)
    assert files() == []
    assert call("get", "stranger", "../x", "-j", journal)[0] == 0
    assert (files(), Path("x").read_bytes()) == (["x"], b"one")
    assert not (tmp_path / "x").exists()


def test_a_link_in_the_spool_is_not_followed(journal, tmp_path):
    """A stranger's journal gets no other file of this machine into an artifact."""
    (tmp_path / "secret").write_bytes(b"\0weights")
    file = only(journal).artifact("models/model.bin").file
    file.unlink()
    file.symlink_to(tmp_path / "secret")
    assert only(journal).artifact("models/model.bin").file is None
    assert call("get", "run", "models/model.bin", "-j", journal)[0] == 4
    assert files() == []


def test_previews_are_data_and_bounded(journal):
    """Images by their bytes, tables as rows, texts without control sequences."""
    run = only(journal)
    assert run.artifact("sample.png").preview().media_type == "image/png"
    shown = run.artifact("matrix.json").preview(rows_max=1)
    assert (shown.kind, shown.table.rows, shown.table.more) == ("table", [["a", 1]], 1)
    assert run.artifact("notes.txt").preview().text == "red\nepoch 2"
    assert json.loads(run.artifact("config.json").preview().text) == {"depth": 3}
    assert run.artifact("models/model.bin").preview().kind == "none"


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("x.json", '{"type": "Table", "fields": [{"name": "a"}], "data": {}}', None),
        ("x.json", '{"type": "Table", "fields": 1, "data": []}', None),
        ("x.json", '{"type": "Table", "fields": [{"name": "a"}], "data": {"a": [[1]]}}', [["[1]"]]),
        (
            "x.json",
            '{"type": "ROCCurve", "falsePositiveRate": [0], "truePositiveRate": [1]}',
            [[0, 1]],
        ),
        (
            "x.json",
            '{"type": "ConfusionMatrix", "confusionMatrix": [[1, 2], [3, 4]]}',
            [[0, 1, 2], [1, 3, 4]],
        ),
        ("x.json", "[" * 100_000, None),
        ("x.csv", "", None),
        ("x.csv", "a\n" + "1\n" * 300_000, [["1"]]),
        ("x.csv", "a,b\n" + f"{'y' * 5_000},\x1b[31mz\n", [["y" * 199 + "…", "z"]]),
        ("x.csv", ",".join(map(str, range(100))) + "\n" + "0," * 99 + "0\n", [["0"] * 50 + [None]]),
        ("x.tsv", "a\tb\n1\t2\n", [["1", "2"]]),
    ],
    ids=range(11),
)
def test_any_document_has_a_preview(tmp_path, name, text, rows):
    """Of what is a table its first rows; what only looks like one is text, and nothing raises."""
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as run:
        run.log_text(text, name)
    shown = only(tmp_path / "j").artifact(name).preview(rows_max=2)
    if rows is None:
        assert shown.table is None
        assert len(shown.text) < 600_000
    else:
        assert shown.table.rows[: len(rows)] == rows
        assert len(shown.table.rows) <= 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("10%\r50%\r100%\nend\r\n", "100%\nend\n"),
        ("\x9b31mx\x1b(B", "x"),
        ("plain \x1b", "plain \x1b"),
    ],
)
def test_control_sequences_are_taken_out(text, shown):
    """Colours, titles, links and what a progress bar wrote over."""
    assert plain(text) == shown


def test_the_name_of_a_step_is_read_back():
    """What only looks like one stays a name."""
    for name, step in (("a.png", 0), ("b/c.txt", 999_999), ("x", 12), ("v1.5/a.b.c", 10**9)):
        assert contents.of_step(contents.at_step(name, step)) == (name, step)
    for name in ("step-000001.png", "a/step-1.png", "a/step-0000012.png", "a.png"):
        assert contents.of_step(name) is None


def test_a_file_that_only_looks_like_a_step_is_one_of_its_own(tmp_path):
    """Also beside an artifact of that name."""
    with Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as run:
        run.log_text("whole", "a.txt")
        run.log_text("other", "a/step-000001.txt")
    assert [(a.name, a.step) for a in only(tmp_path / "j").artifacts] == [
        ("a.txt", None),
        ("a/step-000001.txt", None),
    ]


def test_entries_that_cant_be_read_hide_no_artifact(tmp_path):
    """A digest that is none, of a crafted journal, names nothing."""
    with (
        warnings.catch_warnings(),
        Tracker.create(trial_component_name="run", journal=tmp_path / "j", sync="off") as run,
    ):
        warnings.simplefilter("ignore")
        run.log_text("whole", "a.txt")
    with closing(Journal.open(tmp_path / "j")) as opened:
        bad = vocabulary.upload("b.txt", vocabulary.BlobRef("../../x", None, None), 1, None, "b")
        opened.append(opened.component("run"), [bad])
    assert [each.name for each in only(tmp_path / "j").artifacts] == ["a.txt"]


def test_what_earlier_processes_printed_is_kept():
    """The last log of each process that is not the run's, the newest first; of each rank."""

    def recorded(number, writer, name, content, kinds=(vocabulary.UPLOAD, vocabulary.OUTPUT)):
        detail = json.dumps({"sha256": content * 64, "media_type": "text/plain"})
        return [
            vocabulary.Entry(
                *(number, writer, number, 1, "run", "component", kind, name),
                *(None, None, None, detail, 1, b""),
            )
            for kind in kinds
        ]

    entries = [
        *recorded(1, 1, "output.log", "a"),
        *recorded(2, 1, "output.log", "b"),
        *recorded(3, 2, "output-rank1.log", "9"),
        *recorded(4, 3, "output.log", "c"),
        *recorded(5, 3, "other.log", "8"),
        *recorded(6, 4, "output.log", "d"),
        *recorded(7, 4, "other.log", "7"),
    ]
    logs = {"output.log": "d", "output.log.1": "c", "output.log.2": "b", "output-rank1.log": "9"}
    known = {**logs, "other.log": "7"}
    found = contents.contents(entries)
    assert {each.name: (each.sha256 or "")[:1] for each in found} == known
    assert len(found) == len(known)
    # A process that was killed between the two entries of its log names no other one twice.
    killed = contents.contents([*entries, *recorded(8, 5, "output.log", "e", (vocabulary.UPLOAD,))])
    assert sorted((each.sha256 or "")[:1] for each in killed) == [*"79bcde"]
