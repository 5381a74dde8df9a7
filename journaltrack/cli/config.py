"""Implement ``journaltrack config``: show each value and its origin."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from journaltrack.cli import common, output, tables
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.util.text import without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from journaltrack.util.config import Loaded, Setting

    _Rows = Sequence[tuple[Setting, Any, str]]


@click.command(
    epilog="\b\nExamples:\n  journaltrack config\n  JOURNALTRACK_WATCH_DEBOUNCE_S=30 "
    "journaltrack config --json\n"
    "  journaltrack config --example > ~/.config/journaltrack/config.toml"
)
@common.config_option
@click.option(
    "--example", is_flag=True, help="Print a file with all keys and their defaults instead."
)
@common.common_options
def command(config_file: str | None, *, example: bool, as_json: bool) -> ExitCode:
    """Show the journal, the region and all settings in force, with their origins.

    The file is the one named by --config or JOURNALTRACK_CONFIG, else config.toml in your
    configuration folder. Environment variables (JOURNALTRACK_<KEY>, JOURNALTRACK_WATCH_<KEY>)
    override the file. Options of a command override both.
    """
    from journaltrack.util import config  # noqa: PLC0415 - shell completion imports this module

    if example and as_json:
        raise click.UsageError("--example prints TOML: leave out --json")
    if example:
        output.say(_example(config.settings()).rstrip("\n"))
        return ExitCode.OK
    loaded = config.load(config_file)
    rows = [
        (
            setting,
            _without_secrets(config.value_of(loaded.configuration, setting.key)),
            loaded.origins[setting.key],
        )
        for setting in config.settings()
    ]
    in_force = {"journal": _journal(loaded), "region": _region(loaded)}
    (_print_json if as_json else _print)(loaded, rows, in_force)
    return ExitCode.OK


def _print_json(loaded: Loaded, rows: _Rows, in_force: Mapping[str, tuple[Any, str]]) -> None:
    from journaltrack.util import config  # noqa: PLC0415 - completion

    listed = [
        {
            "key": s.key,
            "value": value,
            "unit": s.unit or None,
            "from": origin,
            "variable": s.variable,
            "meaning": s.meaning,
        }
        for s, value, origin in rows
    ]
    output.print_json(
        {
            "file": loaded.path and str(loaded.path),
            "in_force": {
                name: {"value": value, "from": origin} for name, (value, origin) in in_force.items()
            },
            "settings": listed,
            "destinations": [
                {"name": each.name, **each.mark} for each in loaded.configuration.destinations
            ],
            "unknown_variables": [each.name for each in config.unknown_variables()],
            "exit_code": int(ExitCode.OK),
        }
    )


def _print(loaded: Loaded, rows: _Rows, in_force: Mapping[str, tuple[Any, str]]) -> None:
    from journaltrack.util import config  # noqa: PLC0415 - completion

    place = config.default_file()
    if loaded.path:
        where = str(loaded.path)
    elif place:
        where = f"none ({place} does not exist)"
    else:
        where = "none (there is no home folder)"
    tables.fields(
        [
            ("file", where),
            *((name, _with_origin(*each)) for name, each in in_force.items()),
            *((f"to {d.name}", d.mark["uri"]) for d in loaded.configuration.destinations),
        ]
    )
    tables.table(
        "settings",
        ("key", "value", "from"),
        [(s.key, _shown(value), origin) for s, value, origin in rows],
    )


def _example(settings: Sequence[Setting]) -> str:
    """Return a file with all defaults and their meanings as comments."""
    lines: list[str] = [
        "# journaltrack's configuration with all defaults. Remove the # to set a key."
    ]
    table = ""
    for setting in settings:
        of, _, name = setting.key.rpartition(".")
        if of != table:
            lines += ["", f"[{of}]"]
            table = of
        unit = f" ({setting.unit})" if setting.unit else ""
        choices = f" [{', '.join(setting.choices)}]" if setting.choices else ""
        mark = "#" if setting.default is None else ""
        lines += ["", f"# {setting.meaning}{unit}{choices}"]
        lines += [f"{mark}{name} = {_toml(setting.default)}"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:  # noqa: ANN401
    if value is None:
        return '""'
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool):
        return str(value).lower()
    return "[]" if isinstance(value, tuple) else str(value)


def _journal(loaded: Loaded) -> tuple[str | None, str]:
    """Return the default journal's folder, and what names it."""
    from journaltrack.errors import InvalidInputError  # noqa: PLC0415
    from journaltrack.util import paths  # noqa: PLC0415 - as above

    named = loaded.configuration.journal
    if named is not None:
        return str(paths.expanded(named)), loaded.origins["journal"]
    try:
        found = paths.own_journal(mirrored=loaded.configuration.mirror is not None)
        if not found.is_relative_to(paths.home()):
            return str(found), "mirror: the home is on a network file system"
        origin = "JOURNALTRACK_HOME" if os.environ.get("JOURNALTRACK_HOME") else "default"
        return str(found), origin
    except InvalidInputError:
        return None, "nothing: there is no home folder"


def _region(loaded: Loaded) -> tuple[str | None, str]:
    """Return the region that requests go to, and what names it."""
    from journaltrack.app.connection import configured_region  # noqa: PLC0415 - boto3

    if loaded.configuration.region is not None:
        return loaded.configuration.region, loaded.origins["region"]
    return configured_region(loaded.configuration.profile) or (
        None,
        "nothing: name one with --region, AWS_REGION, or `aws configure`",
    )


def _with_origin(value: str | None, origin: str) -> str:
    return f"{value or '-'} (from {origin})"


def _without_secrets(value: object) -> object:
    """Hide the password in a configured URL."""
    return without_secrets(value) if isinstance(value, str) else value


def _shown(value: object) -> str | None:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or None
    return None if value is None else str(value)
