"""Where anchors go and what they name: whatever refuses a part, the rest stands; the first of
anything is in them, too.
"""

from __future__ import annotations

import shutil
from contextlib import closing

import pytest

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal.journal import Journal
from journaltrack.replay.evidence import anchors
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.verification.verifier import Verifier, VerifyOptions, compare_with_anchors
from tests.builders import CREATION, add_artifact
from tests.copies import without_triggers
from tests.failing_remote import FailingRemote

REFUSED = RemoteError("denied", kind=ErrorKind.HALT, code="AccessDeniedException", request_id="r-1")
pytestmark = pytest.mark.journal({"run": [CREATION]})


@pytest.fixture
def remote():
    """A remote that can refuse."""
    return FailingRemote()


def one_pass(journal, remote, **options):
    """A pass; the anchors that the remote holds then, in order of their numbers."""
    Reconciler(journal, remote, options=Options(**options)).run()
    return [anchors.decode(content) for _, content in sorted(remote.stored.items())]


def test_a_refused_parameter_leaves_the_document(journal, remote, tmp_path):
    """With "both", a component that takes no parameter voids nothing: the document is stored,
    known, and proves the journal.
    """
    add_artifact(journal)
    one_pass(journal, remote, anchor="off")
    remote.failures["update"] += [REFUSED]
    (document,) = one_pass(journal, remote, anchor="both")
    assert anchors.PARAMETER not in remote.components["run"].parameters
    known = anchors.last(journal.database)
    assert (known.number, known.uri) == (document.number, next(iter(remote.stored)))
    assert anchors.places(journal.database, default=False) == [
        ("the-bucket", ""),
        ("the-bucket", "the-prefix"),
    ]
    found = compare_with_anchors(journal, remote)
    assert (found.documents, found.problems, found.note) == (1, (), None)


def test_a_refused_parameter_alone_is_no_anchor(journal, remote):
    """With "parameter", no anchor is known where no component took it, and the next pass makes
    it.
    """
    one_pass(journal, remote, anchor="off")
    remote.failures["update"] += [REFUSED]
    one_pass(journal, remote, anchor="parameter")
    assert anchors.last(journal.database) is None
    one_pass(journal, remote, anchor="parameter")
    known = anchors.last(journal.database)
    assert remote.components["run"].parameters == {anchors.PARAMETER: f"1 {known.sha256}"}


def test_an_anchor_in_the_default_bucket_is_found_from_elsewhere(journal, remote):
    """A journal without artifacts was anchored in the default bucket: a check that was told of
    no place finds it, and one that was told, too.
    """
    one_pass(journal, remote, anchor="s3")
    for default_place in (False, True):
        found = compare_with_anchors(journal, remote, default_place=default_place)
        assert (found.documents, found.problems, found.note) == (1, (), None)
    # whoever cuts off the end cuts off what is known of the anchor
    with without_triggers(journal.path) as connection:
        for table in ("attestation", "receipt", "delivery"):
            connection.execute(f"DELETE FROM {table}")
    assert compare_with_anchors(journal, remote).documents == 0
    assert compare_with_anchors(journal, remote, default_place=True).problems


@pytest.mark.parametrize("bucket", [None, "the-bucket"])
@pytest.mark.parametrize("synced", [False, True])
def test_a_copy_that_was_cut_off_before_its_first_sync_is_behind_the_anchor(
    journal, remote, tmp_path, bucket, synced
):
    """It knows of no anchor, before and after a sync of its own. The check looks where the
    original made it: in the default bucket, or in that of the artifacts recorded.
    """
    if bucket:
        add_artifact(journal)
    shutil.copytree(journal.path, tmp_path / "copy")
    journal.append_metric(journal.component("run"), "loss", 1.0, 1, 1)
    one_pass(journal, remote, anchor="artifacts" if bucket else "s3")
    with closing(Journal.open(tmp_path / "copy", create=False)) as cut:
        if synced:
            one_pass(cut, remote, anchor="off", even_if_behind=True)
        report = Verifier(cut, remote, options=VerifyOptions()).run()
    assert report.anchors.documents == 1
    assert any("1 entry was removed" in each.message for each in report.anchors.problems)
    assert not report.verified


def test_a_journal_that_was_never_anchored_asks_nobody(journal, remote):
    """Without an artifact or an anchor there is no place to look at, unless one is named."""
    one_pass(journal, remote, anchor="off")
    assert anchors.places(journal.database, default=False) == []
    assert anchors.places(journal.database, default=True) == [(None, ""), (None, None)]


def test_a_component_with_the_first_entry_alone_is_named(journal, remote):
    """The parameter goes to every component with new entries, also to one whose only entry is
    number 1; no bucket is looked at then.
    """
    one_pass(journal, remote, anchor="parameter")
    assert anchors.places(journal.database, default=False) == []
    known = anchors.last(journal.database)
    assert remote.components["run"].parameters == {anchors.PARAMETER: f"1 {known.sha256}"}


def test_a_chain_with_the_first_attestation_alone_is_in_the_anchor(journal, remote):
    """The process that made the very first attestation and no other is in the first document."""
    one_pass(journal, remote, anchor="off")
    rows = journal.database.read(
        "SELECT a.id, a.writer_seq, w.uuid, a.digest FROM attestation a "
        "JOIN writer w ON w.id = a.writer_id"
    )
    ((number, place, uuid, digest),) = rows
    assert (number, place) == (1, 1)
    (document,) = one_pass(journal, remote, anchor="s3")
    assert document.attestations == {uuid: (1, digest.hex())}
    assert [place for place, _ in document.entries.values()] == [1]


def test_new_entries_alone_are_anchored(journal, remote):
    """Entries that no pass has touched since the last anchor make another one, and nothing new
    makes none.
    """
    one_pass(journal, remote, anchor="s3")
    journal.append_metric(journal.component("run"), "loss", 1.0, 1, 1)
    first, second = one_pass(journal, remote, anchor="s3", component="another")
    assert [place for place, _ in second.entries.values()] == [2]
    assert (first.number, second.number, second.previous) == (
        1,
        2,
        next(iter(sorted(remote.stored)))[-69:-5],
    )
    assert len(one_pass(journal, remote, anchor="s3", component="another")) == 2


@pytest.mark.parametrize(
    ("prefix", "place"), [("", ""), ("mine", "mine"), ("my/own", "my/own"), (None, "the-prefix")]
)
def test_the_first_anchor_goes_where_it_is_asked_to(journal, remote, prefix, place):
    """At the root, below a prefix that was asked for, or below that of the artifacts; the second
    one follows it, whatever is asked for then.
    """
    add_artifact(journal)
    one_pass(journal, remote, anchor_prefix=prefix)
    assert anchors.places(journal.database, default=False).count(("the-bucket", place)) == 1
    journal.append_metric(journal.component("run"), "loss", 1.0, 1, 1)
    one_pass(journal, remote, anchor_prefix="another")
    begin = f"s3://the-bucket/{place}{'/' if place else ''}journaltrack-anchors/"
    assert len(remote.stored) == 2
    assert all(uri.startswith(begin) for uri in remote.stored)
