"""What a process records of itself: no secret, little, and what a reader can take."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.journal import context, provenance
from journaltrack.journal.context import Guard, facts_of, installed, text_of
from journaltrack.journal.vocabulary import REDACTED
from journaltrack.tracking.jobs import name_of_this_job
from journaltrack.tracking.settings import name_for

SECRET = "s3kr1t-Value"
MEMBERS = (
    *("command", "folder", "job", "python", "cpu", "memory", "gpus", "models", "driver", "model"),
    *("count", "usable", "limit", "bytes", "limit_bytes", "installed", "notebook", "system", "x"),
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--password", SECRET],
        [f"--password={SECRET}"],
        ["--db-password", SECRET],
        ["-password", SECRET],
        ["--hub_token", SECRET],
        ["--hubToken", SECRET],
        ["--hftoken", SECRET],
        ["--api-key", SECRET],
        ["--apikey", SECRET],
        ["--aws-secret-access-key", SECRET],
        ["--secrets", SECRET, SECRET, "--lr", "1"],
        ["--token", f"-{SECRET}"],
        ["--token", f"{SECRET}==", "-v"],
        [f"password={SECRET}"],
        [f"+db.password={SECRET}"],
        [f"++db.auth.token={SECRET}"],
        [f"secrets=[{SECRET},{SECRET}]"],
        ["--set", f"lr=1,token={SECRET}"],
        ["--env", f"HF_TOKEN={SECRET}"],
        [f"--env=WANDB_API_KEY={SECRET}"],
        ["--header", f"Authorization: Bearer {SECRET}"],
        ["--header", f"X-Api-Key: {SECRET}"],
        ["--config", json.dumps({"lr": 1, "token": SECRET})],
        ["--config", f"{{'password': '{SECRET} and more'}}"],
        ["--args", f"--lr 1 --token {SECRET} --seed 2"],
        ["--args", f"--token\n{SECRET}"],
        ["--args", f"--password '{SECRET} {SECRET}' --seed 2"],
        [f"postgresql://ada:{SECRET}@host/db"],
        ["--db", f"postgresql://ada:{SECRET}@host/db"],
        [f"https://host/file?X-Amz-Signature={SECRET}"],
        [f"https://host/token={SECRET}"],
        [f"hf_{'a' * 10}{SECRET}"],
        ["ghp_" + SECRET.replace("-", "") * 3],
        ["--custom-name", SECRET],
        ["--customName", SECRET],
        [f"x.custom_name={SECRET}"],
    ],
)
def test_a_secret_argument_is_not_recorded(arguments):
    """By its own name, by a pattern of ``redact``, or by what it looks like; the name stays."""
    shown = Guard(["custom-name", "customname"]).command(["python", "train.py", *arguments])
    assert SECRET not in " ".join(shown)
    assert SECRET.replace("-", "") not in " ".join(shown)
    assert shown[:2] == ["python", "train.py"]
    assert len(shown) == len(arguments) + 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lr", "0.1", "--max-tokens", "512", "--tokenizer", "gpt2", "--author", "ada"],
        ["model.hidden=128", "+trainer.devices=2", "data=/data/digits.csv"],
        ["--key", "x", "--primary-key", "id", "--passes", "3", "-v", "--", "-1.5"],
        ["s3://bucket/prefix/file.csv", "https://host:8080/path"],
        ["--config", '{"lr": 0.1, "layers": [1, 2]}', "", " ", "grüße"],
    ],
)
def test_other_arguments_are_recorded_as_they_are(arguments):
    """Words that only resemble a secret's name hide nothing."""
    assert Guard().command(arguments) == arguments


def test_after_a_secret_the_next_option_is_told_again():
    """A redaction ends with the option that it belongs to."""
    assert Guard().command(["--token", "a", "b", "--lr", "1", "--seed=2"]) == [
        *("--token", REDACTED, REDACTED, "--lr", "1", "--seed=2")
    ]
    assert Guard().command(["--token", "--lr=1"]) == ["--token", "--lr=1"]


@pytest.mark.slow
@given(
    st.lists(st.text(max_size=30), max_size=8),
    st.sampled_from(["--password", "--hub-token", "--X-API-Key"]),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=12, max_size=30),
)
def test_no_surroundings_bring_a_secret_to_light(others, name, secret):
    """Whatever stands around an option with a secret name, its value is not in the text."""
    at = len(others) // 2
    for given_as in ([name, secret], [f"{name}={secret}"]):
        words = [*others[:at], *given_as, *others[at:]]
        count = sum(secret in other for other in others)
        assert sum(secret in word for word in Guard().command(words)) <= count


@pytest.mark.parametrize(
    ("given_as", "shown"),
    [
        (["python", "-u", "train.py", "-c", "x"], ["python", "-u", "train.py", "-c", "x"]),
        (["python", "-m", "pkg.train", "-c", "x"], ["python", "-m", "pkg.train", "-c", "x"]),
        (["python", "-c", SECRET, "a"], ["python", "-c", "[code]", "a"]),
        (["python", "-uc", SECRET], ["python", "-uc", "[code]"]),
        (["python", f"-c{SECRET}", "a"], ["python", "-c[code]", "a"]),
        (["python", "-W", "error", "-X", "utf8", "-c", SECRET], None),
        (["python", "-Werror", "-c", SECRET], None),
        (["python", "--check-hash-based-pycs", "always", "-c", SECRET], None),
        (["python"], ["python"]),
    ],
)
def test_a_program_on_the_command_line_is_not_recorded(given_as, shown, monkeypatch):
    """``python -c`` may hold anything; a script's own options are not Python's."""
    monkeypatch.setattr(sys, "orig_argv", given_as)
    found = context.whole_command()
    assert SECRET not in found
    assert shown is None or found == shown


def test_of_the_environment_only_the_listed_variables_are_recorded():
    """Every listed variable, and nothing of any other."""
    environ = {name: f"value-{name}" for name in context.JOB_VARIABLES}
    others = {"HF_TOKEN": SECRET, "SM_HPS": SECRET, "SM_TRAINING_ENV": SECRET, "LD_PRELOAD": SECRET}
    more = {f"{name}_X": SECRET for name in environ} | {f"X_{name}": SECRET for name in environ}
    text = text_of({}, (), environ | others | more)
    assert SECRET not in text
    assert json.loads(text)["job"] == environ


def test_a_listed_variable_with_a_secret_is_cleaned():
    """Users choose the names of jobs."""
    job = {"SLURM_JOB_NAME": f"token={SECRET}", "SLURM_SUBMIT_DIR": f"ftp://a:{SECRET}@host/x"}
    text = text_of({}, (), job)
    assert SECRET not in text
    assert sorted(json.loads(text)["job"]) == sorted(job)


def test_a_notebook_tells_its_name(monkeypatch):
    """As Jupyter's server and VS Code tell it; VS Code's is the notebook's own."""
    assert "notebook" not in json.loads(text_of({}, (), {}))
    jupyter = {"JPY_SESSION_NAME": "/home/ada/digits.ipynb"}
    assert json.loads(text_of({}, (), jupyter))["notebook"] == "/home/ada/digits.ipynb"
    main = types.ModuleType("__main__")
    main.__vsc_ipynb_file__ = "/work/other.ipynb"
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert json.loads(text_of({}, (), jupyter))["notebook"] == "/work/other.ipynb"


def test_what_is_not_utf8_is_recorded_readably(monkeypatch, tmp_path):
    """Arguments and folders may have any bytes; the text can be stored and its digest taken."""
    folder = tmp_path / "f\udcff"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "orig_argv", ["python", "a\udc80b\ud800"])
    text = text_of({}, (), {"SLURM_JOB_NAME": "x\udcff"})
    assert json.loads(text.encode())["command"] == ["python", "a?b?"]


def test_a_working_folder_that_was_removed_hinders_nothing(monkeypatch, tmp_path):
    """The rest is told."""
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    told = json.loads(text_of({}, (), {}))
    assert "folder" not in told
    assert told["command"]


def test_a_huge_command_is_cut_and_says_so(monkeypatch):
    """Neither one argument nor many make a large row."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "x" * 10**6, *["file"] * 10**5])
    text = text_of({}, (), {})
    assert len(text) < 100_000
    command = json.loads(text)["command"]
    assert command[1].endswith("…")
    assert command[-1].endswith("more)")


def test_the_installed_packages_are_those_that_an_import_would_find(tmp_path):
    """Normalized names, the first folder wins; leftovers of pip and other files do not count."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, names in (
        (one, ["numpy-2.1.0.dist-info", "My_Package-1.0.post1+cpu.dist-info", "~ip-1.dist-info"]),
        (two, ["numpy-1.0.dist-info", "old-3.2-py3.11.egg-info", "numpy", "x-1.txt"]),
    ):
        for name in names:
            (folder / name).mkdir(parents=True)
    found, left_out = installed([str(one), str(tmp_path / "missing"), str(two), __file__])
    assert found == {"my-package": "1.0.post1+cpu", "numpy": "2.1.0", "old": "3.2"}
    assert left_out == 0


def test_thousands_of_packages_are_counted(tmp_path):
    """The list has a bound, and tells how many it leaves out."""
    for number in range(2_010):
        (tmp_path / f"p{number:04d}-1.dist-info").mkdir()
    found, left_out = installed([str(tmp_path)])
    assert (len(found), left_out) == (2_000, 10)


def test_the_installed_packages_are_those_of_this_environment():
    """What ``importlib.metadata`` finds slowly."""
    from importlib.metadata import distributions

    wanted = {
        each.metadata["Name"].lower().replace("_", "-").replace(".", "-"): each.version
        for each in distributions()
    }
    found = {name.replace(".", "-"): version for name, version in installed(sys.path)[0].items()}
    assert {name: found.get(name) for name in wanted} == wanted


def test_gpus_are_told_by_the_drivers_files(tmp_path):
    """Models and the driver's version; nothing without a driver."""
    assert context.gpus(str(tmp_path)) == {}
    for number in range(2):
        folder = tmp_path / "gpus" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text("Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t 1\n")
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC\n"
    )
    told = context.gpus(str(tmp_path))
    assert told == {"models": ["NVIDIA A100-SXM4-40GB"] * 2, "driver": "535.104.05"}
    assert facts_of({"gpus": told}) == [("GPUs", "2 x NVIDIA A100-SXM4-40GB, driver 535.104.05")]


def test_the_control_groups_are_those_above_the_process(tmp_path):
    """Version 2, version 1, and a path that leads out of the tree."""
    told = tmp_path / "cgroup"
    told.write_text("5:cpu,cpuacct:/slurm/job_7\n4:memory:/../x\n0::/a/b\n")
    assert list(context.groups("cpu", str(told), "/r")) == [
        *("/r/cpu/slurm/job_7", "/r/cpu/slurm", "/r/cpu", "/r/a/b", "/r/a", "/r")
    ]
    assert list(context.groups("memory", str(told), "/r"))[:2] == ["/r/memory/x", "/r/memory"]
    assert list(context.groups("cpu", str(tmp_path / "none"))) == []


def test_limits_are_told():
    """A limit of time and of memory, beside what the machine has."""
    told = {
        "cpu": {"model": "EPYC", "count": 64, "usable": 8, "limit": 1.5},
        "memory": {"bytes": 2**36, "limit_bytes": 2**33},
    }
    assert facts_of(told) == [
        ("processors", "EPYC, 8 of 64 usable, limited to the time of 1.5"),
        ("memory", "64.0 GiB, limited to 8.0 GiB"),
    ]


@pytest.mark.slow
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(MEMBERS),
                inner,
                max_size=9,
            )
        ),
    )
)
def test_a_strangers_description_is_told_or_left_out(value):
    """Any JSON in the column gives texts."""
    for label, text in facts_of(value if isinstance(value, dict) else {"command": value}):
        assert isinstance(label, str)
        assert isinstance(text, str)
    assert all(
        isinstance(version, str)
        for version in context.packages_of(value if isinstance(value, dict) else None).values()
    )


def test_tokens_and_passwords_leave_a_diff_and_nothing_else_does():
    """A diff is recorded as it is but for what is certainly a secret, whatever its bytes."""
    clean = b"+x = tokenizer.next_token(a/b ? c : d)\n-\xff\xfe binary\n+password = read()\n"
    assert context.without_tokens(clean) == clean
    dirty = b"+u = 'postgres://ada:pw@host/db'\n+k = 'hf_abcdefghijklmnopqrst'\n\xff"
    wanted = b"+u = 'postgres://[redacted]@host/db'\n+k = '[redacted]'\n\xff"
    assert context.without_tokens(dirty) == wanted


class _Raising:
    """Raises at everything that can be asked of it."""

    def __getattribute__(self, name):
        raise RuntimeError(name)

    def __iter__(self):
        raise RuntimeError

    def __bool__(self):
        raise RuntimeError


class _Text(str):
    """A text whose methods raise."""

    __slots__ = ()

    def __eq__(self, other):
        raise RuntimeError

    def __hash__(self):
        raise RuntimeError

    def endswith(self, *_):
        raise RuntimeError

    def __str__(self):
        raise RuntimeError


ODD = {
    "None": lambda: None,
    "a number": lambda: 3,
    "a text": lambda: "train.py",
    "nothing": list,
    "empty": lambda: [""],
    "no texts": lambda: [None, 3, b"x", object()],
    "NUL": lambda: ["a\0b", "c\0"],
    "huge": lambda: ["x" * 10**7],
    "surrogates": lambda: ["\udcff\ud800", "-\udcff"],
    "raising": _Raising,
    "raising texts": lambda: [_Text("train.py"), _Raising()],
    "endless": lambda: itertools.repeat("train.py"),
}


@pytest.mark.parametrize("which", ODD)
@pytest.mark.parametrize("name", ["argv", "orig_argv", "executable", "path", "modules"])
def test_what_programs_put_into_sys_hinders_nothing(name, which, monkeypatch):
    """A process describes itself whatever `sys` holds; the row can be stored."""
    odd = ODD[which]()
    if name == "modules":
        monkeypatch.setitem(sys.modules, "odd", odd)
        monkeypatch.setitem(sys.modules, 7, odd)
        monkeypatch.setitem(sys.modules, "__main__", odd)
    with monkeypatch.context() as patch:
        if name != "modules":
            patch.setattr(sys, name, odd)
        surveyed = context.survey()
        provenance.ask(context=True)
        found = provenance.describe_process(0, "journal")
        text = text_of(surveyed, ())
    assert isinstance(json.loads(text.encode())["python"], dict)
    assert len(found.program.encode()) < 100_000
    assert found.pid == os.getpid()


@pytest.mark.parametrize(
    ("words", "file", "interpreter"),
    [
        (["{bin}/python", "-u", "{tree}/train.py"], "{tree}/train.py", "{bin}/python"),
        (["{bin}/python3.11", "-m", "train"], None, "{bin}/python3.11"),
        (["bash", "{tree}/job.sh", "{tree}/train.py"], "{tree}/job.sh", None),
        (["{tree}/run"], "{tree}/run", "{bin}/python"),
        (["tool", "--nproc", "2", "{tree}/train.py"], "{tree}/train.py", "{bin}/python"),
        (["true"], None, None),
        (["/nowhere/python"], None, None),
        (["\0"], None, None),
    ],
)
def test_a_command_tells_its_script_and_its_interpreter(
    words, file, interpreter, tmp_path, monkeypatch
):
    """By its words, by "#!", or not at all; a command on PATH is no script of the user's."""
    places = {"bin": str(tmp_path / "bin"), "tree": str(tmp_path / "tree")}
    for name in ("bin/python", "bin/python3.11", "bin/tool", "tree/run", "tree/train.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{places['bin']}/python\n" if "python" not in name else "\x7fELF")
        path.chmod(0o755)
    (tmp_path / "tree" / "job.sh").write_text("#!/bin/sh\n")
    monkeypatch.setenv("PATH", f"{places['bin']}:{os.environ['PATH']}")
    found = context.command_of([word.format(**places) for word in words])
    assert found.file == (file and Path(file.format(**places)))
    assert found.interpreter == (interpreter and interpreter.format(**places))
    assert not found.is_here


def test_the_changes_of_files_that_hold_secrets_leave_a_diff():
    """By their names, which may be quoted or hold spaces, or by their folders'; a line says so.
    All else stays as it was.
    """
    files = {
        "src/model.py": "",
        ".env": SECRET,
        "conf/.env.local": SECRET,
        "keys/server.pem": SECRET,
        "home/.ssh/id_rsa": SECRET,
        ".aws/credentials": SECRET,
        "with space/prod.env": SECRET,
        "deploy/Secrets/db.yaml": SECRET,
        "src/tokenizer.py": "",
    }
    parts = []
    for name, secret in files.items():
        tab = "\t" if " " in name else ""
        parts.append(
            f"diff --git a/{name} b/{name}\nindex 1..2 100644\n--- a/{name}{tab}\n+++ b/{name}{tab}\n"
            f"@@ -1 +1 @@\n-x\n+{secret}y\n+++ b/.env\n"
        )
    quoted = '"b/gr\\303\\274n/.env"'
    parts.append(
        f"diff --git {quoted} {quoted}\n--- /dev/null\n+++ {quoted}\n@@ -0,0 +1 @@\n+{SECRET}\n"
    )
    diff = "".join(parts).encode()
    found = context.without_secret_files(diff)
    assert SECRET.encode() not in found
    assert found.count(b"journaltrack left out ") == 8
    assert b"journaltrack left out home/.ssh/id_rsa: its name says" in found
    assert found.startswith(parts[0].encode())
    assert parts[8].encode() in found
    assert context.without_secret_files(parts[0].encode()) == parts[0].encode()
    assert context.without_secret_files(b"") == b""


# -- the run's name in a job -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "123", "SLURM_PROCID": "3", "SLURM_RESTART_COUNT": "2"}, "slurm-123"),
        (
            {"SLURM_JOB_ID": "130", "SLURM_ARRAY_JOB_ID": "123", "SLURM_ARRAY_TASK_ID": "7"},
            "slurm-123-7",
        ),
        ({"SLURM_JOB_ID": "123", "TORCHELASTIC_RUN_ID": "x"}, "slurm-123"),
        ({"TRAINING_JOB_NAME": "Digits-2026", "SLURM_JOB_ID": "1"}, "digits-2026"),
        (
            {"TRAINING_JOB_ARN": "arn:aws:sagemaker:eu-west-1:1:training-job/Digits-7"},
            "digits-7",
        ),
        ({"AWS_BATCH_JOB_ID": "ab-12:3", "AWS_BATCH_JOB_ARRAY_INDEX": "3"}, "batch-ab-12-3"),
        ({"AWS_BATCH_JOB_ID": "ab-12", "AWS_BATCH_JOB_ARRAY_INDEX": "3"}, "batch-ab-12-3"),
        ({"AWS_BATCH_JOB_ID": "ab-12#0", "AWS_BATCH_JOB_ATTEMPT": "2"}, "batch-ab-12-0"),
        ({"HOSTNAME": "digits-4", "JOB_COMPLETION_INDEX": "4"}, "digits-4"),
        ({"HOSTNAME": "digits-4-x8k2p", "JOB_COMPLETION_INDEX": "4"}, None),
        ({"HOSTNAME": "node7"}, None),
        ({"TORCHELASTIC_RUN_ID": "my-run-1", "RANK": "3"}, "torchrun-my-run-1"),
        ({"TORCHELASTIC_RUN_ID": "a--b"}, "torchrun-a--b"),
        ({"TORCHELASTIC_RUN_ID": "none"}, None),
        ({"TORCHELASTIC_RUN_ID": "0b5a6f4e-1234-4000-8000-000000000002"}, None),
        ({"SLURM_JOB_ID": "", "TRAINING_JOB_NAME": ""}, None),
    ],
)
def test_a_job_names_its_run(environ, name, monkeypatch):
    """The same at each start of the job, one per task of an array, and valid for SageMaker."""
    for each in context.JOB_VARIABLES:
        monkeypatch.delenv(each, raising=False)
    for each, value in environ.items():
        monkeypatch.setenv(each, value)
    assert name_of_this_job() == name
    if name is None:
        with pytest.raises(InvalidInputError, match="resume=True needs"):
            name_for(None, None, resume=True)
        assert name_for(None, None, resume=False).startswith("trialcomponent-")
    else:
        assert name_for(None, None, resume=True) == name
        assert name_for(None, None, resume=False).startswith(f"{name}-2")
        assert name_for(None, "base", resume=False).startswith("base-2")
        assert name_for("mine", None, resume=True) == "mine"


def test_a_long_name_of_a_job_stays_its_own(monkeypatch):
    """Two names that differ in their last character give two names that SageMaker accepts."""
    names = set()
    for end in "ab":
        monkeypatch.setenv("TRAINING_JOB_NAME", "x" * 200 + end)
        names.add(name_for(None, None, resume=True))
    assert len(names) == 2
    assert all(len(name) <= 120 for name in names)


def test_no_two_jobs_share_a_name(monkeypatch):
    """Ids that differ in case, in characters that SageMaker refuses, or in what is no ASCII give
    different names that it accepts, the same each time.
    """
    ids = ["exp-1", "exp_1", "exp.1", "Exp-1", "exp-1-", "-exp-1", "exp 1", "日本", "é", "\udcff"]
    names = []
    for each in ids * 2:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", each)
        names.append(name_of_this_job())
    assert names[0] == "torchrun-exp-1"
    assert len(set(names)) == len(ids)
    assert all(limits.name_problem(each, "name") is None for each in names)


def test_a_base_name_and_resume_still_need_a_name(monkeypatch):
    """Who gives a base wants a unique name, which no restart finds again."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with pytest.raises(InvalidInputError, match="resume=True needs"):
        name_for(None, "base", resume=True)


@pytest.mark.parametrize("word", ["a", "9", "a.", "-", "/", "key", "hf_", "://", "-/"])
def test_a_diff_with_one_endless_word_is_looked_through_at_once(word):
    """A megabyte without a space, such as an image in a notebook, takes no quadratic time.

    It would take a quarter of an hour, in which training waits for the interpreter's lock.
    """
    diff = (word * (1_000_000 // len(word))).encode() + b"\n+url = 'https://ada:s3kr1t@host'\n"
    assert b"s3kr1t" not in context.without_tokens(diff)


@pytest.mark.parametrize("word", ["a", "a.", "-", "/", "key", "http://", "authorization", "-/"])
def test_a_long_argument_is_cleaned_in_linear_time(word):
    """Eight times the text takes no more than about eight times the time, not 64 times."""

    def cost_ns(chars: int) -> int:
        text = word * (chars // len(word)) + "!="
        found = []
        for _ in range(5):
            began_ns = time.process_time_ns()
            Guard().cleaned(text)
            found.append(time.process_time_ns() - began_ns)
        return min(found)

    cost_ns(16_000)
    assert cost_ns(16_000) < 28 * max(cost_ns(2_000), 100_000)
