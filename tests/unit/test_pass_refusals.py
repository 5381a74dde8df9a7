"""What a service refuses for good is set aside by itself, wherever it stands among what is sent
with it.
"""

from __future__ import annotations

from contextlib import closing

import pytest

from journaltrack.errors import ErrorKind, RemoteError
from journaltrack.journal import vocabulary
from journaltrack.journal.journal import Journal
from journaltrack.replay.reconciler import Reconciler
from tests.failing_remote import FailingRemote

BAD = -1.0


class Picky(FailingRemote):
    """Refuses any request with the value in it, and does not say which it is."""

    def put_metrics(self, component, points):
        if any(point.value == BAD for point in points):
            raise RemoteError(
                "a value", kind=ErrorKind.PERMANENT, code="ValidationException", request_id="r-1"
            )
        return super().put_metrics(component, points)

    def update(self, component, fields):
        if BAD in fields.parameters.values():
            raise RemoteError(
                "a value", kind=ErrorKind.PERMANENT, code="ValidationException", request_id="r-1"
            )
        return super().update(component, fields)


@pytest.mark.parametrize("kind", ["metric", "parameter"])
def test_what_is_refused_is_set_aside_alone(tmp_path, kind):
    """Of two to ten points or parameters, with the bad one at each place: all others are
    delivered, and it alone is quarantined.
    """
    remote, expected = Picky(), {}
    with closing(Journal.open(tmp_path / "journal")) as journal:
        for count in range(2, 11):
            for bad in range(count):
                values = [BAD if number == bad else float(number) for number in range(count)]
                name = f"{count}-{bad}"
                drafts = (
                    [vocabulary.metric("loss", value, step, 1) for step, value in enumerate(values)]
                    if kind == "metric"
                    else [
                        vocabulary.parameter(f"p{number}", value)
                        for number, value in enumerate(values)
                    ]
                )
                journal.append(journal.component(name), [vocabulary.create(owner="me"), *drafts])
                expected[name] = [value for value in values if value != BAD]
        report = Reconciler(journal, remote).run()
        assert (report.pending, report.quarantined) == (0, len(expected))
        rows = journal.database.read(
            "SELECT e.value, d.outcome, d.reason FROM delivery d JOIN entry e ON e.seq = d.seq "
            "WHERE d.outcome NOT IN ('delivered')"
        )
        assert {(value, outcome) for value, outcome, _ in rows} == {(BAD, "quarantined")}
        assert all("ValidationException" in reason for *_, reason in rows)
    for name, values in expected.items():
        held = remote.components[name]
        if kind == "metric":
            assert sorted(point.value for point in held.points) == values
        else:
            assert sorted(held.parameters.values()) == values
