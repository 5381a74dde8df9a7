"""Implement ``journaltrack bundle``: pack a journal into one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from journaltrack.cli import common, output, tables
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.cli.journals import Journals, about_journals

if TYPE_CHECKING:
    from journaltrack.transfer.bundle.unpack import Bundle


@click.command(
    epilog="\b\nExamples:\n  journaltrack bundle -o /media/usb/run-7.bundle\n  journaltrack "
    "bundle --check /media/usb/run-7.bundle\n"
    "  journaltrack bundle --extract /media/usb/run-7.bundle journals/run-7"
)
@about_journals
@click.option(
    "-o",
    "--output",
    "target",
    metavar="FILE",
    type=click.Path(),
    help="The bundle to write; FILE appears when it is complete.",
)
@click.option("--all-blobs", is_flag=True, help="Also pack artifacts that are already delivered.")
@click.option(
    "--skip-damaged",
    is_flag=True,
    help="Leave out artifacts whose bytes are missing or damaged, and say so in the bundle.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option(
    "--check",
    "checked",
    metavar="FILE",
    type=click.Path(),
    help="Verify every byte of a bundle and say what it holds; pack nothing.",
)
@click.option(
    "--extract",
    "extracted",
    metavar="FILE FOLDER",
    nargs=2,
    type=click.Path(),
    help="Unpack a bundle into a new folder, as a journal; pack nothing.",
)
@common.common_options
def command(
    journals: Journals,
    *,
    target: str | None,
    all_blobs: bool,
    skip_damaged: bool,
    force: bool,
    checked: str | None,
    extracted: tuple[str, str] | None,
    as_json: bool,
) -> ExitCode:
    """Pack JOURNAL and its undelivered artifacts into FILE, to deliver elsewhere.

    Training may go on: entries recorded after the start are left out. If you interrupt it, no file
    is left. FILE is a tar archive (see docs/bundles.md). The command uses no network and changes
    no journal.
    """
    if checked is None and extracted is None:
        if target is None:
            raise click.UsageError("name the bundle: -o FILE")
        path = journals.only()
        options = {"all_blobs": all_blobs, "skip_damaged": skip_damaged, "force": force}
        return _pack(path, target, options, as_json=as_json)
    if checked is not None and journals.typed:
        raise click.UsageError("--check reads one bundle: check each in a call of its own")
    if (checked and extracted) or journals.typed or target or all_blobs or skip_damaged or force:
        raise click.UsageError(
            "--check and --extract read an existing bundle, and take no other option but --json"
        )
    if extracted is not None:
        return _extract(*extracted, as_json=as_json)
    return _check(str(checked), as_json=as_json)


def _pack(path: str | None, target: str, options: dict[str, Any], *, as_json: bool) -> ExitCode:
    from journaltrack.cli.progress import ProgressView  # noqa: PLC0415
    from journaltrack.transfer.bundle.pack import bundle  # noqa: PLC0415 - SQLAlchemy

    with ProgressView(f"bundle of {common.path_of(path)}", unit="bytes") as view:
        made = bundle(path, to=target, on_progress=view, **options)
    code = ExitCode.PROBLEMS if made.damaged else ExitCode.OK
    if as_json:
        output.print_json({**made.to_json(), "exit_code": int(code)})
        return code
    blobs = "no artifact contents"
    if made.blobs:
        blobs = f"{output.plural(made.blobs, 'artifact content')} ({output.size(made.blobs_bytes)})"
    output.say(
        f"{output.clean(made.output)}: entries up to {made.last_seq}, {blobs}; "
        f"{output.size(made.size_bytes)}"
    )
    if made.left_out:
        output.say(f"left out, since delivered: {output.plural(made.left_out, 'artifact content')}")
    _tell_harm(made.damaged)
    return code


def _check(file: str, *, as_json: bool) -> ExitCode:
    from journaltrack.cli.progress import ProgressView  # noqa: PLC0415
    from journaltrack.transfer.bundle.unpack import open_bundle  # noqa: PLC0415 - SQLAlchemy

    with open_bundle(file) as bundle:
        with ProgressView(f"check of {file}", unit="bytes") as view:
            bundle.verify(view)
        return _tell(bundle, as_json=as_json)


def _extract(file: str, folder: str, *, as_json: bool) -> ExitCode:
    from journaltrack.cli.progress import ProgressView  # noqa: PLC0415
    from journaltrack.transfer.bundle.unpack import open_bundle  # noqa: PLC0415 - SQLAlchemy

    with open_bundle(file) as bundle:
        with ProgressView(f"extract of {file}", unit="bytes") as view:
            made = bundle.extract(folder, view)
        return _tell(bundle, as_json=as_json, journal=str(made))


def _tell(bundle: Bundle, *, as_json: bool, journal: str | None = None) -> ExitCode:
    from journaltrack.journal.view import to_json  # noqa: PLC0415 - SQLAlchemy

    manifest = bundle.manifest
    damaged = tuple(manifest.damaged or ())
    code = ExitCode.PROBLEMS if damaged else ExitCode.OK
    if as_json:
        members: dict[str, Any] = to_json(manifest)
        where = {
            "bundle": str(bundle.path),
            "size_bytes": bundle.size_bytes,
            "manifest_sha256": bundle.manifest_sha256,
            "journal": journal,
        }
        output.print_json({**where, **members, "exit_code": int(code)})
        return code
    output.say(f"{output.clean(bundle.path)}: whole, {output.size(bundle.size_bytes)}")
    tables.fields(
        [
            ("journal", manifest.journal_id),
            (
                "made",
                (
                    f"{output.moment(manifest.created_at_ns)} on {manifest.host}, by journaltrack "
                    f"{manifest.package_version}"
                ),
            ),
            ("entries up to", manifest.last_seq),
            ("database", output.size(manifest.database_bytes)),
            (
                "artifacts",
                (
                    f"{output.plural(len(manifest.blobs), 'content')}, "
                    f"{output.size(sum(manifest.blobs.values()))}"
                ),
            ),
            ("left out, since delivered", len(manifest.left_out)),
            ("manifest", output.digest(bundle.manifest_sha256)),
        ],
        indent="  ",
    )
    _tell_harm(damaged)
    if journal is not None:
        output.say(f"{output.clean(journal)}: the journal; deliver it with `journaltrack sync`")
    return code


def _tell_harm(damaged: tuple[str, ...]) -> None:
    if damaged:
        some = ", ".join(damaged[:3]) + (", ..." if len(damaged) > 3 else "")  # noqa: PLR2004
        hint = (
            "`journaltrack check --repair --restore-from FOLDER` restores them from a folder "
            "that still has the files"
        )
        output.problem(
            "warning",
            f"{output.plural(len(damaged), 'artifact content')} missing from the bundle, or "
            f"damaged: {some}",
            hint,
        )
