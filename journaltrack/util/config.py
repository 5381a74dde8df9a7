"""Read the configuration: defaults, file, environment, arguments; hide what is secret in what is recorded.

Values that must not be kept: names that match a pattern have theirs replaced before anything is journaled.

Pure. One way: what is replaced is nowhere, neither in the journal nor in its log, and can't be had back.

Configuration: one small TOML file, environment variables over it, the command line over both.

Every key is a field of ``Configuration`` or, in the tables ``[watch]`` and ``[allow]``, of a class of their own; its type, bounds and meaning
are in the field's metadata, from which reading, ``journaltrack config`` and the documentation's table are made.

The file is the one that ``JOURNALTRACK_CONFIG`` names, else ``config.toml`` in the platform's folder for a user's
configuration. The variable of a key is ``JOURNALTRACK_<KEY>``, of one in a table ``JOURNALTRACK_<TABLE>_<KEY>``; an empty one
counts as unset; paths in one are separated as in ``PATH``, patterns by commas. Standard library alone: training processes import this.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from journaltrack.errors import InvalidInputError, InvalidTypeError
from journaltrack.util import paths

REDACTED: Final = "[redacted]"
"""What stands in the place of a value."""


def patterns(given: object) -> tuple[str, ...]:
    """What a caller passed as ``redact``, checked.

    Raises:
        InvalidTypeError: Not a list of text; a single text is refused, since its characters would be taken for patterns.
    """
    if given is None:
        return ()
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidTypeError(f'redact must be a list of patterns such as ["*token*"], not {type(given).__name__}')
    found = tuple(given)
    if not all(isinstance(each, str) for each in found):
        raise InvalidTypeError("redact must be a list of str")
    return found


class Redaction:
    """Whether a value is to be replaced, by its name.

    Args:
        wanted: Shell patterns; case does not matter.
    """

    def __init__(self, wanted: Iterable[str] = ()) -> None:
        self._patterns = tuple(dict.fromkeys(each.lower() for each in wanted if each))
        self._told: set[tuple[str, str]] = set()

    def matches(self, name: str) -> bool:
        """Whether the value of that name is to be replaced."""
        lower = name.lower()
        return any(fnmatch.fnmatchcase(lower, pattern) for pattern in self._patterns)

    def is_news(self, kind: str, name: str) -> bool:
        """Whether it was not asked for this name before: it is logged once."""
        if (kind, name) in self._told:
            return False
        self._told.add((kind, name))
        return True


WATCHING_ANCHOR_EVERY_S: Final = 60.0
"""Ours: a watcher anchors a journal that is written to no more often; one whose run ended at once."""
_ACCOUNT: Final = re.compile("[0-9]{12}")
_KMS_KEY: Final = re.compile("[!-~]+")
CONFIG_VARIABLE: Final = "JOURNALTRACK_CONFIG"
_PREFIX: Final = "JOURNALTRACK_"


def _text(default: str | None, meaning: str, *, choices: tuple[str, ...] = (), path: bool = False) -> Any:  # noqa: ANN401 - as dataclasses.field
    return field(default=default, metadata={"kind": "text", "meaning": meaning, "choices": choices, "path": path, "unit": ""})


def _number(
    default: float, meaning: str, *, unit: str = "seconds", least: float = 0.0, most: float = float("inf"), zero: bool = False
) -> Any:  # noqa: ANN401
    kind = "integer" if isinstance(default, int) else "number"
    return field(default=default, metadata={"kind": kind, "meaning": meaning, "unit": unit, "least": least, "most": most, "zero": zero})


def _patterns(meaning: str) -> Any:  # noqa: ANN401
    return field(default=(), metadata={"kind": "patterns", "meaning": meaning, "unit": ""})


def _switch(meaning: str, *, default: bool) -> Any:  # noqa: ANN401
    return field(default=default, metadata={"kind": "switch", "meaning": meaning, "unit": "", "choices": ("true", "false")})


@dataclass(frozen=True, slots=True)
class Storage:
    """How a store is to keep objects, and on whose account.

    Attributes:
        encryption: ``"AES256"``, ``"aws:kms"`` or ``"aws:kms:dsse"``; None: as the bucket has it.
        kms_key: Id, ARN or alias of the key; without an encryption that is ``"aws:kms"``.
        bucket_owner: Account that every named bucket must belong to; None: any. A default bucket
            must be the caller's in any case.
        requester_pays: Whether requests are on the caller's account.
        instead: Buckets that turned out wrong ('' is the default one, whatever its name), and which to use in their place.
    """

    encryption: str | None = None
    kms_key: str | None = None
    bucket_owner: str | None = None
    requester_pays: bool = False
    instead: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WatchConfiguration:
    """The table ``[watch]``: how ``journaltrack watch`` and ``sync="background"`` go about it."""

    folders: tuple[str, ...] = field(
        default=(), metadata={"kind": "paths", "meaning": "journals, or folders of journals; none: the default journal", "unit": ""}
    )
    debounce_s: float = _number(0.3, "after a write, how long to wait for more before a pass")
    poll_s: float = _number(5.0, "how often to look where no event tells (network file systems), and beside the events")
    settle_s: float = _number(5.0, "how long a journal that appears must stay unchanged to count as whole")
    journals_at_a_time: int = _number(4, "passes side by side", unit="journals", least=1, most=64)
    probe_first_s: float = _number(1.0, "first delay to a probe after the endpoint was found down; doubles")
    probe_max_s: float = _number(30.0, "longest delay between probes: what waits goes out within it after the endpoint is back")
    retry_first_s: float = _number(
        5.0, "first delay after a journal's own trouble (a held component, a bucket without permission); doubles"
    )
    retry_max_s: float = _number(300.0, "longest of these delays")
    stop_deadline_s: float = _number(20.0, "after SIGTERM: how long answers to requests in flight are awaited")
    health_file: str | None = _text(None, "where the state is written as JSON; none: watchers/ in JOURNALTRACK_HOME", path=True)
    metrics_file: str | None = _text(None, "where the state is written for Prometheus's textfile collector; none: nowhere", path=True)


@dataclass(frozen=True, slots=True)
class AllowConfiguration:
    """The table ``[allow]``: what journals may have delivered with the credentials of whoever syncs them. By default everything."""

    buckets: tuple[str, ...] = _patterns("buckets that artifacts may go to, beside the default one; none named: any")
    prefixes: tuple[str, ...] = _patterns("folders in them, with all that is below; none named: any")
    components: tuple[str, ...] = _patterns("trial components that may be made or written to; none named: any")
    experiments: tuple[str, ...] = _patterns("experiments and trials that components may be put into; none named: any")
    create_buckets: bool = _switch("whether a bucket that is missing is made", default=True)
    create_experiments: bool = _switch("whether an experiment or trial that is missing is made", default=True)
    artifact_bytes_max: int = _number(0, "how large an artifact may be; a larger one is quarantined; 0: no limit", unit="bytes", zero=True)
    journal_bytes_max: int = _number(
        0, "how large a journal's database may be; a larger one is not delivered; 0: no limit", unit="bytes", zero=True
    )


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that can be configured."""

    journal: str | None = _text(
        None, "the default journal's folder; none: journal in JOURNALTRACK_HOME or the user's data folder", path=True
    )
    sync: str = _text("close", "when a tracker replays", choices=("close", "background", "off"))
    durability: str = _text("process", "what a returned call survives: a kill, or also loss of power", choices=("process", "power"))
    close_deadline_s: float = _number(10.0, "how long a tracker's close may replay")
    lookup_deadline_s: float = _number(3.0, "how long Tracker.load may ask for a name that the journal does not know")
    concurrency: int = _number(96, "requests in flight for one journal", unit="requests", least=1, most=256)
    requests_per_s: float = _number(
        0.0, "requests at most, for all journals of a process together; 0: no limit", unit="per second", zero=True
    )
    timestamps: str = _text(
        "keep",
        "metrics older than 14 days or over 2 hours ahead: send as they are, or with the time of delivery (the journal keeps the original)",
        choices=("keep", "shift"),
    )
    visible_after_s: float = _number(
        900.0, "how long after a first reading metrics without an answer count as not arrived, when a second one does not show them either"
    )
    anchor: str = _text(
        "artifacts",
        "where a sync puts the heads of the journal's chains, so that a cut off end is found: into S3 beside the artifacts, once there are some; "
        "into S3 always; into a parameter of each component; both of the first and that; nowhere",
        choices=("artifacts", "s3", "parameter", "both", "off"),
    )
    end_interrupted: bool = _switch(
        "whether a sync ends runs whose processes are proven dead, as Stopped with the time of their last entry", default=True
    )
    sigterm: str = _text(
        "default",
        "what SIGTERM does inside a tracker's `with` block: what it does without one, or end the block, and the run as Stopped",
        choices=("default", "stop"),
    )
    redact: tuple[str, ...] = _patterns(
        "names of parameters, inputs and outputs whose values are never recorded: shell patterns such as *token*"
    )
    spool_max_bytes: int = _number(
        0,
        "how large the spool may grow: beyond it delivered artifacts leave it, the oldest first, then log_artifact raises; 0: no limit",
        unit="bytes",
        zero=True,
    )
    profile: str | None = _text(None, "profile of the AWS configuration")
    region: str | None = _text(None, "AWS region")
    endpoint_url: str | None = _text(None, "one endpoint for all services, instead of AWS's")
    s3_encryption: str | None = _text(
        None,
        "server-side encryption of uploads; none: as the bucket has it, or with s3_kms_key aws:kms",
        choices=("AES256", "aws:kms", "aws:kms:dsse"),
    )
    s3_kms_key: str | None = _text(None, "id, ARN or alias of the KMS key for uploads")
    s3_bucket_owner: str | None = _text(
        None, "account (12 digits) that the buckets must belong to; the default bucket must be the caller's in any case"
    )
    s3_requests_paid_by: str = _text("owner", "who pays for requests to the buckets", choices=("owner", "requester"))
    watch: WatchConfiguration = field(default_factory=WatchConfiguration)
    allow: AllowConfiguration = field(default_factory=AllowConfiguration)

    def storage(self) -> Storage:
        """What is configured of buckets."""
        requester_pays = self.s3_requests_paid_by == "requester"
        return Storage(self.s3_encryption, self.s3_kms_key, self.s3_bucket_owner, requester_pays)

    def of_a_connection(self) -> dict[str, Any]:
        """What is configured of ``composition.Connection``, by its names, but for the rate."""
        known = {name: getattr(self, name) for name in ("profile", "region", "endpoint_url")}
        return {**known, "storage": self.storage(), "allow": self.allow}

    def of_a_pass(self, *, watching: bool = False) -> dict[str, Any]:
        """What is configured of ``reconciler.Options``, by its names; a watcher makes a pass whenever something is written."""
        options = {name: getattr(self, name) for name in ("concurrency", "timestamps", "visible_after_s", "anchor", "end_interrupted")}
        return {**options, "anchor_every_s": WATCHING_ANCHOR_EVERY_S if watching else 0.0}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and where each value comes from.

    Attributes:
        configuration: In force.
        origins: By key ("watch.debounce_s"): "default", a file's path, a variable's name, or "command line".
        path: The file that was read; None: there is none.
    """

    configuration: Configuration
    origins: Mapping[str, str]
    path: Path | None


@dataclass(frozen=True, slots=True)
class Setting:
    """One key, as ``journaltrack config`` and the documentation show it."""

    key: str
    variable: str
    default: Any
    unit: str
    meaning: str
    choices: tuple[str, ...]


def settings() -> list[Setting]:
    """All keys, in the order of the file."""
    return [
        Setting(key, _variable(key), each.default, each.metadata["unit"], each.metadata["meaning"], each.metadata.get("choices", ()))
        for key, each in _FIELDS.items()
    ]


def value_of(configuration: Configuration, key: str) -> Any:  # noqa: ANN401 - of the key's type
    """The value of a key such as "watch.debounce_s"."""
    table, _, name = key.rpartition(".")
    return getattr(getattr(configuration, table) if table else configuration, name)


def default_file() -> Path | None:
    """Where the file is when none is named; None: nowhere, since there is no home folder."""
    if not paths.has_home("XDG_CONFIG_HOME"):
        return None
    import platformdirs  # noqa: PLC0415 - only when nothing is named

    return Path(platformdirs.user_config_dir("journaltrack", appauthor=False)) / "config.toml"


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    origin: str = "command line",
) -> Loaded:
    """The configuration in force.

    Args:
        path: The file; None: see the module. A file that is named, here or by the variable, must exist.
        environ: Environment variables; None: the process's.
        overrides: Values by key, which come before all others; None as a value counts as not given.
        origin: Where those were given.

    Raises:
        InvalidInputError: A file that can't be read, an unknown key, or a value that can't be right; the message says where.
    """
    environ = os.environ if environ is None else environ
    file, values = _from_file(path, environ)
    origins: dict[str, str] = dict.fromkeys(_FIELDS, "default")
    origins.update(dict.fromkeys(values, str(file)))
    for key, each in _FIELDS.items():
        text = environ.get(_variable(key), "")
        if text:
            values[key] = _checked(key, each, _parsed(each, text), _variable(key))
            origins[key] = _variable(key)
    for key, value in (overrides or {}).items():
        if value is not None:
            values[key] = _checked(key, _field(key, f"the {origin}"), value, f"the {origin}")
            origins[key] = origin
    tables = {
        table: made(**{key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{table}.")})
        for table, made in _TABLES.items()
    }
    rest = {key: value for key, value in values.items() if "." not in key}
    made = Configuration(**rest, **tables)
    _check_storage(made, origins)
    return Loaded(made, origins, file)


def current() -> Configuration:
    """The configuration in force, read again only when the file or the environment changed.

    Raises:
        InvalidInputError: See ``load``.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    file = paths.expanded(named) if named else default_file()
    stamp: object = None
    with contextlib.suppress(OSError):
        found = None if file is None else file.stat()
        stamp = found and (found.st_mtime_ns, found.st_size, found.st_ino)
    key = (str(file), stamp, tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith(_PREFIX))))
    if _current.get("key") != key:
        _current.update(configuration=load().configuration, key=key)
    known: Configuration = _current["configuration"]
    return known


def as_overrides(configuration: Configuration) -> dict[str, Any]:
    """Return every value by key, as ``load`` takes them as ``overrides``: for another process, which may find another file."""
    values = {key: value_of(configuration, key) for key in _FIELDS}
    return {key: "" if value is None else value for key, value in values.items()}


def example() -> str:
    """A file with all defaults, commented."""
    lines: list[str] = ["# journaltrack's configuration. Every line is the default; take away the # to change it."]
    table = ""
    for setting in settings():
        of, _, name = setting.key.rpartition(".")
        if of != table:
            lines += ["", f"[{of}]"]
            table = of
        unit = f" ({setting.unit})" if setting.unit else ""
        choices = f" [{', '.join(setting.choices)}]" if setting.choices else ""
        shown = _toml(setting.default)
        lines += ["", f"# {setting.meaning}{unit}{choices}", f"#{name} = {shown}" if setting.default is None else f"{name} = {shown}"]
    return "\n".join(lines) + "\n"


# -- inside -----------------------------------------------------------------------------------------------------------

_TABLES: Final[Mapping[str, Any]] = {"watch": WatchConfiguration, "allow": AllowConfiguration}
_FIELDS: Final[Mapping[str, Field[Any]]] = {
    **{each.name: each for each in fields(Configuration) if each.name not in _TABLES},
    **{f"{table}.{each.name}": each for table, made in _TABLES.items() for each in fields(made)},
}
_current: dict[str, Any] = {}


def _check_storage(made: Configuration, origins: Mapping[str, str]) -> None:
    """Refuse what S3 would refuse of every upload."""
    owner = made.s3_bucket_owner
    if owner is not None and not _ACCOUNT.fullmatch(owner):
        raise _wrong("s3_bucket_owner", owner, origins["s3_bucket_owner"], "an account's number of 12 digits")
    if made.s3_kms_key is not None and not _KMS_KEY.fullmatch(made.s3_kms_key):
        wanted = "a key's id, ARN or alias: ASCII without spaces"
        raise _wrong("s3_kms_key", made.s3_kms_key, origins["s3_kms_key"], wanted)
    if made.s3_kms_key is not None and made.s3_encryption == "AES256":
        wanted = "aws:kms or aws:kms:dsse, since s3_kms_key names a key"
        raise _wrong("s3_encryption", "AES256", origins["s3_encryption"], wanted)


def _variable(key: str) -> str:
    return _PREFIX + key.replace(".", "_").upper()


def _toml(value: Any) -> str:  # noqa: ANN401
    if value is None:
        return '""'
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool):
        return str(value).lower()
    return "[]" if isinstance(value, tuple) else str(value)


def _field(key: str, where: str) -> Field[Any]:
    found = _FIELDS.get(key)
    if found is None:
        near = difflib.get_close_matches(key, list(_FIELDS), n=1)
        raise InvalidInputError(
            f"{key!r} in {where} is no key of the configuration",
            hint=f"perhaps {near[0]}" if near else "`journaltrack config` lists the keys",
        )
    return found


def _from_file(path: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> tuple[Path | None, dict[str, Any]]:
    named = path if path is not None else environ.get(CONFIG_VARIABLE) or None
    file = paths.expanded(named).absolute() if named is not None else default_file()
    if file is None:
        return None, {}
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        if named is None:
            return None, {}
        raise InvalidInputError(f"there is no configuration file {file}", hint=f"check --config or {CONFIG_VARIABLE}") from None
    except OSError as error:
        raise InvalidInputError(f"the configuration {file} can't be read: {error.strerror}", hint="check its permissions") from error
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - only when there is a file
    else:
        import tomli as tomllib  # noqa: PLC0415
    try:
        tree = tomllib.loads(content.decode())
    except ValueError as error:  # also bytes that are not UTF-8
        raise InvalidInputError(
            f"{file} is not TOML: {error}", hint="`journaltrack config --example` prints a file to start from"
        ) from error
    values: dict[str, Any] = {}
    for key, value in _flat(tree, file):
        values[key] = _checked(key, _field(key, str(file)), value, str(file), base=file.parent)
    return file, values


def _flat(tree: Mapping[str, Any], file: Path) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if name in _TABLES:
            if not isinstance(value, dict):
                raise InvalidInputError(f"{name} in {file} must be a table", hint=f"write [{name}] on a line of its own")
            flat += [(f"{name}.{inner}", each) for inner, each in value.items()]
        else:
            flat.append((name, value))
    return flat


def _parsed(each: Field[Any], text: str) -> Any:  # noqa: ANN401 - what TOML would have made of it
    kind = each.metadata["kind"]
    parsers: dict[str, Callable[[str], Any]] = {
        "integer": int,
        "number": float,
        "paths": lambda t: t.split(os.pathsep),
        "patterns": lambda t: t.split(","),
        "switch": lambda t: {"true": True, "false": False}.get(t.lower(), t),
    }
    try:
        return parsers.get(kind, str)(text)
    except ValueError:
        return text  # refused with the right words by the check


def _checked(key: str, each: Field[Any], value: Any, where: str, *, base: Path | None = None) -> Any:  # noqa: ANN401
    metadata = each.metadata
    if metadata["kind"] in {"patterns", "paths"}:
        return _checked_list(key, metadata["kind"], value, where, base)
    if metadata["kind"] == "switch":
        if not isinstance(value, bool):
            raise _wrong(key, value, where, "true or false")
        return value
    if metadata["kind"] == "text":
        return _checked_text(key, each, value, where, base)
    whole = metadata["kind"] == "integer"
    wanted = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or value != value:  # noqa: PLR0124 - NaN
        raise _wrong(key, value, where, wanted)
    least, most, unit = metadata["least"], metadata["most"], metadata["unit"]
    if value < least or value > most or value == float("inf") or (value == 0 and not metadata["zero"]):
        bounds = f"from {least} to {most}" if most != float("inf") else "0 or more" if metadata["zero"] else "more than 0"
        raise _wrong(key, value, where, f"{wanted} of {unit}, {bounds}")
    return value if whole else float(value)


def _checked_text(key: str, each: Field[Any], value: object, where: str, base: Path | None) -> str | None:
    choices = each.metadata["choices"]
    if not isinstance(value, str):
        raise _wrong(key, value, where, "text")
    if not value and (not choices or each.default is None):
        return None if each.default is None else str(each.default)
    if choices and value not in choices:
        raise _wrong(key, value, where, "one of " + ", ".join(choices))
    return _absolute(value, base) if each.metadata["path"] else value


def _checked_list(key: str, kind: str, value: object, where: str, base: Path | None) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise _wrong(key, value, where, f"a list of {kind}")
    if kind == "patterns":
        return tuple(each.strip() for each in value if each.strip())
    return tuple(_absolute(each, base) for each in value if each)


def _absolute(path: str, base: Path | None) -> str:
    expanded = paths.expanded(path)
    return str(expanded if base is None else base / expanded)


def _wrong(key: str, value: object, where: str, wanted: str) -> InvalidInputError:
    return InvalidInputError(f"{key} in {where} is {value!r}; it must be {wanted}", hint="`journaltrack config --example` shows all keys")
