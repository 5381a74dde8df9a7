"""Implement ``journaltrack check --access``: what these credentials may do, before a sync."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from journaltrack import limits
from journaltrack.cli import common, output, tables
from journaltrack.cli.exit_codes import ExitCode, exit_code_of, report_error, worst
from journaltrack.util.deadline import Deadline

if TYPE_CHECKING:
    from journaltrack.cli.journals import Journals
    from journaltrack.remotes.aws.access import Access, Bucket

_CLOCK_EXACT_S: Final = 5
"""An answer's date has whole seconds, and the answer took a while."""
_ASK: Final = "ask for the permission"
_HINTS: Final = {
    "anchors": f'{_ASK}, or switch them off: `anchor = "off"` in the configuration',
    "experiments": f"{_ASK}, or if yours exist already: `allow.create_experiments = false`",
    "lineage": f"{_ASK}, or switch it off: `lineage = false` in the configuration",
}


def check_access(
    journals: Journals,
    bucket: str | None,
    *,
    config_file: str | None,
    as_json: bool,
    **aws: Any,  # noqa: ANN401 - click's
) -> ExitCode:
    """Print what the credentials may do, and return the exit code.

    Args:
        journals: What syncs of these need. None named: what runs usually need, and the default one.
        bucket: The bucket of the artifacts, perhaps with their prefix; None for the default ones.
        config_file: The configuration; None for the usual one.
        as_json: Whether to print JSON.
        aws: How to reach AWS, as on the command line.
    """
    from journaltrack.app.access import run_access  # noqa: PLC0415
    from journaltrack.app.connection import Connection, is_attended  # noqa: PLC0415
    from journaltrack.util import config  # noqa: PLC0415 - shell completion imports this module

    name, _, prefix = (bucket or "").removeprefix("s3://").strip("/").partition("/")
    problem = limits.bucket_problem(name) if bucket is not None else None
    if problem:
        raise click.BadParameter(f"{limits.shown(name)} can't be a bucket: {problem}")
    known = config.load(config_file, overrides=aws).configuration
    connection = Connection(attended=is_attended(), **known.of_a_connection())
    run = common.Stoppable(Deadline())
    with common.stopping(run):
        found = run_access(
            connection,
            known,
            name or None,
            prefix or None,
            journals=journals.folders if journals.named else None,
            deadline=run.deadline,
        )
    code = _code(found)
    if as_json:
        error = {} if found.error is None else output.error_json(found.error, code)
        output.print_json({**found.to_json(), **error, "exit_code": int(code)})
    else:
        _print(found)
    _explain(found)
    return run.code(code)


def _code(found: Access) -> ExitCode:
    codes = [ExitCode.HALTED] if found.is_refused else []
    codes += [] if found.error is None else [exit_code_of(found.error)]
    return worst(codes)


def _print(found: Access) -> None:
    rows: list[tuple[str, object]] = [
        ("account", found.account),
        ("identity", found.arn),
        ("region", found.region),
        ("endpoint", found.endpoint),
        ("clock", None if found.clock_ahead_s is None else _clock(found.clock_ahead_s)),
        ("bucket", None if found.bucket is None else _bucket(found.bucket, found.region)),
    ]
    tables.fields([(label, value) for label, value in rows if value is not None])
    if found.permissions:
        output.say()
    tables.table(
        "permissions",
        ("for", "action", "is", "remark"),
        [(each.feature, each.action, each.state, each.message) for each in found.permissions],
    )
    if found.suffices and not found.permissions:
        output.say("nothing is pending: a sync needs no permission")
    elif found.suffices:
        output.say(
            "these credentials may do what a sync needs, as far as requests without effect can tell"
        )


def _clock(ahead_s: float) -> str:
    if abs(ahead_s) <= _CLOCK_EXACT_S:
        return "as AWS's"
    return f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} AWS's"


def _bucket(bucket: Bucket, region: str | None) -> str:
    what = {True: "exists", False: "is missing", None: "may exist"}[bucket.exists]
    place = f" in {bucket.region}" if bucket.region else ""
    kind = ", the default bucket," if bucket.is_default else ""
    other = "" if bucket.region in {None, region} else f", and requests go to {region}"
    return f"{bucket.name}{kind} {what}{place}{other}"


def _explain(found: Access) -> None:
    """Say on stderr what a sync would fail for, and what to do."""
    for each in found.permissions:
        if each.state == "denied":
            text = f"{each.feature} need {each.action}, which is denied: {each.message}"
            output.problem("error", text, _HINTS.get(each.feature, _ASK))
        elif each.state == "refused":
            output.problem("error", f"{each.action}: {each.message}", each.hint)
    bucket = found.bucket
    if bucket is not None and bucket.exists is False:
        if bucket.is_needed:
            output.problem("error", f"the bucket {bucket.name} does not exist", "create it")
        else:
            output.problem("note", f"a sync creates {bucket.name}, if it may")
    if found.is_clock_wrong:
        output.problem("error", "AWS refuses requests with this clock", "set it (chronyc, ntpdate)")
    if found.error is not None:
        report_error(found.error, verbose=common.is_verbose())
