"""``journaltrack config``: what is in force, and where each value comes from."""

from __future__ import annotations

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode
from journaltrack.util.text import without_secrets


@click.command(
    epilog="\b\nExamples:\n  journaltrack config\n  JOURNALTRACK_WATCH_DEBOUNCE_S=30 journaltrack config --json\n"
    "  journaltrack config --example > ~/.config/journaltrack/config.toml"
)
@common.config_option
@click.option("--example", is_flag=True, help="Print a file with all keys and their defaults instead.")
@common.common_options
def command(config_file: str | None, *, example: bool, as_json: bool) -> ExitCode:
    """The configuration in force: every key, its value, and where that comes from.

    The file is the one named by --config or JOURNALTRACK_CONFIG, else config.toml in the user's configuration folder.
    Environment variables (JOURNALTRACK_<KEY>, JOURNALTRACK_WATCH_<KEY>) come before the file, options of a command before both.
    """
    from journaltrack.util import config  # noqa: PLC0415 - shell completion imports this module

    if example:
        output.say(config.example().rstrip("\n"))
        return ExitCode.OK
    loaded = config.load(config_file)
    rows = [
        (setting, _without_secrets(config.value_of(loaded.configuration, setting.key)), loaded.origins[setting.key])
        for setting in config.settings()
    ]
    if as_json:
        listed = [
            {"key": s.key, "value": value, "unit": s.unit or None, "from": origin, "variable": s.variable, "meaning": s.meaning}
            for s, value, origin in rows
        ]
        output.print_json({"file": loaded.path and str(loaded.path), "settings": listed, "exit_code": int(ExitCode.OK)})
        return ExitCode.OK
    place = config.default_file()
    where = str(loaded.path) if loaded.path else f"none ({place} does not exist)" if place else "none (there is no home folder)"
    output.say(f"file  {output.clean(where)}")
    output.table("settings", ("key", "value", "from"), [(s.key, _shown(value), origin) for s, value, origin in rows])
    return ExitCode.OK


def _without_secrets(value: object) -> object:
    """A value whose URL has a password in it may be configured, and is not shown."""
    return without_secrets(value) if isinstance(value, str) else value


def _shown(value: object) -> str | None:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or None
    return None if value is None else str(value)
