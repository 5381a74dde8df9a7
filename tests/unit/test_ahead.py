"""One journal twice: a copy of it that knows less than the other one sends nothing, and says so."""

from __future__ import annotations

import hashlib
import shutil
import time
from contextlib import closing

import pytest

from journaltrack.errors import ErrorKind, JournalBehindError, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.journal.spool.spool import Spool
from journaltrack.journal.vocabulary import BlobRef
from journaltrack.replay.evidence import anchors
from journaltrack.replay.reconciler import Options, Reconciler
from journaltrack.transfer.bundle.arrival import bring
from journaltrack.transfer.bundle.pack import bundle
from journaltrack.transfer.merge import merge
from journaltrack.transfer.receipts import export_receipts, import_receipts
from journaltrack.verification.verifier import compare_with_anchors
from tests.copies import read
from tests.failing_remote import FailingRemote, passing

CREATED = [vocabulary.create(owner="me")]
LOADED = [vocabulary.load()]


class Asked(FailingRemote):
    """Counts what is asked for anchors."""

    def document_names(self, bucket, prefix, folder, after):
        return self._meet(
            "document_names",
            (bucket, prefix),
            lambda: super(Asked, self).document_names(bucket, prefix, folder, after),
        )

    def document(self, bucket, prefix, folder, name):
        return self._meet(
            "document", name, lambda: super(Asked, self).document(bucket, prefix, folder, name)
        )

    @property
    def questions(self):
        """Requests for anchors so far, by method."""
        return [method for method, _ in self.asked if method.startswith("document")]

    def points(self, component="run"):
        """How often each value is there."""
        values = [point.value for point in self.components[component].points]
        return {value: values.count(value) for value in values}


@pytest.fixture
def remote():
    """A remote that counts."""
    return Asked()


def record(folder, *values, drafts=(), artifact=None, component="run"):
    """A process records these points, and perhaps an artifact."""
    folder.parent.mkdir(exist_ok=True)
    with closing(Journal.open(folder)) as journal:
        of = journal.component(component)
        journal.append(of, list(drafts))
        if artifact is not None:
            source = folder.parent / "artifact"
            source.write_bytes(artifact)
            blob = Spool(folder / "spool").add(source)
            journal.add_blob(blob.sha256, blob.size_bytes)
            ref = BlobRef(blob.sha256, "the-bucket", "the-prefix")
            name = artifact.decode()
            journal.append(
                of,
                [
                    vocabulary.upload(name, ref, blob.size_bytes, None, name),
                    vocabulary.artifact("output", name, ref, None),
                ],
            )
        for value in values:
            journal.append_metric(of, "loss", float(value), None, 1)
    return folder


def copy(folder, name):
    """A copy of a journal that nobody uses now."""
    return shutil.copytree(folder, folder.parent / name)


def sync(folder, remote, clock_ns=time.time_ns, **options):
    """A pass."""
    with closing(Journal.open(folder, create=False)) as journal:
        return Reconciler(journal, remote, options=Options(**options), clock_ns=clock_ns).run()


def pending(folder):
    """How many entries wait."""
    return read(folder, "SELECT count(*) FROM entry WHERE seq NOT IN (SELECT seq FROM delivery)")[
        0
    ][0]


@pytest.fixture
def restored(tmp_path, remote):
    """A journal, synced twice, and a backup of it from after the first sync, whose points went
    out with the second one.
    """
    folder = record(tmp_path / "journal", 0, drafts=CREATED, artifact=b"first")
    sync(folder, remote)
    record(folder, 1, 2)
    backup = copy(folder, "backup")
    sync(folder, remote)
    return folder, backup


def test_a_backup_from_before_a_sync_sends_nothing(restored, remote):
    """A backup that was restored after a sync is told to be behind, with what to do; nothing is
    sent, and all of it stays pending.
    """
    _, backup = restored
    before = pending(backup)
    remote.asked.clear()
    with pytest.raises(JournalBehindError) as raised:
        sync(backup, remote)
    assert "another copy" in raised.value.message
    assert "receipts import" in raised.value.hint
    assert [method for method, _ in remote.asked] == ["document_names", "document"]
    assert set(remote.points().values()) == {1}
    assert pending(backup) == before
    assert read(backup, "SELECT owner FROM lease") == [(None,)]


def test_the_copy_that_is_ahead_goes_on_for_one_question_a_pass(restored, remote):
    """The newest copy delivers what comes next after one request for names, and asks nothing
    when nothing is pending.
    """
    folder, _ = restored
    record(folder, 3)
    remote.asked.clear()
    sync(folder, remote)
    assert remote.questions == ["document_names"]
    remote.asked.clear()
    sync(folder, remote)
    assert remote.asked == []
    assert set(remote.points().values()) == {1}


def test_a_moved_journal_goes_on(restored, remote):
    """A folder that was moved is the same copy."""
    folder, _ = restored
    moved = folder.rename(folder.with_name("elsewhere"))
    record(moved, 3)
    sync(moved, remote)
    assert remote.points() == {0.0: 1, 1.0: 1, 2.0: 1, 3.0: 1}


def test_a_copy_that_heard_of_the_other_goes_on(restored, remote):
    """Once its receipts were taken over, the copy that was behind delivers what it alone has,
    and nothing twice.
    """
    folder, backup = restored
    record(backup, 9)
    with pytest.raises(JournalBehindError):
        sync(backup, remote)
    merge([folder], into=backup)
    sync(backup, remote)
    assert remote.points() == {0.0: 1, 1.0: 1, 2.0: 1, 9.0: 1}
    record(backup, 10)
    sync(backup, remote)
    assert pending(backup) == 0
    record(folder, 11)
    with pytest.raises(JournalBehindError):
        sync(folder, remote)


def test_a_copy_without_news_of_its_own_locks_the_original_out_of_nothing(restored, remote):
    """A bundle of all that was delivered, a later one, and receipts make no anchor where they
    arrive, since nothing is sent there: the original goes on, and its check is well.
    """
    folder, _ = restored
    for number in (3, 4):
        made = folder.parent / f"{number}.bundle"
        bundle(folder, to=made)
        arrived = bring(made, into=folder.parent / "bundles").folder
        before = set(remote.stored)
        assert sync(arrived, remote).requests == 0
        assert set(remote.stored) == before
        record(folder, number)
        sync(folder, remote)
        assert number in remote.points()
    export_receipts(folder, to=folder.parent / "receipts")
    import_receipts(folder.parent / "receipts", arrived)
    before = set(remote.stored)
    sync(arrived, remote)
    assert set(remote.stored) == before
    with closing(Journal.open(folder, create=False, read_only=True)) as journal:
        assert compare_with_anchors(journal, remote).problems == ()


def test_two_copies_that_went_on_apart_do_not_both_send(restored, remote):
    """Of two copies that recorded on by themselves, the one that was synced first goes on; the
    other one is behind it, wherever it is.
    """
    folder, backup = restored
    record(folder, 5)
    record(backup, 6)
    sync(folder, remote)
    with pytest.raises(JournalBehindError):
        sync(backup, remote)
    assert 6.0 not in remote.points()


def test_sending_even_so_is_for_who_lost_the_other_copy(restored, remote):
    """With ``even_if_behind`` all that is pending goes out; from then on this copy is the one
    that is ahead, and the other one behind.
    """
    folder, backup = restored
    sync(backup, remote, even_if_behind=True)
    assert remote.points() == {0.0: 1, 1.0: 2, 2.0: 2}
    record(backup, 7)
    sync(backup, remote)
    assert pending(backup) == 0
    record(folder, 8)
    with pytest.raises(JournalBehindError):
        sync(folder, remote)


def test_an_anchor_whose_answer_was_lost_is_known_by_what_it_names(tmp_path, remote):
    """A pass that was cut off after its anchor was stored left one that the journal does not
    know: it is looked at, and nothing stops.
    """
    folder = record(tmp_path / "journal", 0, drafts=CREATED, artifact=b"first")
    sync(folder, remote)
    record(folder, 1)

    class Lost(Asked):
        """Stores documents, and gives no answer."""

        def put_document(self, document):
            super().put_document(document)
            raise passing(maybe_applied=True)

    lost = Lost()
    lost.components, lost.stored, lost.objects = remote.components, remote.stored, remote.objects
    sync(folder, lost)
    record(folder, 2)
    sync(folder, remote)
    assert remote.questions[-2:] == ["document_names", "document"]
    assert remote.points() == {0.0: 1, 1.0: 1, 2.0: 1}


@pytest.mark.parametrize(
    "failure",
    [
        RemoteError("no", kind=ErrorKind.HALT, code="AccessDenied"),
        RemoteError("no", kind=ErrorKind.TRANSIENT, code="ConnectTimeout", unreachable=True),
        RuntimeError("a bug"),
    ],
    ids=["not allowed", "unreachable", "unexpected"],
)
def test_what_cannot_be_asked_stops_nothing(restored, remote, failure):
    """A store that can't be asked for anchors keeps the pass from nothing else."""
    folder, _ = restored
    record(folder, 3)
    remote.failures["document_names"].append(failure)
    report = sync(folder, remote)
    assert report.halted is None
    assert 3.0 in remote.points()


def test_a_store_that_keeps_failing_is_left_alone_for_a_while(restored, remote):
    """Twice in a row is enough: passes of the next minute neither ask there nor send an anchor,
    and deliver all the same; after it one tries again.
    """
    folder, _ = restored
    now_ns = time.time_ns()
    attempts = []
    for value, seconds in enumerate((1, 2, 3, 120), start=3):
        record(folder, value)
        remote.failures["put_document"].append(passing() if value < 5 else None)
        remote.asked.clear()
        sync(folder, remote, clock_ns=lambda s=seconds: now_ns + s * 10**9)
        sent = [method for method, _ in remote.asked if method == "put_document"]
        attempts.append((bool(remote.questions), len(sent)))
        assert value in remote.points()
    assert attempts == [(True, 1), (True, 1), (False, 0), (True, 1)]


def test_documents_of_others_and_rubbish_count_for_nothing(restored, remote):
    """What is no anchor of this journal, whatever its name, does not stop it."""
    folder, _ = restored
    ((place, _), *_) = [uri.rsplit("/", 1) for uri in remote.stored]
    of_another = anchors.HeadsDocument(
        "another journal", 90, None, 1, {"w": (1, "00")}, {"w": (1, "00")}
    ).encode()
    for content in (b"{}", b"\xff", of_another, b"[" * 100_000):
        remote.stored[f"{place}/{anchors.name_of(90, hashlib.sha256(content).hexdigest())}"] = (
            content
        )
    remote.stored[f"{place}/99999999-not a name"] = b"{}"
    record(folder, 3)
    sync(folder, remote)
    assert 3.0 in remote.points()


def test_other_files_beside_the_anchors_hide_none(restored, remote):
    """However many there are, and whatever they are named: an anchor of the other copy is found."""
    _, backup = restored
    place = next(iter(remote.stored)).rpartition("/")[0]
    for number in range(20):
        remote.stored[f"{place}/99999999-{number}.txt"] = b"{}"
    record(backup, 3)
    with pytest.raises(JournalBehindError):
        sync(backup, remote)
    assert 3.0 not in remote.points()


@pytest.mark.parametrize("anchor", ["off", "parameter"])
def test_where_no_anchors_are_wanted_nobody_is_asked(restored, remote, anchor):
    """With anchors switched off, or in parameters alone (which do not say of which journal they
    are), there is no question.
    """
    folder, _ = restored
    record(folder, 3)
    remote.asked.clear()
    sync(folder, remote, anchor=anchor)
    assert remote.questions == []
    assert 3.0 in remote.points()


def test_a_copy_that_was_never_synced_knows_the_mark_of_its_own_component(tmp_path, remote):
    """Without any anchor (no artifact), the second of two copies finds its own creation, which
    it never sent: it stops there, each time.
    """
    older = record(tmp_path / "older", 0, 1, drafts=CREATED)
    newer = record(copy(older, "newer"), 2)
    sync(newer, remote)
    for _ in range(2):
        with pytest.raises(JournalBehindError):
            sync(older, remote)
    assert remote.points() == {0.0: 1, 1.0: 1, 2.0: 1}
    assert remote.questions == []
    assert pending(older) == 3
    merge([newer], into=older)
    sync(older, remote)
    assert pending(older) == 0
    assert remote.points() == {0.0: 1, 1.0: 1, 2.0: 1}


def test_that_holds_after_attempts_without_a_network(tmp_path, remote):
    """Attempts that certainly made nothing, as each close of a training without a network is
    one, leave the copy as wary as before.
    """
    older = record(tmp_path / "older", 0, drafts=CREATED)
    offline = FailingRemote()
    offline.failures["create"] += [passing("EndpointConnectionError", unreachable=True)] * 3
    sync(older, offline)
    newer = copy(older, "newer")
    sync(newer, remote)
    with pytest.raises(JournalBehindError):
        sync(older, remote)
    assert remote.points() == {0.0: 1}


@pytest.mark.parametrize(
    "lost",
    [passing(maybe_applied=True), RuntimeError("what was that")],
    ids=["no answer", "unexpected"],
)
def test_a_creation_whose_answer_was_lost_is_the_copys_own(tmp_path, remote, lost):
    """A component that an earlier request of this very copy may have made is taken for its own,
    as ever.
    """
    folder = record(tmp_path / "journal", 0, drafts=CREATED)

    class Lost(FailingRemote):
        """Makes a component, and gives no answer."""

        def create(self, spec):
            super().create(spec)
            raise lost

    there = Lost()
    there.components = remote.components
    sync(folder, there)
    assert pending(folder) == 2
    sync(folder, remote)
    assert remote.points() == {0.0: 1}


def test_a_component_that_others_share_is_no_sign_of_a_copy(tmp_path, remote):
    """Two nodes that continue one run by its name have a journal each: neither is a copy of the
    other.
    """
    first = record(tmp_path / "first", 0, drafts=[vocabulary.create(owner="first", resume=True)])
    second = record(tmp_path / "second", 1, drafts=[vocabulary.create(owner="second", resume=True)])
    third = record(tmp_path / "third", 2, drafts=LOADED)
    for folder in (first, second, third):
        sync(folder, remote)
    assert remote.points() == {0.0: 1, 1.0: 1, 2.0: 1}


def test_a_loaded_component_that_one_copy_made_is_known_to_the_other(tmp_path, remote):
    """What a sync made on request for a component that was only loaded bears the journal's id:
    the other copy is behind it, too.
    """
    first = record(tmp_path / "first", 0, drafts=LOADED)
    second = copy(first, "second")
    sync(first, remote, create_or_attach=True)
    for options in ({}, {"create_or_attach": True}):
        with pytest.raises(JournalBehindError):
            sync(second, remote, **options)
    assert remote.points() == {0.0: 1}


def test_anchors_are_found_where_the_newest_one_is(restored, remote):
    """The question goes to the bucket and prefix of the newest anchor, not to the remote's own."""
    folder, _ = restored
    record(folder, 3)
    remote.asked.clear()
    sync(folder, remote)
    assert [where for method, where in remote.asked if method == "document_names"] == [
        ("the-bucket", "")
    ]


BESIDE = {"anchor_prefix": "the-prefix"}
"""What puts anchors where versions before ``anchor_prefix`` put them: below the artifacts."""


def test_anchors_below_the_artifacts_go_on_there(tmp_path, remote):
    """A journal that was anchored by an older version keeps its anchors in one place: there both
    versions find what a copy did, and a check finds all of them.
    """
    folder = record(tmp_path / "journal", 0, drafts=CREATED, artifact=b"first")
    sync(folder, remote, **BESIDE)
    backup = copy(folder, "backup")
    for value, options in ((1, {}), (2, BESIDE), (3, {"anchor_prefix": "other"})):
        record(folder, value)
        sync(folder, remote, **options)
    begin = "s3://the-bucket/the-prefix/journaltrack-anchors/"
    assert len(remote.stored) == 4
    assert all(uri.startswith(begin) for uri in remote.stored)
    record(backup, 9)
    with pytest.raises(JournalBehindError):
        sync(backup, remote)
    with closing(Journal.open(folder, create=False, read_only=True)) as journal:
        found = compare_with_anchors(journal, remote)
    assert (found.documents, found.problems, found.note) == (4, (), None)


def test_a_copy_from_before_the_first_anchor_looks_in_both_places(tmp_path, remote):
    """A backup that knows of no anchor finds that of an older version, below the artifacts, and
    that of this one; it asks once for each, and never again.
    """
    folder = record(tmp_path / "journal", 0, drafts=CREATED, artifact=b"first")
    sync(folder, remote, anchor="off")
    record(folder, 1)
    backup, another = copy(folder, "backup"), copy(folder, "another")
    remote.asked.clear()
    sync(another, remote, **BESIDE)
    assert remote.questions == ["document_names"]
    remote.asked.clear()
    with pytest.raises(JournalBehindError):
        sync(backup, remote)
    assert remote.questions == ["document_names", "document_names", "document"]
    assert remote.points() == {0.0: 1, 1.0: 1}


class WithoutRoot(FailingRemote):
    """A policy allows one prefix, and nothing at the bucket's root."""

    is_limited = True

    def _allow(self, prefix):
        if self.is_limited and prefix == "":
            raise RemoteError("denied", kind=ErrorKind.HALT, code="AccessDenied")

    def documents(self, bucket, prefix, folder):
        self._allow(prefix)
        return super().documents(bucket, prefix, folder)

    def document_names(self, bucket, prefix, folder, after):
        self._allow(prefix)
        return super().document_names(bucket, prefix, folder, after)


def test_a_policy_for_one_place_hides_no_anchor_in_the_other(tmp_path):
    """Where the bucket's root is denied, anchors below the artifacts are still found, by a pass
    and by a check, which says what it could not see.
    """
    remote = WithoutRoot()
    folder = record(tmp_path / "journal", 0, drafts=CREATED, artifact=b"first")
    sync(folder, remote, anchor="off")
    record(folder, 1)
    backup = copy(folder, "backup")
    sync(folder, remote, **BESIDE)
    with pytest.raises(JournalBehindError):
        sync(backup, remote)
    with closing(Journal.open(folder, create=False, read_only=True)) as journal:
        found = compare_with_anchors(journal, remote)
    assert (found.documents, found.problems, found.note) == (1, (), "AccessDenied: denied")


def test_a_check_finds_an_anchor_wherever_a_copy_put_it(tmp_path, remote):
    """Whoever cuts off the end of a journal, with all that it knows of its anchors, is found by
    those of either place.
    """
    for name, options in (("old", BESIDE), ("new", {})):
        folder = record(tmp_path / name / "journal", 0, drafts=CREATED, artifact=b"first")
        sync(folder, remote, anchor="off")
        before = copy(folder, "before")
        record(folder, 1)
        sync(folder, remote, **options)
        with closing(Journal.open(before, create=False, read_only=True)) as journal:
            found = compare_with_anchors(journal, remote)
        assert (found.documents, found.note) == (1, None)
        assert found.problems
        remote.components.clear()
