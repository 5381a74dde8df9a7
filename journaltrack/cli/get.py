"""Implement ``journaltrack get``: artifacts out of a journal, as files."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from journaltrack import limits
from journaltrack.cli import common, output, tables, viewing
from journaltrack.cli.exit_codes import ExitCode, exit_code_of, report_error
from journaltrack.cli.journals import arguments_and_journals, in_place_of_mirrors
from journaltrack.errors import (
    ArtifactError,
    InvalidInputError,
    JournaltrackError,
    NothingMatchesError,
)
from journaltrack.util import paths, patterns

if TYPE_CHECKING:
    from typing import IO

    from journaltrack.readmodel.artifacts import Artifact
    from journaltrack.readmodel.run import Run

_STDOUT: Final = "-"
_PART_BYTES_MAX: Final = 200
"""Ours: of a file's name. Most file systems take 255 bytes."""


@click.command(
    epilog="\b\nExamples:\n  journaltrack get digits-1\n  journaltrack get digits-1 model.json\n"
    "  journaltrack get digits-1 'plots/*' -o plots/\n"
    "  journaltrack get digits-1 confusion.json -o - | jq .\n"
    "  journaltrack get digits-1 --all -o digits-1/ -j /mnt/usb/journal"
)
@arguments_and_journals(
    # A file that was got before is no journal: only -j names one.
    lambda arguments, options: {"names": arguments, "named": in_place_of_mirrors(options)},
    "A journal, a folder of journals, or a bundle; may be repeated.",
    metavar="RUN [ARTIFACT]...",
    shell_complete=common.complete_component,
)
@click.option(
    "-o",
    "--output",
    "target",
    metavar="PATH",
    type=click.Path(),
    help="The file to write, or a folder (with a slash at its end, or there already); - for stdout."
    "  [default: the artifact's name; with --all, a folder of the run's name]",
)
@click.option("--all", "every", is_flag=True, help="All artifacts, and all steps of each.")
@click.option(
    "--step", metavar="N", type=common.Whole(0), help="The content of this step, not the last one."
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
@common.common_options
def command(
    names: Sequence[str],
    named: Sequence[str],
    *,
    target: str | None,
    every: bool,
    step: int | None,
    force: bool,
    as_json: bool,
) -> ExitCode:
    """Copy artifacts of a RUN out of its journal; without an ARTIFACT, list them.

    An ARTIFACT is a name, a shell pattern in quotes, or the beginning of a SHA-256. Each file is
    whole, and has the digest that was recorded, or is not written. The command uses no network and
    changes no journal.
    """
    if not names:
        raise click.UsageError("name a run; `journaltrack runs` lists them")
    if target == _STDOUT and as_json:
        raise click.UsageError("--json needs stdout for itself: name a file with -o")
    codes: list[ExitCode] = []
    with viewing.looking_at(named, codes) as model:
        runs = model.find(names[:1])
        if len(runs) > 1:
            raise NothingMatchesError(
                f"{len(runs)} runs fit {limits.shown(names[0])}; nothing was written",
                hint=viewing.one_of(runs),
            )
        run = runs[0]
        if not names[1:] and not every:
            _list(run, as_json=as_json)
            return viewing.code_of(codes)
        chosen = _chosen(run, names[1:], every=every, step=step)
        if target == _STDOUT:
            _to_stdout(chosen)
            return viewing.code_of(codes)
        folder = str(safe(run.name)) + "/" if target is None and every else target
        placed = _placed(chosen, folder, many=every)
        done = _write(placed, codes, force=force, as_json=as_json)
    code = viewing.code_of(codes)
    if as_json:
        output.print_json({"run": run.name, "files": done, "exit_code": int(code)})
    return code


def _list(run: Run, *, as_json: bool) -> None:
    if as_json:
        told = [each.to_json() for each in run.artifacts]
        output.print_json({"run": run.name, "artifacts": told, "exit_code": int(ExitCode.OK)})
        return
    if not run.artifacts:
        output.say(f"{output.clean(run.label)} has no artifacts")
        return
    rows = [
        (
            each.name,
            each.step,
            each.kind or each.media_type,
            None if each.size_bytes is None else output.size(each.size_bytes),
            each.sha256 and output.digest(each.sha256),
            each.value or ("in the journal" if each.file else "not in the journal"),
        )
        for each in run.artifacts
    ]
    tables.listing(
        ("name", "step", "type", "size", "sha256", "where"),
        frozenset({"step"}),
        rows,
        "",
        texts=frozenset({"name", "where"}),
        spare=("type", "sha256"),
    )


def _chosen(run: Run, names: Sequence[str], *, every: bool, step: int | None) -> list[Artifact]:
    """Return what to write: of an artifact with steps, the last one unless others are asked for.

    Raises:
        NothingMatchesError: A name fits nothing.
    """
    found: dict[Artifact, None] = {}
    for name in names or ["*"]:
        fitting = [each for each in run.artifacts if name == each.name] or [
            each
            for each in run.artifacts
            if patterns.fits(each.name, name) or _begins(each.sha256, name)
        ]
        if not fitting:
            known = list(dict.fromkeys(each.name for each in run.artifacts))
            raise NothingMatchesError(
                f"{run.label} has no artifact {limits.shown(name)}",
                hint=patterns.hint(name, known),
            )
        contents = [each for each in fitting if each.sha256 is not None]
        if not contents:
            # Raises, and says what the reference refers to.
            fitting[0].read()
        found |= dict.fromkeys(contents)
    chosen = list(found)
    if step is not None:
        chosen = [each for each in chosen if each.step == step]
        if not chosen:
            known_steps = sorted({each.step for each in found if each.step is not None})
            raise NothingMatchesError(
                f"nothing of these was logged at step {step}",
                hint=f"steps: {patterns.some([str(each) for each in known_steps]) or 'none'}",
            )
    elif not every:
        last = {(each.name, each.direction): each for each in chosen if each.step is not None}
        chosen = [e for e in chosen if e.step is None or e is last[e.name, e.direction]]
    return chosen


def _begins(sha256: str | None, name: str) -> bool:
    """Return whether a name is the beginning of a digest, long enough to be meant so."""
    is_meant = re.fullmatch("[0-9a-f]{8,64}", name) is not None
    return is_meant and sha256 is not None and sha256.startswith(name)


def _to_stdout(chosen: Sequence[Artifact]) -> None:
    if len(chosen) != 1:
        raise click.UsageError(
            f"{len(chosen)} artifacts fit, and stdout takes one; name a folder with -o"
        )
    if output.on_terminal() and chosen[0].preview(0).kind in {"image", "none"}:
        raise click.UsageError("this is no text, and stdout is a terminal; name a file with -o")
    if output.on_terminal():
        for line in chosen[0].read().decode("utf-8", "replace").splitlines():
            output.say(output.clean(line))
        return
    chosen[0].save(cast("IO[bytes]", output.Bytes()))
    sys.stdout.flush()


def _placed(
    chosen: Sequence[Artifact], target: str | None, *, many: bool
) -> list[tuple[Artifact, Path]]:
    """Return where each artifact goes.

    Raises:
        InvalidInputError: Two would have one place. Nothing was written.
    """
    from journaltrack.journal.contents import at_step  # noqa: PLC0415 - completion

    folder = None if target is None else paths.expanded(target).absolute()
    is_folder = many or folder is None or str(target).endswith("/") or folder.is_dir()
    if folder is not None and len(chosen) == 1 and not is_folder:
        return [(chosen[0], folder)]
    base = Path.cwd() if folder is None else folder
    placed: dict[Path, Artifact] = {}
    counts = Counter(each.name for each in chosen)
    for each in chosen:
        is_one_of_many = counts[each.name] > 1
        name = at_step(each.name, each.step) if is_one_of_many else each.name
        if is_one_of_many and each.step is None:
            # An input and an output, or git's diffs.
            stem, dot, suffix = name.rpartition(".")
            name = f"{stem or suffix}-{str(each.sha256)[:8]}{dot}{suffix if stem else ''}"
        place = base / safe(name)
        if place in placed and placed[place].sha256 != each.sha256:
            raise InvalidInputError(
                f"{output.clean(placed[place].name)} and {output.clean(each.name)} would both be "
                f"{output.clean(place)}; nothing was written",
                hint="get them one by one, each with -o FILE",
            )
        placed[place] = each
    return [(each, place) for place, each in placed.items()]


def safe(name: str) -> Path:
    """Return a relative path that a name stands for: it leads nowhere else, and can be printed.

    No file is hidden, or among those that a program reads by itself, such as ``.bashrc``.
    """
    parts = [re.sub(r"[\x00-\x1f\x7f\\]", "_", part) for part in name.split("/")]
    kept = [
        part.encode(errors="replace")[:_PART_BYTES_MAX].decode(errors="ignore")
        for part in parts
        if part.strip(". ")
    ]
    if kept and kept[0].startswith("."):
        kept[0] = f"_{kept[0]}"
    return Path(*(kept or ["artifact"]))


def _write(
    placed: Iterable[tuple[Artifact, Path]], codes: list[ExitCode], *, force: bool, as_json: bool
) -> list[dict[str, Any]]:
    """Write the files. What can't be is told, and keeps no other back."""
    done = []
    for each, place in placed:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            each.save(place, force=force)
        except (JournaltrackError, OSError) as error:
            is_missing = isinstance(error, ArtifactError)
            codes.append(ExitCode.PROBLEMS if is_missing else exit_code_of(error))
            report_error(error, verbose=common.is_verbose())
            continue
        done.append({**each.to_json(), "file": str(place)})
        if not as_json:
            size = output.size(place.stat().st_size)
            output.say(f"{output.clean(place)}: {size}, sha256 {output.digest(each.sha256)}")
    return done
