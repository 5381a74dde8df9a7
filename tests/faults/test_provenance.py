"""What real processes record of themselves: which code ran where, and no secret."""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

import journaltrack
from journaltrack import doctor
from journaltrack.cli import main
from journaltrack.journal import context
from journaltrack.journal.journal import Journal
from journaltrack.readmodel import model as readmodel
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.ui import views
from journaltrack.ui.page import to_html
from journaltrack.ui.report import gather, to_markdown
from tests import independent_verifier
from tests.patience import FOREVER_S

ROOT = Path(__file__).parents[2]
SCRIPT = """
from journaltrack import Tracker

with Tracker.create(trial_component_name="run", journal="{journal}", sync="off", resume=True) as t:
    t.log_metric("loss", 1.0)
"""
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.com")


def git(folder, *command):
    """Run git in a work tree; returns what it prints."""
    return subprocess.run([*GIT, *command], cwd=folder, check=True, capture_output=True).stdout


@pytest.fixture
def tree(tmp_path):
    """A work tree with a script that was committed, and the journal that it records in."""
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT.format(journal=tmp_path / "journal"))
    (folder / "model.py").write_text("layers = 2\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def train(tree, *arguments, env=None, script="train.py"):
    """Run the script to its end, with git's diff recorded unless ``env`` says otherwise."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "JOURNALTRACK_GIT_DIFF": "on", **(env or {})}
    done = subprocess.run(
        [sys.executable, str(tree / script), *map(str, arguments)],
        cwd=tree,
        env=environ,
        capture_output=True,
        text=True,
        timeout=FOREVER_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def contexts(journal):
    """The context of each writer, as plain SQLite has it."""
    with closing(sqlite3.connect(f"file:{journal / 'journal.db'}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT context FROM writer ORDER BY id").fetchall()
    return [text and json.loads(text) for (text,) in rows]


def diffs(journal):
    """The contents of the uploads called git.diff, in order."""
    with closing(sqlite3.connect(f"file:{journal / 'journal.db'}?mode=ro", uri=True)) as database:
        rows = database.execute(
            "SELECT payload FROM entry WHERE kind = 'upload' AND name = 'git.diff' ORDER BY seq"
        ).fetchall()
    digests = [json.loads(payload)["sha256"] for (payload,) in rows]
    return [(journal / "spool" / each[:2] / each).read_bytes() for each in digests]


def test_an_environment_full_of_secrets_leaves_no_trace(tree, tmp_path):
    """Neither names nor values of variables that are not listed are in any byte of the journal; of
    the command line no value of a secret.
    """
    hidden = {f"SECRET_{n}_{secrets.token_hex(4)}": secrets.token_urlsafe(24) for n in range(200)}
    known = {
        name: secrets.token_urlsafe(24)
        for name in (
            *("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
            *("SM_HPS", "SM_TRAINING_ENV", "DATABASE_URL", "MASTER_ADDR", "SLURM_JOB_USER"),
            *("SLURM_JOB_ID2", "XRANK", "KUBERNETES_TOKEN", "AWS_BATCH_TOKEN", "SLURM_JWT"),
        )
    }
    job = {"SLURM_JOB_ID": "4711", "SLURM_RESTART_COUNT": "1", "RANK": "0", "SM_CURRENT_HOST": "h"}
    password, pattern = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    (tree / "model.py").write_text("layers = 3\n")
    arguments = ["--lr", "0.1", f"optimizer.mine={pattern}", "--db-password", password]
    env = {**hidden, **known, **job, "JOURNALTRACK_REDACT": "*mine*"}
    train(tree, *arguments, env=env)
    (told,) = contexts(tmp_path / "journal")
    files = [path for path in (tmp_path / "journal").rglob("*") if path.is_file()]
    content = b"".join(path.read_bytes() for path in files)
    assert diffs(tmp_path / "journal")
    for secret in (*hidden, *hidden.values(), *known.values(), password, pattern):
        assert secret.encode() not in content, secret
    for name in known:
        assert name.encode() not in content, name
    assert {name: told["job"][name] for name in job} == job
    assert set(told["job"]) <= set(context.JOB_VARIABLES)
    assert told["command"][1:] == [
        str(tree / "train.py"),
        *("--lr", "0.1", "optimizer.mine=[redacted]", "--db-password", "[redacted]"),
    ]


def test_what_a_process_ran_in_is_recorded_once_and_proved(tree, tmp_path):
    """Command, folder, machine and installed packages are in the writer's row; the digest covers
    them, and two verifiers agree.
    """
    train(tree, "--lr", "1")
    journal = tmp_path / "journal"
    (told,) = contexts(journal)
    assert told["command"] == [sys.executable, str(tree / "train.py"), "--lr", "1"]
    assert told["folder"] == str(tree)
    assert told["python"]["executable"] == sys.executable
    assert told["cpu"]["usable"] >= 1
    assert told["memory"]["bytes"] > 2**20
    assert told["installed"]["boto3"]
    assert doctor.examine(journal).healthy
    assert independent_verifier.verify(journal) == []
    with closing(sqlite3.connect(journal / "journal.db")) as database, database:
        database.execute("DROP TRIGGER writer_no_update")
        database.execute("UPDATE writer SET context = replace(context, '--lr', '--xx')")
    assert any("not as it described itself" in line for line in problems(journal))
    assert independent_verifier.verify(journal)


def problems(journal):
    """What `check` finds."""
    return [finding.message for finding in doctor.examine(journal).findings]


def test_nothing_is_recorded_where_it_is_switched_off(tree, tmp_path):
    """With both switches off neither context nor diff."""
    (tree / "model.py").write_text("layers = 3\n")
    off = {"JOURNALTRACK_CONTEXT": "off", "JOURNALTRACK_GIT_DIFF": "off"}
    train(tree, "--lr", "1", env=off)
    assert contexts(tmp_path / "journal") == [None]
    assert diffs(tmp_path / "journal") == []
    assert doctor.examine(tmp_path / "journal").healthy


def test_the_diff_restores_the_code_that_ran(tree, tmp_path):
    """Applied to the commit, the recorded diff gives every tracked file as it was, whatever the
    user's configuration of git says; no program that it names is run.
    """
    (tree / "model.py").write_text("layers = 3\nname = 'grüße'\n")
    (tree / "bytes.py").write_bytes(b"x = '\xff'\n")
    git(tree, "add", "bytes.py")
    (tree / "untracked.py").write_text("y = 1\n")
    marker = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    (tmp_path / "gitconfig").write_text(
        "[diff]\n noprefix = true\n mnemonicPrefix = true\n relative = true\n"
        f" external = {program}\n[color]\n ui = always\n[core]\n pager = {program}\n"
        f" fsmonitor = {program}\n"
    )
    train(tree, env={"GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"), "GIT_PAGER": str(program)})
    assert not marker.exists()
    (diff,) = diffs(tmp_path / "journal")
    wanted = {name: (tree / name).read_bytes() for name in ("model.py", "bytes.py", "train.py")}
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(tree), str(copy))
    (tmp_path / "git.diff").write_bytes(diff)
    git(copy, "apply", str(tmp_path / "git.diff"))
    assert {name: (copy / name).read_bytes() for name in wanted} == wanted
    assert b"untracked" not in diff


def test_the_same_diff_is_recorded_once_per_run(tree, tmp_path):
    """A job that starts again with the same tree adds none; with another tree it adds one."""
    (tree / "model.py").write_text("layers = 3\n")
    for _ in range(2):
        train(tree)
    assert len(diffs(tmp_path / "journal")) == 1
    (tree / "model.py").write_text("layers = 4\n")
    train(tree)
    first, second = diffs(tmp_path / "journal")
    assert (b"+layers = 3" in first, b"+layers = 4" in second) == (True, True)


def test_a_clean_tree_and_no_tree_have_no_diff(tree, tmp_path):
    """Untracked files do not count."""
    (tree / "untracked.py").write_text("y = 1\n")
    train(tree)
    assert diffs(tmp_path / "journal") == []
    (tree / ".git").rename(tmp_path / "elsewhere")
    train(tree)
    assert diffs(tmp_path / "journal") == []
    assert len(contexts(tmp_path / "journal")) == 2


def test_a_huge_diff_is_cut_and_says_so(tree, tmp_path):
    """A megabyte of it is kept, to the end of a line."""
    (tree / "model.py").write_text("".join(f"x{n} = {n}\n" for n in range(300_000)))
    train(tree)
    (diff,) = diffs(tmp_path / "journal")
    assert 990_000 < len(diff) < 1_000_100
    assert diff.endswith(b"\njournaltrack cut this diff after 1000000 bytes\n")


def test_git_that_hangs_at_the_diff_ends_no_training_late(tree, tmp_path):
    """The run ends after a bounded time without the diff, and the journal is whole."""
    never = tmp_path / "never"
    os.mkfifo(never)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "git"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *status*) echo " M model.py";; *) read line <{never};; esac\n'
    )
    fake.chmod(0o755)
    try:
        train(tree, env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    finally:
        with open(os.open(never, os.O_RDWR | os.O_NONBLOCK), "wb") as end:
            end.write(b"\n" * 9)  # so that what stands for git ends, too
    assert diffs(tmp_path / "journal") == []
    assert doctor.examine(tmp_path / "journal").healthy


FORKING = """
import multiprocessing, os
from journaltrack import Tracker

def log(tracker):
    tracker.log_metric("loss", 2.0)

if __name__ == "__main__":
    with Tracker.create(trial_component_name="run", journal="{journal}", sync="off") as tracker:
        tracker.log_metric("loss", 1.0)
        for method in ("fork", "spawn"):
            child = multiprocessing.get_context(method).Process(target=log, args=(tracker,))
            child.start()
            child.join()
            assert child.exitcode == 0
"""


def test_children_describe_themselves_and_record_no_diff(tree, tmp_path):
    """A forked child and a spawned one have their own row with what they ran in; the diff is the
    parent's to record.
    """
    (tree / "forking.py").write_text(FORKING.format(journal=tmp_path / "journal"))
    (tree / "model.py").write_text("layers = 3\n")
    train(tree, script="forking.py")
    parent, forked, spawned = contexts(tmp_path / "journal")
    assert parent["folder"] == forked["folder"] == spawned["folder"] == str(tree)
    assert parent["installed"] == forked["installed"] == spawned["installed"]
    assert parent["command"] == forked["command"] != spawned["command"]
    assert len(diffs(tmp_path / "journal")) == 1
    assert doctor.examine(tmp_path / "journal").healthy


def test_a_requeued_job_finds_its_run_without_a_name(tree, tmp_path):
    """Two starts of one Slurm job record one run, tasks of an array and other jobs another."""
    (tree / "train.py").write_text(
        SCRIPT.format(journal=tmp_path / "journal").replace('trial_component_name="run", ', "")
    )
    for job in (
        {"SLURM_JOB_ID": "7"},
        {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"},
        {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "1"},
    ):
        train(tree, env=job)
    with closing(Journal.open(tmp_path / "journal", read_only=True)) as journal:
        assert [row.name for row in journal.runs()] == ["slurm-7", "slurm-8-1"]
        metrics = [entry.component for entry in journal.entries() if entry.kind == "metric"]
    assert metrics == ["slurm-7", "slurm-7", "slurm-8-1"]


def test_a_program_that_is_in_no_commit_is_told(tree, tmp_path):
    """One that git does not track, and one outside of any repository; not one that was added."""
    text = (tree / "train.py").read_text()
    (tree / "new.py").write_text(text)
    (tmp_path / "out.py").write_text(text)
    train(tree, script="new.py")
    train(tree, script="../out.py")
    git(tree, "add", "new.py")
    train(tree, script="new.py")
    train(tree)
    told = [each.get("code") for each in contexts(tmp_path / "journal")]
    assert told == [
        {"file": str(tree / "new.py"), "git": "untracked"},
        {"file": str(tree / "../out.py"), "git": "no commit"},
        None,
        None,
    ]
    shown = call("show", "run", "-j", tmp_path / "journal")
    assert "new.py: git does not track it, so the commit does not have it" in " ".join(
        shown.split()
    )


def test_the_diff_leaves_out_files_that_hold_secrets(tree, tmp_path):
    """What is left restores the other files."""
    hidden = secrets.token_urlsafe(24)
    for name in (".env", "server.pem"):
        (tree / name).write_text("old\n")
        git(tree, "add", name)
    git(tree, "commit", "-q", "-m", "second")
    for name in (".env", "server.pem", "train.py"):
        with (tree / name).open("a") as file:
            file.write(f"# {hidden}\n" if name != "train.py" else "# more\n")
    train(tree)
    (diff,) = diffs(tmp_path / "journal")
    assert hidden.encode() not in diff
    assert b"journaltrack left out .env" in diff
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "-q", str(tree), str(copy))
    (tmp_path / "git.diff").write_bytes(diff)
    git(copy, "apply", str(tmp_path / "git.diff"))
    assert (copy / "train.py").read_bytes() == (tree / "train.py").read_bytes()
    assert (copy / ".env").read_text() == "old\n"


def test_a_launch_describes_the_code_of_its_command(tree, tmp_path):
    """Commit and interpreter are those of the script and of its Python, wherever it was started;
    of a command whose Python is not known, it says whose it tells.
    """
    other = tmp_path / "venv"
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "python").symlink_to(sys.executable)
    (other / "lib" / "python3.99" / "site-packages" / "digits-9.9.dist-info").mkdir(parents=True)
    (tree / "hello.py").write_text("print('hello')\n")
    launch = [sys.executable, "-m", "journaltrack", "run", "--sync", "off", "--name", "run"]
    for words in ([other / "bin" / "python", tree / "hello.py"], ["true"]):
        subprocess.run(
            [*launch, "-j", tmp_path / "journal", "--", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            timeout=FOREVER_S,
        )
    python, true = contexts(tmp_path / "journal")
    assert python["python"] == {"executable": str(other / "bin" / "python")}
    assert python["installed"] == {"digits": "9.9"}
    assert python["code"] == {"file": str(tree / "hello.py"), "git": "untracked"}
    assert true["python"]["of"] == "journaltrack run"
    assert "installed" not in true
    with closing(sqlite3.connect(tmp_path / "journal" / "journal.db")) as database:
        commits = [commit for (commit,) in database.execute("SELECT git_commit FROM writer")]
    assert commits == [git(tree, "rev-parse", "HEAD").decode().strip(), None]


def test_the_context_travels_with_the_journal(tree, tmp_path):
    """Through a bundle, a merge and a delivery with its receipts the rows stay as they were; all
    copies prove them, and the diff is delivered.
    """
    (tree / "model.py").write_text("layers = 3\n")
    train(tree)
    node = tmp_path / "journal"
    before = contexts(node)
    journaltrack.bundle(node, to=tmp_path / "b.bundle")
    with journaltrack.open_bundle(tmp_path / "b.bundle") as bundle:
        bundle.extract(tmp_path / "copy")
    journaltrack.merge([tmp_path / "copy"], into=tmp_path / "merged")
    remote = MemoryRemote()
    with closing(Journal.open(tmp_path / "copy")) as opened:
        assert Reconciler(opened, remote, options=Options()).run().pending == 0
    assert any(key.endswith("git.diff") for key in map(str, remote.objects))
    journaltrack.export_receipts(tmp_path / "copy", to=tmp_path / "r.jsonl")
    journaltrack.import_receipts(tmp_path / "r.jsonl", node)
    for folder in (node, tmp_path / "copy", tmp_path / "merged"):
        assert contexts(folder)[:1] == before, folder
        assert contexts(folder)[1:] == [None] * len(contexts(folder)[1:])
        assert independent_verifier.verify(folder) == []
        assert doctor.examine(folder).healthy
    assert journaltrack.audit(node).totals.delivered == journaltrack.audit(node).totals.entries


def call(*arguments):
    """A command's output; it must not fail."""
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code in {0, 3}, result.output
    return result.output


def test_each_view_says_which_code_ran_where(tree, tmp_path):
    """`audit`, `audit entry`, `show`, `report` in both formats and the page's data have command,
    folder, job, packages and the diff.
    """
    (tree / "model.py").write_text("layers = 3  # <script>alert(1)</script> ``` \n")
    train(tree, "--lr", "0.1", env={"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "<b>digits</b>"})
    journal = tmp_path / "journal"
    command = f"{sys.executable} {tree / 'train.py'} --lr 0.1"
    texts = {
        "audit": call("audit", journal),
        "audit entry": call("audit", "entry", 1, journal),
        "show": call("show", "run", "-j", journal),
        "md": call("report", "run", "-j", journal, "--format", "md").replace("\\", ""),
    }
    for name, text in texts.items():
        flat = re.sub(r"\s+", "", text)
        assert command.replace(" ", "") in flat, name
        assert "SLURM_JOB_ID=4711" in flat, name
    assert "boto3" in texts["audit entry"]
    assert "boto3==" in texts["md"]
    assert "git.diff" in texts["show"]
    assert "\n+layers = 3  # <script>alert(1)</script> ``` \n````\n" in texts["md"]
    assert "\n````diff\n" in texts["md"]
    assert "<b>digits" not in texts["md"]
    file = tmp_path / "report.html"
    call("report", "run", "-j", journal, "-o", file)
    page = file.read_text()
    assert "+layers = 3  # &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "<b>digits" not in page
    assert re.search(r"<details><summary>git diff, \d+ characters, SHA-256 [0-9a-f]{64}", page)
    assert re.search(r"<details><summary>\d+ packages</summary>", page)
    assert "boto3==" in page
    as_json = {
        name: json.loads(call(*words, "--json"))
        for name, words in (
            ("audit", ("audit", journal)),
            ("audit entry", ("audit", "entry", 1, journal)),
            ("show", ("show", "run", "-j", journal)),
        )
    }
    for name, writer in (
        ("audit", as_json["audit"]["components"][0]["writers"][0]),
        ("audit entry", as_json["audit entry"]["writer"]),
        ("show", as_json["show"]["writers"][0]),
    ):
        assert writer["context"]["command"][-1] == "0.1", name
        assert ("installed" in writer["context"]) == (name != "audit"), name
    assert [each["name"] for each in as_json["show"]["diffs"]] == ["git.diff"]


def test_the_newest_process_is_told_and_how_earlier_ones_differ(tree, tmp_path):
    """A resumed run has the commit that it ran last in every view, and what was another one before;
    who only tags, notes, ends or delivers it later changes nothing of that.
    """
    journal = tmp_path / "journal"
    commits = []
    for number in (1, 2):
        (tree / "model.py").write_text(f"layers = {number + 2}\n")
        git(tree, "commit", "-q", "-a", "-m", f"change {number}")
        commits.append(git(tree, "rev-parse", "HEAD").decode().strip())
        train(tree, "--number", number)
    first, last = commits
    call("tag", "run", "a=b", "-j", journal)
    call("note", "run", "seen", "-j", journal)
    call("finish", "run", "--status", "failed", "--force", "-j", journal)
    with closing(Journal.open(journal)) as opened:
        assert Reconciler(opened, MemoryRemote(), options=Options()).run().pending == 0
    texts = {
        "show": call("show", "run", "-j", journal),
        "md": call("report", "run", "-j", journal, "--format", "md").replace("\\", ""),
    }
    with readmodel.open([journal], cache=False) as model:
        model.refresh()
        found = model.find(["run"])
        texts["html"] = to_html(gather(model, found))
        rows = views.run(model, found[0].key)["recorded"]
    texts["page"] = "\n".join(f"{label} {text}" for label, text in rows)
    for name, text in texts.items():
        assert "the newest of 2 processes" in text, name
        assert last in text, name
        assert f"commit {first[:12]}" in text, name
        assert "--number 2" in text, name
        assert "--number 1" not in text, name
    as_json = json.loads(call("show", "run", "-j", journal, "--json"))
    assert [each["git_commit"] for each in as_json["writers"]] == commits


def test_an_import_is_not_told_as_the_runs_own_process(tree, tmp_path, monkeypatch):
    """A run from elsewhere has neither commit, command nor packages of the import; once a process
    resumes it, it has those of that process.
    """
    monkeypatch.chdir(tree)
    source = tmp_path / "run"
    source.mkdir()
    (source / "metrics.csv").write_text("step,loss\n1,2\n2,1\n")
    journal = tmp_path / "journal"
    call("import", "csv", source, "-j", journal)

    def told():
        with readmodel.open([journal], cache=False) as model:
            model.refresh()
            (run,) = model.find(["run"])
            report = gather(model, [run])
            data = views.run(model, run.key)
            return dict(data["recorded"]), data["packages"], to_html(report), to_markdown(report)

    rows, packages, *reports = told()
    assert rows["imported from"] == f"csv, run, {source}"
    assert set(rows) == {"imported from", "imported by"}
    assert packages == {}
    shown = call("show", "run", "-j", journal)
    assert f"imported from  csv, run, {source}" in shown
    for text in (shown, *reports):
        assert " packages" not in text
        assert "interpreter" not in text
    train(tree, "--number", 1)
    rows, packages, *_ = told()
    assert rows["imported from"] == f"csv, run, {source}"
    assert "--number 1" in rows["command"]
    assert packages["installed"]["boto3"]


def test_the_page_has_facts_packages_and_the_diff(tree, tmp_path):
    """What the run's page gets: facts, installed packages, and the diff as a file to preview and
    to save; another run's file is refused.
    """
    (tree / "model.py").write_text("layers = 3\n")
    train(tree, "--lr", "0.1")
    with journaltrack.Tracker.create(
        trial_component_name="other", journal=tmp_path / "journal", sync="off"
    ):
        pass
    with readmodel.open([tmp_path / "journal"], cache=False) as model:
        model.refresh()
        run, other = model.find(["run"])[0], model.find(["other"])[0]
        data = views.run(model, run.key)
        assert dict(map(tuple, data["recorded"]))["folder"] == str(tree)
        assert data["packages"]["installed"]["boto3"]
        (file,) = data["artifacts"]
        assert (file["name"], file["here"], file["is_newest_diff"]) == ("git.diff", True, True)
        content = views.artifact(model, run.key, file["sha256"])
        shown = content.preview()
        assert (shown.kind, "+layers = 3" in shown.text) == ("text", True)
        with pytest.raises(journaltrack.errors.NothingMatchesError):
            views.artifact(model, other.key, file["sha256"])
        (tmp_path / "journal" / "spool" / file["sha256"][:2] / file["sha256"]).unlink()
        assert views.run(model, run.key)["artifacts"][0]["here"] is False
    text = call("report", "run", "-j", tmp_path / "journal", "--format", "md")
    assert f"SHA-256 {file['sha256']}: its content is not in the journal" in text


def test_a_command_of_the_environment_ran_the_code_of_its_folder(tree, tmp_path):
    """Of `journaltrack run`, torchrun or a notebook's kernel, the commit is that of the work tree
    it was started in, not of the one that happens to hold the environment.
    """
    journal = tmp_path / "launched"
    command = [Path(sys.executable).parent / "journaltrack", "run", "--sync", "off", "-j", journal]
    done = subprocess.run(
        [*command, "--name", "run", "--", "true"],
        cwd=tree,
        env={**os.environ, "JOURNALTRACK_GIT_DIFF": "off"},
        capture_output=True,
        timeout=FOREVER_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(f"file:{journal / 'journal.db'}?mode=ro", uri=True)) as database:
        commits = {commit for (commit,) in database.execute("SELECT git_commit FROM writer")}
    assert commits == {git(tree, "rev-parse", "HEAD").decode().strip()}


def test_a_test_finds_the_same_in_a_tree_with_changes(tree):
    """Changes that are not committed are no artifact there, whatever is set outside."""
    (tree / "train.py").write_text(
        "from journaltrack import Tracker\nfrom journaltrack.testing import offline\n"
        "with offline() as journal:\n"
        "    with Tracker.create(trial_component_name='run') as tracker:\n"
        "        tracker.log_metric('loss', 1.0)\n"
        "    print([file for file in journal.path.glob('spool/**/*') if file.is_file()])\n"
    )
    assert train(tree) == "[]\n"
