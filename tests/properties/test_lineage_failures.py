"""Whatever becomes of lineage, everything else arrives as if there were none."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journaltrack import Tracker
from journaltrack.errors import ComponentMissingError, ErrorKind, NotSentError, RemoteError
from journaltrack.journal.journal import Journal
from journaltrack.replay.reconciler import Options, Reconciler
from tests.failing_remote import FailingRemote
from tests.patience import scaled

pytestmark = pytest.mark.lineage

FAILURES = {
    "none": lambda: None,
    "refused": lambda: RemoteError("a pattern", kind=ErrorKind.PERMANENT, code="Validation"),
    "denied": lambda: RemoteError("denied", kind=ErrorKind.HALT, code="AccessDeniedException"),
    "expired": lambda: RemoteError(
        "expired", kind=ErrorKind.HALT, code="ExpiredToken", everywhere=True
    ),
    "throttled": lambda: RemoteError(
        "slow down", kind=ErrorKind.TRANSIENT, code="Throttling", throttled=True
    ),
    "lost": lambda: RemoteError(
        "silence", kind=ErrorKind.TRANSIENT, code="ReadTimeout", maybe_applied=True
    ),
    "unreachable": lambda: RemoteError(
        "refused", kind=ErrorKind.TRANSIENT, code="EndpointConnectionError", unreachable=True
    ),
    "quota": lambda: RemoteError("a quota", kind=ErrorKind.HOLD, code="ResourceLimitExceeded"),
    "no component": lambda: ComponentMissingError("gone", kind=ErrorKind.HOLD, code="NotFound"),
    "late": NotSentError,
    "a bug": lambda: KeyError("nobody expected this"),
}
UPLOAD_FAILURES = ("none", "refused", "denied", "lost")
CALLS = st.sampled_from(["parameter", "metric", "output", "input", "chart", "used chart"])


def logged(folder: Path, calls: list[tuple[str, str]]) -> Path:
    """Record calls (component, what) in a journal. Two of them at a time have one content."""
    trackers = {
        name: Tracker.create(trial_component_name=name, journal=folder / "journal", sync="off")
        for name in ("a", "b")
    }
    for number, (name, what) in enumerate(calls):
        tracker, file = trackers[name], folder / f"m {number}.csv"
        if what == "parameter":
            tracker.log_parameter(f"p{number}", number)
        elif what == "metric":
            tracker.log_metric("loss", float(number), iteration_number=number)
        elif "chart" in what:
            tracker.log_table(f"t {number}", {"x": [number // 2]}, output_artifact=what == "chart")
        else:
            file.write_text(str(number // 2))
            (tracker.log_artifact if what == "output" else tracker.log_input_artifact)(file)
    for tracker in trackers.values():
        tracker.close()
    return folder / "journal"


def arrived(remote: FailingRemote) -> object:
    """Everything but lineage."""
    return {
        name: (
            held.parameters,
            held.input_artifacts,
            held.output_artifacts,
            sorted(held.points),
            held.status,
        )
        for name, held in remote.components.items()
    }, remote.objects


@settings(max_examples=min(25, scaled(25)))
@given(
    calls=st.lists(st.tuples(st.sampled_from("ab"), CALLS), min_size=1, max_size=8),
    failures=st.lists(st.sampled_from(sorted(FAILURES)), max_size=12),
    uploads=st.lists(st.sampled_from(UPLOAD_FAILURES), max_size=2),
)
def test_failures_of_lineage_change_nothing_else(calls, failures, uploads):
    """The same journal is replayed with and without failures of lineage. After each pass the same
    has arrived; the passes agree on all but lineage; in peace, all that can be linked is.
    """
    with tempfile.TemporaryDirectory() as root:
        path = logged(Path(root), calls)
        found = []
        for place, script in enumerate((failures, [])):
            remote = FailingRemote()
            remote.failures["link"].extend(FAILURES[name]() for name in script)
            # One at a time, so that both journals meet them alike.
            remote.failures["upload"].extend(FAILURES[name]() for name in uploads)
            copy = Path(root) / str(place)
            shutil.copytree(path, copy)
            with closing(Journal.open(copy)) as journal:
                passes = [
                    Reconciler(journal, remote, options=Options(concurrency=1)).run()
                    for _ in range(3)
                ]
                states = dict(
                    journal.database.read(
                        "SELECT e.seq, d.outcome FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
                        "WHERE e.kind <> 'lineage' ORDER BY e.seq"
                    )
                )
                unsettled = journal.database.read(
                    "SELECT count(*) FROM entry e LEFT JOIN delivery d ON d.seq = e.seq "
                    "WHERE d.seq IS NULL OR d.outcome = 'in doubt'"
                )
            found.append((arrived(remote), states, [(r.halted, r.held) for r in passes]))
            if not script:
                assert unsettled == [(0,)]
                assert set(remote.artifacts) == set(remote.objects)
        assert found[0] == found[1]
