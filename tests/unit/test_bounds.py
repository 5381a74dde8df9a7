"""Sizes that only somebody who means harm writes: refused while a journal is read, before a byte
of them is sent or kept.
"""

from __future__ import annotations

import json
import os
import stat
import tracemalloc

import pytest
from click.testing import CliRunner

from journaltrack import limits
from journaltrack.cli import main
from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal import view, vocabulary
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.vocabulary import (
    ASSOCIATE,
    COMPONENT,
    CREATE,
    STATUS,
    UPLOAD,
    BlobRef,
    Draft,
)
from journaltrack.remotes.aws.remote import AwsRemote
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.replay.remote import BlobUpload
from journaltrack.reports.report import audit
from journaltrack.transfer.merge import merge
from tests.builders import CREATION
from tests.copies import without_triggers
from tests.failing_remote import FailingRemote
from tests.simulator import simulator

SHA256 = "ab" * 32
LONG = "x" * 100_000
pytestmark = pytest.mark.journal({"run": [CREATION, vocabulary.metric("loss", 1.0, None, 1)]})


def component_entry(kind, **detail):
    """An entry of the component's stream with this payload."""
    return Draft(COMPONENT, kind, payload=json.dumps(detail))


def upload(name="model", **detail):
    """An upload with this payload."""
    return Draft(UPLOAD, UPLOAD, name, payload=json.dumps({"sha256": SHA256, "size": 5, **detail}))


def states(journal):
    """Outcome and reason of each entry that is settled, by kind."""
    rows = journal.database.read(
        "SELECT e.kind, d.outcome, d.reason FROM delivery d JOIN entry e ON e.seq = d.seq "
        "ORDER BY e.seq"
    )
    return [(kind, outcome, reason or "") for kind, outcome, reason in rows]


@pytest.mark.parametrize(
    ("draft", "why"),
    [
        (component_entry(CREATE, owner=LONG), "owner"),
        (component_entry(CREATE, owner="o", display_name=LONG), "display name"),
        (component_entry(CREATE, owner="o", tags={f"k{n}": "v" for n in range(51)}), "51 tags"),
        (component_entry(CREATE, owner="o", tags={"k": LONG}), "tag"),
        (component_entry(CREATE, owner="o", tags={"k": [1] * 1000}), "tag"),
        (component_entry(ASSOCIATE, experiment=LONG), "experiment"),
        (component_entry(ASSOCIATE, experiment="E", trial=LONG), "trial"),
        (component_entry(ASSOCIATE, experiment="no_underscores"), "experiment"),
        (component_entry(STATUS, primary="Failed", message=LONG), "status message"),
        (component_entry(STATUS, primary=LONG), "status"),
        (upload(LONG), "S3"),
        (upload(prefix=LONG), "S3"),
        (upload(bucket=LONG), "bucket"),
    ],
)
def test_what_no_service_takes_is_not_sent(journal, draft, why):
    """The entry is quarantined with a short reason, no request carries it, and the others are
    delivered.
    """
    remote = FailingRemote()
    journal.append(journal.component("run"), [draft])
    report_of_pass = Reconciler(journal, remote).run()
    assert report_of_pass.halted is None
    *others, (kind, outcome, reason) = states(journal)
    assert (kind, outcome) == (draft.kind, "quarantined")
    assert why in reason
    assert len(reason) < 500
    assert [outcome for _, outcome, _ in others] == ["delivered", "delivered"]
    assert not {"associate", "upload", "update"} & {
        method for method, _ in remote.asked if method != "put_document"
    }


def test_what_the_service_takes_is_sent(journal):
    """The largest that is allowed goes out."""
    remote = FailingRemote()
    drafts = [
        component_entry(
            ASSOCIATE, experiment="e" * limits.NAME_CHARS_MAX, trial="t" * limits.NAME_CHARS_MAX
        ),
        vocabulary.status(primary="Failed", message="m" * limits.STATUS_MESSAGE_CHARS_MAX),
    ]
    journal.append(journal.component("run"), drafts)
    Reconciler(journal, remote).run()
    assert {outcome for _, outcome, _ in states(journal)} == {"delivered"}


def test_a_component_with_an_endless_name_is_nothing_to_ask_for(journal):
    """Whatever is recorded of it is quarantined, points included, and the remote never hears of
    it.
    """
    remote = FailingRemote()
    component = journal.component("other")
    journal.append(
        component,
        [
            vocabulary.create(owner="me"),
            vocabulary.parameter("x", 1.0),
            vocabulary.metric("loss", 2.0, None, 1),
        ],
    )
    with without_triggers(journal.path) as connection:
        connection.execute("UPDATE component SET name = ? WHERE id = ?", (LONG, component))
    # as if its chain had been computed anew
    Reconciler(journal, remote, options=Options(unproved=True)).run()
    assert [outcome for _, outcome, _ in states(journal)] == ["delivered"] * 2 + ["quarantined"] * 3
    assert {name for method, name in remote.asked if method != "put_document"} == {"run"}


def test_a_component_is_put_into_so_many_trials_and_no_more(journal):
    """A crafted journal has a bounded number of experiments and trials made; the rest is
    quarantined.
    """
    remote = FailingRemote()
    drafts = [
        component_entry(ASSOCIATE, experiment=f"e-{n}", trial=f"t-{n}")
        for n in range(limits.ASSOCIATIONS_MAX + 20)
    ]
    journal.append(journal.component("run"), drafts)
    Reconciler(journal, remote).run()
    assert [method for method, _ in remote.asked].count("associate") == limits.ASSOCIATIONS_MAX
    assert [outcome for kind, outcome, _ in states(journal) if kind == ASSOCIATE].count(
        "quarantined"
    ) == 20


@pytest.mark.parametrize("size_bytes", [6, 1 << 40], ids=["one byte more", "a sparse tebibyte"])
def test_a_blob_that_is_larger_than_recorded_is_refused_unread(journal, tmp_path, size_bytes):
    """Not a request is made for it, and not a byte of it is read: it is quarantined as damaged,
    and released when it is right again.
    """
    (tmp_path / "model").write_bytes(b"bytes")
    blob = Spool(journal.path / "spool").add(tmp_path / "model")
    journal.add_blob(blob.sha256, blob.size_bytes)
    ref = BlobRef(blob.sha256, "a-bucket", None)
    journal.append(
        journal.component("run"), [vocabulary.upload("model", ref, blob.size_bytes, None, "model")]
    )
    stored = journal.path / "spool" / blob.sha256[:2] / blob.sha256
    stored.chmod(0o600)
    try:
        os.truncate(stored, size_bytes)
    except OSError as error:
        pytest.skip(f"no sparse files of that size here: {error}")
    with simulator() as sim:
        remote = AwsRemote(region="us-east-1", endpoint_url=sim.endpoint_url)
        try:
            with pytest.raises(RemoteError) as raised:
                remote.upload(
                    BlobUpload(stored, blob.sha256, blob.size_bytes, "run", "model", "a-bucket")
                )
            assert (raised.value.kind, raised.value.code) == (ErrorKind.PERMANENT, "BlobDamaged")
            assert sim.requests == []
        finally:
            remote.close()


def test_a_merge_copies_no_blob_that_is_larger_than_recorded(journal, tmp_path):
    """A sparse file in a foreign spool is named as missing, and fills no disk."""
    (tmp_path / "model").write_bytes(b"bytes")
    blob = Spool(journal.path / "spool").add(tmp_path / "model")
    journal.add_blob(blob.sha256, blob.size_bytes)
    ref = BlobRef(blob.sha256, None, None)
    journal.append(
        journal.component("run"), [vocabulary.upload("model", ref, blob.size_bytes, None, "model")]
    )
    stored = journal.path / "spool" / blob.sha256[:2] / blob.sha256
    stored.chmod(0o600)
    os.truncate(stored, 1 << 33)
    (source,) = merge([journal.path], into=tmp_path / "all").sources
    assert source.blobs_missing == (blob.sha256,)
    assert not Spool(tmp_path / "all" / "spool").has(blob.sha256)


@pytest.mark.slow
def test_unfinished_receipts_are_read_in_pages(journal):
    """A thousand that were crafted, of 100 kB each, are settled and shown in a few megabytes,
    and the pass goes on.
    """
    count, size = 1_000, 100_000
    with without_triggers(journal.path) as connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
            "WHERE i < ?) INSERT INTO receipt (action, entries, generation, started_at_ns) "
            "SELECT 'update', printf('%0*d', ?, 0), 1, 1 FROM n",
            (count, size),
        )
    tracemalloc.start()
    try:
        flying = view.in_flight(journal.database)
        Reconciler(journal, MemoryRemote(), options=Options()).run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert flying.receipts == count
    assert peak < count * size / 2
    assert journal.database.read("SELECT count(*) FROM receipt WHERE finished_at_ns IS NULL") == [
        (0,)
    ]
    assert audit(journal).totals.adds_up
    assert [outcome for _, outcome, _ in states(journal)] == ["delivered", "delivered"]


def test_an_unfinished_receipt_without_end_names_what_it_may_have_sent(journal):
    """One whose list is longer than any of ours is not read: every metric that is not settled is
    in doubt, and nothing is sent twice.
    """
    with without_triggers(journal.path) as connection:
        connection.execute(
            "INSERT INTO receipt (action, entries, generation, started_at_ns) "
            "VALUES ('metrics', ?, 1, 1)",
            ("1," * (limits.PAYLOAD_CHARS_MAX // 2) + "1",),
        )
    remote = FailingRemote()
    Reconciler(journal, remote).run()
    assert ("metric", "in doubt") in [each[:2] for each in states(journal)]
    assert "put_metrics" not in [method for method, _ in remote.asked]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["export", "-o"], "m.csv"),
        (["export", "-o"], "m.jsonl"),
        (["export", "-o"], "m.parquet"),
        (["receipts", "export", "-o"], "r.receipts"),
        (["bundle", "-o"], "j.bundle"),
        (["prune", "--unasked", "--delivered-before", "0s", "--archive"], "archive.jsonl"),
    ],
)
def test_what_is_written_out_is_for_its_owner_alone(journal, tmp_path, command, name, umask):
    """Whatever the umask, and also over a file that others could read, a file with recorded
    values has mode 0600.
    """
    journal.append(
        journal.component("run"), [vocabulary.metric("loss", float(n), None, 1) for n in range(5)]
    )
    Reconciler(journal, MemoryRemote()).run()
    before = os.umask(umask)
    try:
        result = CliRunner().invoke(main, [*command, str(tmp_path / name), "-j", str(journal.path)])
    finally:
        os.umask(before)
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
