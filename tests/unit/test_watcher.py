"""The watcher's decisions, with real folders and files, a clock of the test's, and the network
played by two functions.
"""

from __future__ import annotations

import itertools
import shutil
from concurrent.futures import wait
from contextlib import closing

import pytest

from journaltrack import Tracker
from journaltrack.errors import ErrorKind, LeaseHeldError, RemoteError
from journaltrack.journal.journal import Journal
from journaltrack.remotes.memory import MemoryRemote
from journaltrack.replay.pass_report import PassReport, look
from journaltrack.replay.reconciler import Reconciler
from journaltrack.util.config import WatchConfiguration
from journaltrack.util.deadline import Deadline
from journaltrack.watch.journal import HOT_S, Delivery
from journaltrack.watch.watcher import Watcher

SETTINGS = WatchConfiguration(
    debounce_s=0.25,
    poll_s=4.0,
    settle_s=3.0,
    journals_at_a_time=2,
    probe_first_s=1.0,
    probe_max_s=8.0,
    retry_first_s=2.0,
    retry_max_s=64.0,
)
DOWN = RemoteError(
    "refused",
    kind=ErrorKind.TRANSIENT,
    code="EndpointConnectionError",
    unreachable=True,
    hint="check the network",
)
EXPIRED = RemoteError(
    "expired", kind=ErrorKind.HALT, code="ExpiredToken", everywhere=True, hint="renew"
)
FORBIDDEN = RemoteError("not allowed", kind=ErrorKind.HALT, code="AccessDenied", hint="ask for it")
CONFLICT = RemoteError("taken", kind=ErrorKind.HOLD, code="ComponentConflict", hint="rename")


class Events:
    """Events as the test says; a folder can be refused a watch."""

    def __init__(self):
        self.watched, self.happened, self.refused = set(), set(), False

    def watch(self, folder):
        if not self.refused:
            self.watched.add(folder)
        return not self.refused

    def forget(self, folder):
        self.watched.discard(folder)

    def taken(self):
        taken, self.happened = self.happened, set()
        return taken

    def close(self):
        self.watched.clear()


class World:
    """A watcher, its clock, and an endpoint that is up, down, or has something against one
    journal.
    """

    def __init__(self, *roots, settings=SETTINGS, **options):
        self.now = 1000.0
        self.error = None
        self.problems = {}
        self.passes, self.looks, self.probes, self.requests = [], [], [], []
        self.events = Events()
        self.told = []
        self.steps = 0
        self.roots = list(roots)
        self.polls = []
        options.setdefault("cpu_s", lambda: 0.0)
        self.watcher = Watcher(
            self.find_roots,
            self.deliver,
            self.probe,
            settings,
            events=lambda _: self.events,
            tell=lambda watcher: self.told.append((self.now, watcher.gate.up)),
            clock=lambda: self.now,
            clock_ns=lambda: int(self.now * 1e9),
            chance=lambda: 1.0,
            **options,
        )

    def find_roots(self):
        self.polls.append(self.now)
        return self.roots

    def deliver(self, request):
        self.requests.append(request)
        self.looks.append((self.now, request.journal))
        work = look(request.journal)
        if request.look_only:
            return Delivery(work.pending)
        if not work.any or work.position == request.unless:
            return Delivery(work.pending, work.position)
        self.passes.append((self.now, request.journal))
        problem = self.problems.get(request.journal.name, self.error)
        if isinstance(problem, Exception) and not isinstance(problem, RemoteError):
            raise problem
        report = PassReport(pending=work.pending, position=work.position)
        if problem is None:
            report.delivered, report.pending = work.pending, 0
            self.settle(request.journal)
        elif problem.kind is ErrorKind.HOLD:
            report.held["run"] = problem
        else:
            report.halted = problem
        return Delivery(report.pending, report.position, report)

    def settle(self, journal):
        from journaltrack.journal.journal import Journal

        opened = Journal.open(journal, create=False)
        with opened.database.transaction() as connection:
            connection.execute(
                "INSERT INTO delivery (seq, outcome, settled_at_ns) SELECT seq, 'superseded', 0 "
                "FROM entry WHERE true ON CONFLICT DO NOTHING"
            )
        opened.close()

    def probe(self):
        self.probes.append(self.now)
        return self.error

    def run(self, seconds):
        """Let time pass: every step at the time that the watcher asked for, and what it began
        ended before the next.
        """
        end = self.now + seconds
        while True:
            pause = self.watcher.step()
            self.steps += 1
            futures = [j.running for j in self.watcher.journals.values() if j.running is not None]
            if self.watcher._probing is not None:
                futures.append(self.watcher._probing)
            if futures:
                wait(futures)
                continue
            if self.now + pause > end:
                self.now = end
                return
            self.now += max(pause, 0.001)

    def times(self, journal):
        return [at for at, path in self.passes if path == journal]


def tracker(folder, name="run"):
    return Tracker.create(trial_component_name=name, journal=folder, sync="off", resume=True)


@pytest.fixture
def journal(tmp_path):
    """The folder of a closed journal, below the root that is watched."""
    tracker(tmp_path / "root" / "a").close()
    return tmp_path / "root" / "a"


def log(folder, value=1.0):
    with_tracker = tracker(folder)
    with_tracker.log_metric("loss", value)
    with_tracker.close()


def test_nothing_is_read_while_nothing_changes(journal):
    """After a journal's entries are delivered, it is not opened again until its files change."""
    world = World(journal.parent)
    world.run(20)
    assert len(world.passes) == 1
    looks = len(world.looks)
    world.run(10_000)
    assert len(world.looks) == looks
    log(journal)
    world.run(SETTINGS.poll_s + 1)
    assert len(world.passes) == 2


def test_polls_take_half_a_percent_of_a_core_at_most(journal):
    """Polls that cost 0.1 s of CPU are 20 s apart, whatever the setting says; an event is still
    followed at once.
    """
    cpu_s = itertools.count(step=0.1)
    world = World(journal.parent, cpu_s=lambda: next(cpu_s))
    world.run(200)
    pauses = [later - earlier for earlier, later in itertools.pairwise(world.polls[3:])]
    assert pauses == pytest.approx([20.0] * len(pauses))
    assert len(pauses) >= 5
    passes = len(world.passes)
    log(journal)
    world.events.happened.add(journal)
    world.run(1)
    assert len(world.passes) == passes + 1


def test_what_a_slow_poll_found_is_delivered_and_watched_without_another(journal):
    """A large inbox makes polls rare. Its journals are delivered once they have settled, and are
    watched once they are quiet again: neither waits for the next poll.
    """
    cpu_s = itertools.count(step=5.0)
    world = World(journal.parent, cpu_s=lambda: next(cpu_s))
    begun = world.now
    world.run(SETTINGS.settle_s + 8 * SETTINGS.debounce_s)
    assert world.times(journal) == [pytest.approx(begun + SETTINGS.settle_s, abs=0.3)]
    world.run(3 * HOT_S)
    assert journal in world.events.watched
    assert len(world.polls) == 1


def test_an_event_makes_a_pass_within_the_debounce(journal):
    """With an event, a write is delivered after the debounce, and not only when the slow poll
    comes.
    """
    world = World(journal.parent)
    world.run(21)
    assert journal in world.events.watched
    log(journal)
    world.events.happened.add(journal)
    begun = world.now
    world.run(1)
    assert world.times(journal)[-1] == pytest.approx(begun + SETTINGS.debounce_s, abs=0.01)


def test_a_journal_that_is_written_to_all_the_time_is_polled_without_events(journal):
    """While writes come, the system is asked for no events, and passes follow each other at the
    debounce; afterwards it is watched again.
    """
    world = World(journal.parent)
    world.run(21)
    writer = tracker(journal)
    world.events.happened.add(journal)
    before = len(world.passes)
    for _ in range(10):
        writer.log_metric("loss", 1.0)
        world.run(0.5)
        assert journal not in world.events.watched
    assert 8 <= len(world.passes) - before <= 20
    writer.close()
    world.run(20)
    assert journal in world.events.watched


def test_a_refused_watch_is_made_up_for_by_polls(journal):
    """Without events (network file systems, inotify's limit) a write is delivered within a
    poll's time.
    """
    world = World(journal.parent)
    world.events.refused = True
    world.run(20)
    log(journal)
    begun = world.now
    world.run(30)
    assert world.times(journal)[-1] - begun <= SETTINGS.poll_s + 2 * SETTINGS.debounce_s


def test_an_entry_written_while_a_pass_runs_is_delivered_by_the_next(journal):
    """What a pass had not seen is not lost among the pass's own writes."""
    world = World(journal.parent)
    deliver = world.deliver

    def writes_meanwhile(request):
        delivery = deliver(request)
        if delivery.report is not None and len(world.passes) == 1:
            log(journal, 2.0)
        return delivery

    world.watcher._deliver = writes_meanwhile
    world.run(20)
    assert len(world.passes) == 2
    assert look(journal).pending == 0


def test_new_journals_are_picked_up_and_gone_ones_dropped(tmp_path, journal):
    """Journals that appear below a folder are delivered; those that vanish are let go and found
    again.
    """
    world = World(tmp_path / "root")
    world.run(20)
    log(tmp_path / "root" / "b")
    world.run(20)
    assert world.times(tmp_path / "root" / "b")
    journal.rename(tmp_path / "away")
    world.run(20)
    assert set(world.watcher.journals) == {tmp_path / "root" / "b"}
    log(tmp_path / "away")
    (tmp_path / "away").rename(journal)
    world.run(20)
    assert len(world.times(journal)) == 2


def test_a_folder_that_is_not_there_yet_is_waited_for(tmp_path):
    """A stick that is plugged in later is found."""
    world = World(tmp_path / "stick")
    world.run(20)
    log(tmp_path / "stick" / "journal")
    world.run(20)
    assert world.passes


def test_an_endpoint_that_is_down_is_probed_and_gets_no_passes(tmp_path):
    """During an outage there are only probes, with growing delays up to the bound; then
    everything goes out at once.
    """
    root = tmp_path / "root"
    for name in "abc":
        log(root / name)
    world = World(root)
    world.error = DOWN
    world.run(200)
    assert len(world.passes) <= 3
    assert world.probes[0] - max(at for at, _ in world.passes) <= SETTINGS.probe_first_s + 0.01, (
        "passes that fail together are one failure"
    )
    gaps = [later - earlier for earlier, later in itertools.pairwise(world.probes)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(SETTINGS.probe_max_s)
    log(root / "d")
    world.run(20)
    assert (root / "d") not in {path for _, path in world.passes}
    assert world.watcher.journals[root / "d"].pending == 2, "what waits is still told"
    world.error = None
    passes, begun = len(world.passes), world.now
    world.run(SETTINGS.probe_max_s + 0.01)
    assert {path for _, path in world.passes[passes:]} == {root / name for name in "abcd"}
    assert all(look(root / name).pending == 0 for name in "abcd")
    assert world.now - begun <= SETTINGS.probe_max_s + 0.01


def test_expired_credentials_are_probed_for_like_an_endpoint(journal):
    """With expired credentials no pass is tried; new ones are noticed by a probe."""
    world = World(journal.parent)
    world.error = EXPIRED
    world.run(100)
    assert len(world.passes) == 1
    assert not world.watcher.gate.up
    world.error = None
    world.run(SETTINGS.probe_max_s + 0.01)
    assert world.watcher.gate.up
    assert look(journal).pending == 0


@pytest.mark.parametrize("problem", [FORBIDDEN, CONFLICT], ids=["halted", "held"])
def test_a_journal_that_cannot_go_on_holds_up_no_other(tmp_path, problem):
    """One journal's own trouble is tried again with growing delays; others are delivered as
    ever.
    """
    root = tmp_path / "root"
    log(root / "bad")
    log(root / "good")
    world = World(root)
    world.problems["bad"] = problem
    world.run(100)
    assert look(root / "good").pending == 0
    assert world.watcher.gate.up
    bad = world.times(root / "bad")
    gaps = [later - earlier for earlier, later in itertools.pairwise(bad)]
    assert gaps == sorted(gaps)
    assert 4 <= len(bad) <= 7
    log(root / "good")
    begun = world.now
    world.run(SETTINGS.poll_s + 1)
    assert world.times(root / "good")[-1] > begun
    error = world.watcher.journals[root / "bad"].error_text
    assert error == {"code": problem.code, "message": problem.message, "hint": problem.hint}
    del world.problems["bad"]
    world.run(SETTINGS.retry_max_s)
    assert look(root / "bad").pending == 0
    assert world.watcher.journals[root / "bad"].error_text is None


def test_a_pass_that_was_cut_short_forgets_no_reason(journal):
    """What kept a journal waiting is told until a pass found out that it does not any more, also
    when the watcher stops.
    """
    world = World(journal.parent)
    world.problems["a"] = CONFLICT
    world.run(30)
    told = world.watcher.journals[journal]
    told.take(Delivery(4, report=PassReport(pending=4, out_of_time=True)), world.now, 0, 0.1)
    assert told.error_text["code"] == CONFLICT.code
    told.take(Delivery(4, report=PassReport(pending=4)), world.now, 0, 0.1)
    assert told.error_text is None


def test_a_pass_that_is_cut_short_before_its_first_request_says_so(journal):
    """Else it would look as if nothing had kept what is pending."""
    deadline = Deadline()
    deadline.cancel()
    with closing(Journal.open(journal)) as own:
        report = Reconciler(own, MemoryRemote(), deadline=deadline).run()
        assert (report.requests, report.pending > 0, report.problem, report.out_of_time) == (
            0,
            True,
            None,
            True,
        )
        assert Reconciler(own, MemoryRemote()).run().pending == 0
        assert not Reconciler(own, MemoryRemote(), deadline=deadline).run().out_of_time


def test_a_journal_that_somebody_else_reconciles_is_tried_again(journal):
    """A held lease is no trouble: what the other one left is delivered later."""
    world = World(journal.parent)
    world.problems["a"] = LeaseHeldError("pid 1 has it")
    world.run(30)
    assert world.watcher.gate.up
    del world.problems["a"]
    world.run(SETTINGS.retry_max_s)
    assert look(journal).pending == 0


def test_at_most_one_pass_a_journal_and_several_journals_at_a_time(tmp_path):
    """Passes of one journal never overlap, those of different ones do, up to the bound."""
    import threading

    root = tmp_path / "root"
    for name in "abcdef":
        log(root / name)
    world = World(root)
    running, most, together, lock = [], [], threading.Barrier(2), threading.Lock()
    deliver = world.deliver

    def counted(request):
        with lock:
            assert request.journal not in running
            running.append(request.journal)
            most.append(len(running))
        if look(request.journal).any:
            together.wait(300)  # two at a time, or this breaks
        with lock:
            delivery = deliver(request)
            running.remove(request.journal)
        return delivery

    world.watcher._deliver = counted
    world.run(60)
    assert max(most) == 2
    assert all(look(root / name).pending == 0 for name in "abcdef")


def test_a_copy_under_way_is_left_alone_until_it_is_quiet(tmp_path, journal):
    """A journal that appears is not opened before its files have been still for the settling
    time.
    """
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    log(journal)
    world = World(inbox)
    whole = (journal / "journal.db").read_bytes()
    (inbox / "copy").mkdir()
    for part in range(1, 11):
        (inbox / "copy" / "journal.db").write_bytes(whole[: len(whole) * part // 10])
        world.run(SETTINGS.poll_s if part < 10 else SETTINGS.settle_s / 2)
        assert not world.looks
    shutil.copytree(journal / "spool", inbox / "copy" / "spool")
    world.run(SETTINGS.settle_s + 2 * SETTINGS.poll_s)
    assert world.times(inbox / "copy")
    assert all(request.arriving for request in world.requests[:1])


def test_a_copy_that_stays_incomplete_costs_a_look_now_and_then(tmp_path, journal):
    """Half a database for ever is looked at when polls come, without turning in circles
    meanwhile; it is never opened.
    """
    inbox = tmp_path / "inbox" / "half"
    inbox.mkdir(parents=True)
    whole = (journal / "journal.db").read_bytes()
    (inbox / "journal.db").write_bytes(whole[: len(whole) // 2])
    world = World(tmp_path / "inbox")
    world.run(1_000)
    assert world.steps < 2 * 1_000 / SETTINGS.poll_s
    assert not world.looks
    assert "bytes" in world.watcher.journals[inbox].reason


def test_waiting_for_a_free_place_costs_nothing(tmp_path):
    """With more journals due than may be delivered at a time, the watcher sleeps until a pass
    has ended.
    """
    import threading

    root = tmp_path / "root"
    for name in "abcdef":
        log(root / name)
    world = World(root)
    release = threading.Event()
    deliver = world.deliver
    world.watcher._deliver = lambda request: (release.wait(300), deliver(request))[1]
    pauses = []
    for _ in range(40):
        pauses.append(world.watcher.step())
        world.now += 0.5
    assert (
        sum(journal.running is not None for journal in world.watcher.journals.values())
        == SETTINGS.journals_at_a_time
    )
    assert min(pauses[20:]) > 0.1
    release.set()
    world.run(60)
    assert all(look(root / name).pending == 0 for name in "abcdef")


def test_missing_artifacts_keep_a_copy_waiting(journal):
    """A copy whose spool has not arrived is not delivered, and says so; it is looked at again."""
    world = World(journal.parent)
    world.watcher._deliver = lambda request: (
        world.looks.append(world.now) or Delivery(3, missing_blobs=2)
    )
    world.run(60)
    assert "2 of its artifacts" in world.watcher.journals[journal].reason
    assert 3 <= len(world.looks) <= 8


def test_a_replaced_journal_has_to_settle_again(tmp_path, journal):
    """Another database in the same place is another journal: nothing of what was seen counts for
    it.
    """
    world = World(journal.parent)
    world.run(20)
    log(tmp_path / "other")
    shutil.rmtree(journal)
    (tmp_path / "other").rename(journal)
    begun = world.now
    world.run(30)
    assert world.times(journal)[-1] - begun >= SETTINGS.settle_s
    assert look(journal).pending == 0


def test_a_journal_of_one_s_own_is_never_taken_for_a_copy(tmp_path, journal, monkeypatch):
    """Inside of a training process no file of the journal is opened, not even when another one
    is put in its place.
    """
    from journaltrack.journal.sqlite import files
    from journaltrack.watch import folders

    def forbidden(*_):
        raise AssertionError

    monkeypatch.setattr(files, "held_open", forbidden)
    for name in ("in_arrival", "log_is_torn"):
        monkeypatch.setattr(folders, name, forbidden)
    world = World(journal, arrivals=False)
    world.run(20)
    log(tmp_path / "other")
    shutil.rmtree(journal)
    (tmp_path / "other").rename(journal)
    world.run(20)
    assert look(journal).pending == 0


def test_a_probe_goes_first_after_a_silence(journal):
    """The first pass after a while begins with a request that may be repeated; passes that
    follow closely do not.
    """
    world = World(journal.parent)
    world.run(20)
    log(journal)
    world.run(10)
    made = [request for request in world.requests if not request.look_only]
    assert made[0].preflight
    world.watcher.gate.answered(world.now)
    log(journal)
    world.run(SETTINGS.poll_s + 1)
    assert not world.requests[-2].preflight


def test_the_state_is_told_when_it_changes_and_now_and_then(journal):
    """A change is told within a second or so, and a watcher that lives is heard of."""
    world = World(journal.parent)
    world.run(20)
    told = len(world.told)
    world.run(150)
    assert 9 <= len(world.told) - told <= 12
    world.error = DOWN
    log(journal)
    world.run(SETTINGS.poll_s + 3)
    assert world.told[-1][1] is False


def test_other_folders_and_delays_can_be_chosen_while_it_runs(tmp_path, journal):
    """After a reconfiguration other folders are watched, and the former ones are not."""
    world = World(journal.parent)
    world.run(20)
    log(tmp_path / "new" / "b")
    world.roots = [tmp_path / "new"]
    world.watcher.reconfigure(SETTINGS._replace(poll_s=1.0))
    world.run(20)
    assert set(world.watcher.journals) == {tmp_path / "new" / "b"}
    assert look(tmp_path / "new" / "b").pending == 0
    log(journal)
    world.run(20)
    assert look(journal).pending


def test_a_bug_in_one_journal_s_pass_is_told_and_stops_no_other(tmp_path, journal):
    """Whatever a pass raises, the watcher goes on, and says what it was; the journal is tried
    again.
    """
    log(tmp_path / "root" / "b")
    world = World(journal.parent)
    world.problems["a"] = ZeroDivisionError("division by zero")
    world.run(30)
    assert "ZeroDivisionError" in world.watcher.journals[journal].error_text["message"]
    assert look(tmp_path / "root" / "b").pending == 0
    world.problems.clear()
    world.run(SETTINGS.retry_max_s)
    assert look(journal).pending == 0


def test_a_probe_that_fails_unexpectedly_is_a_failed_probe(journal):
    """Whatever a probe raises, there is another one."""
    world = World(journal.parent)
    world.error = DOWN
    world.run(20)
    probe, world.watcher._probe = world.watcher._probe, lambda: 1 / 0
    world.run(20)
    assert "ZeroDivisionError" in world.watcher.gate.error.message
    world.watcher._probe, world.error = probe, None
    world.run(SETTINGS.probe_max_s + 1)
    assert look(journal).pending == 0


def test_a_journal_that_cannot_be_looked_at_is_an_error_of_its_own(tmp_path, journal, monkeypatch):
    """An I/O error at one journal is told, and the others go on."""
    from journaltrack.watch import folders

    log(tmp_path / "root" / "b")
    world = World(journal.parent)
    files_of = folders.files_of

    looked = []

    def failing(path):
        looked.append(path)
        if path == journal and len(looked) % 2:  # also between two looks of one examination
            raise PermissionError(13, "Permission denied")
        return files_of(path)

    monkeypatch.setattr(folders, "files_of", failing)
    world.run(30)
    assert "Permission denied" in world.watcher.journals[journal].error_text["message"]
    assert look(tmp_path / "root" / "b").pending == 0


def test_a_look_during_an_outage_forgets_no_retry(journal):
    """While the endpoint is down, a journal is looked at to tell how much waits: it goes on
    waiting, and is delivered when the endpoint is back.
    """
    world = World(journal.parent)
    world.error = DOWN
    world.run(20)
    watched = world.watcher.journals[journal]
    assert (watched.state, watched.pending) == ("waiting", 1)
    log(journal)
    world.run(20)
    assert any(request.look_only for request in world.requests)
    assert len(world.passes) == 1
    assert (watched.state, watched.pending) == ("waiting", 3)
    world.error = None
    world.run(SETTINGS.probe_max_s + 0.01)
    assert (watched.state, look(journal).pending) == ("quiet", 0)


@pytest.mark.parametrize("halted", [None, FORBIDDEN], ids=["delivered", "delivered and halted"])
def test_a_pass_beside_one_that_failed_opens_the_gate_only_if_it_met_nothing(tmp_path, halted):
    """Of two passes side by side one can't reach the endpoint: the other shows that it is up by
    delivering, not if it was halted on the way.
    """
    root = tmp_path / "root"
    log(root / "a")
    log(root / "b")
    world = World(root)
    world.problems["a"] = DOWN
    deliver, halts = world.deliver, [halted]

    def in_trouble_once(request):
        delivery = deliver(request)
        if delivery.report is not None and request.journal.name == "a":
            world.problems.clear()
        elif delivery.report is not None and halts:
            delivery.report.halted = halts.pop()
        return delivery

    world.watcher._deliver = in_trouble_once
    world.run(30)
    first, again = world.times(root / "a")
    assert first == world.times(root / "b")[0]
    assert (world.probes == []) == (halted is None)
    assert halted is None or again >= world.probes[0], (
        "nothing had shown that the endpoint was back"
    )
    assert look(root / "a").pending == 0


def test_a_journal_that_appears_deep_below_the_root_is_noticed_by_its_event(tmp_path):
    """The folders of known journals are watched, at any depth: their new neighbours are found
    within the debounce, not by the next poll.
    """
    root = tmp_path / "root"
    log(root / "project" / "first")
    world = World(root, arrivals=False)
    world.run(20)
    log(root / "project" / "second")
    assert world.events.watched >= {root, root / "project"}
    world.events.happened.add(root / "project")
    begun = world.now
    world.run(1)
    assert world.times(root / "project" / "second")[0] - begun <= 2 * SETTINGS.debounce_s
