"""Read the configuration.

The configuration is one small TOML file. Environment variables override it, the command line
overrides both. Every key is a field of ``Configuration`` or, in the tables ``[watch]``,
``[allow]`` and ``[system]``, of a class of their own. Its ``Key`` holds type, bounds and
meaning. Reading, ``journaltrack config`` and the documentation's table use them.

The file is the one that ``JOURNALTRACK_CONFIG`` names, else ``config.toml`` in the platform's
folder for a user's configuration. A key's variable is ``JOURNALTRACK_<KEY>``, or
``JOURNALTRACK_<TABLE>_<KEY>`` in a table. An empty variable counts as unset. Paths in a variable
are separated as in ``PATH``, patterns by commas.

Training processes import this module, so at import it needs only the standard library.
"""

from __future__ import annotations

import contextlib
import fnmatch
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.util import paths, patterns

WATCHING_ANCHOR_EVERY_S: Final = 60.0
"""Ours: how often a watcher anchors a journal while it is written to.

A journal whose run has ended is anchored at once.
"""
DESTINATION_NAME: Final = re.compile("[a-z0-9][a-z0-9_-]{0,62}")
"""A destination's name is a folder's, too."""
_MAY_BE_NONE: Final = frozenset({"profile", "endpoint_url"})
_ACCOUNT: Final = re.compile("[0-9]{12}")
_KMS_KEY: Final = re.compile("[!-~]+")
_SWITCHES: Final = {"true": True, "on": True, "false": False, "off": False}
"""The texts of a switch in a variable."""
ANCHORS: Final = "journaltrack-anchors"
"""The folder of all journals' anchors in a bucket."""
CONFIG_VARIABLE: Final = "JOURNALTRACK_CONFIG"
RUN_VARIABLE: Final = "JOURNALTRACK_RUN"
"""Names the run of a script that ``journaltrack run`` started."""
RUN_JOB_VARIABLE: Final = "JOURNALTRACK_RUN_JOB"
"""Tells in which Slurm job that was."""
_OTHER_VARIABLES: Final = (CONFIG_VARIABLE, RUN_VARIABLE, RUN_JOB_VARIABLE, "JOURNALTRACK_HOME")
"""Variables that stand for no key."""
_PREFIX: Final = "JOURNALTRACK_"
_LISTED: Final = "`journaltrack config --json` lists all variables"
SAGEMAKER: Final = "sagemaker"
"""The name of the destination that is always there."""
_ADDRESS: Final = re.compile("(?i:https?)://|arn:")
_USERINFO: Final = re.compile("//[^/@]*@")
_current: dict[str, Any] = {}
_told: set[str] = set()
"""Unknown variables that this process has warned about."""

logger = logging.getLogger(__name__)


class Key(NamedTuple):
    """What a key of the configuration may be, and what it means.

    Attributes:
        default: Its value where nobody sets it.
        kind: ``text``, ``number``, ``integer``, ``switch``, ``paths`` or ``patterns``.
        meaning: For people.
        unit: Of a number.
        choices: All that it may be; () if that is no list.
        path: Whether a text is a path.
        least: Of a number.
        most: Of a number.
        zero: Whether a number may be 0.
    """

    default: Any
    kind: str
    meaning: str
    unit: str = ""
    choices: tuple[str, ...] = ()
    path: bool = False
    least: float = 0.0
    most: float = float("inf")
    zero: bool = False


# The value of a field is the key's default: these return Any, for ``_keyed``.
def _text(
    default: str | None, meaning: str, *, choices: tuple[str, ...] = (), path: bool = False
) -> Any:  # noqa: ANN401
    return Key(default, "text", meaning, choices=choices, path=path)


def _number(
    default: float,
    meaning: str,
    *,
    unit: str = "seconds",
    least: float = 0.0,
    most: float = float("inf"),
    zero: bool = False,
) -> Any:  # noqa: ANN401
    kind = "integer" if isinstance(default, int) else "number"
    return Key(default, kind, meaning, unit, least=least, most=most, zero=zero)


def _list(kind: str, meaning: str) -> Any:  # noqa: ANN401
    return Key((), kind, meaning)


def _switch(meaning: str, *, default: bool) -> Any:  # noqa: ANN401
    return Key(default, "switch", meaning, choices=("true", "false"))


_KEYS: Final[dict[str, dict[str, Key]]] = {}
"""The keys of each table, by the class that holds it."""
M = TypeVar("M")


def _keyed(made: type[M]) -> type[M]:
    """Keep the keys that a class has for defaults, and give it the defaults of these.

    A dataclass keeps both, and takes 6 ms to import and half a millisecond to make.
    """
    fields: dict[str, Any] = made._field_defaults  # type: ignore[attr-defined]
    _KEYS[made.__name__] = {name: each for name, each in fields.items() if isinstance(each, Key)}
    made.__new__.__defaults__ = tuple(
        each.default if isinstance(each, Key) else each for each in fields.values()
    )
    return made


_SAME: Final[Mapping[str, str]] = {}


class Storage(NamedTuple):
    """Say how S3 is to store objects.

    Attributes:
        encryption: ``"AES256"``, ``"aws:kms"`` or ``"aws:kms:dsse"``. None: the bucket's default.
        kms_key: Id, ARN or alias of the key. Without ``encryption`` it implies ``"aws:kms"``.
        bucket_owner: Account that must own every named bucket. None: any. The default bucket must
            always be the caller's.
        requester_pays: Whether the caller pays for requests.
        instead: Replacements of recorded buckets, by name. '' stands for the default bucket,
            whatever its name.
    """

    encryption: str | None = None
    kms_key: str | None = None
    bucket_owner: str | None = None
    requester_pays: bool = False
    instead: Mapping[str, str] = _SAME


@_keyed
class WatchConfiguration(NamedTuple):
    """Hold the table ``[watch]``, for ``journaltrack watch`` and ``sync="background"``."""

    folders: tuple[str, ...] = _list(
        "paths", "journals, or folders of journals; none: the default journal"
    )
    debounce_s: float = _number(0.3, "how long to wait after a write for more before a pass")
    poll_s: float = _number(
        5.0, "how often to look for changes without events (network file systems)"
    )
    settle_s: float = _number(
        5.0, "how long a journal that appears must stay unchanged to count as whole"
    )
    journals_at_a_time: int = _number(4, "passes at a time", unit="journals", least=1, most=64)
    probe_first_s: float = _number(
        1.0, "first delay to a probe after the endpoint was found down; doubles"
    )
    probe_max_s: float = _number(
        30.0, "longest delay between probes, and so before delivery goes on"
    )
    retry_first_s: float = _number(
        5.0, "first delay after a failure of one journal (a held component); doubles"
    )
    retry_max_s: float = _number(300.0, "longest delay after a failure of one journal")
    stop_deadline_s: float = _number(
        20.0, "how long to wait after SIGTERM for answers to requests in flight"
    )
    health_file: str | None = _text(
        None, "file for the state as JSON; none: watchers/ in JOURNALTRACK_HOME", path=True
    )
    metrics_file: str | None = _text(
        None, "file for the state in Prometheus's text format; none: no file", path=True
    )


@_keyed
class AllowConfiguration(NamedTuple):
    """Hold the table ``[allow]``: what journals may use with the credentials of who syncs them.

    By default everything.
    """

    buckets: tuple[str, ...] = _list(
        "patterns", "buckets that artifacts may go to, besides the default one; none: any"
    )
    prefixes: tuple[str, ...] = _list(
        "patterns", "prefixes that artifacts may go to, with all below; none: any"
    )
    components: tuple[str, ...] = _list(
        "patterns", "trial components that may be created or written to; none: any"
    )
    experiments: tuple[str, ...] = _list(
        "patterns", "experiments and trials that components may be added to; none: any"
    )
    create_buckets: bool = _switch("whether to create a missing bucket", default=True)
    create_experiments: bool = _switch(
        "whether to create a missing experiment or trial", default=True
    )
    artifact_bytes_max: int = _number(
        0, "largest artifact; a larger one is quarantined; 0: no limit", unit="bytes", zero=True
    )
    journal_bytes_max: int = _number(
        0,
        "largest journal database; a larger one is not delivered; 0: no limit",
        unit="bytes",
        zero=True,
    )


@_keyed
class SystemConfiguration(NamedTuple):
    """Hold the table ``[system]``: metrics of machine, processes and GPUs."""

    every_s: float = _number(
        0.0, "how often to record system metrics; 0: never", zero=True, most=86_400.0
    )
    deliver: bool = _switch(
        "whether to deliver system metrics, which otherwise stay in the journal", default=False
    )


class Destination(NamedTuple):
    """Hold a table ``[destinations.NAME]``: where journals are delivered to beside SageMaker.

    Attributes:
        name: Of the destination.
        uri: ``http(s)://...``, or the ARN of AWS's managed MLflow.
        kind: ``"mlflow"``.
        experiment: Of runs that name none.
        profile: Profile of the AWS configuration, for an ARN and for artifacts in S3.
        endpoint_url: Another address for an ARN: a VPC endpoint, or a stand-in.
        variables: How the environment variables with its credentials begin.
        parameters: Which value of a parameter becomes MLflow's, which can't be changed there: the
            ``"first"`` that is delivered, or the ``"last"``, when the run ended.
        uploads: How artifacts get into a server's bucket: ``"direct"``, with AWS credentials, or
            ``"presigned"`` by the server.
    """

    name: str
    uri: str
    kind: str = "mlflow"
    experiment: str = "journaltrack"
    profile: str | None = None
    endpoint_url: str | None = None
    variables: str = "MLFLOW_TRACKING"
    parameters: str = "first"
    uploads: str = "direct"

    @property
    def is_address(self) -> bool:
        """Return whether it is not configured: an address was given instead of a name."""
        return self.name == name_of_address(self.uri)

    @property
    def mark(self) -> dict[str, str]:
        """Return what its copy of a journal says of it: no credentials."""
        return {"kind": self.kind, "uri": _USERINFO.sub("//", self.uri)}


@_keyed
class Configuration(NamedTuple):
    """Hold all settings.

    ``destinations`` are those beside SageMaker, in the order of the file.
    """

    journal: str | None = _text(
        None,
        "folder of the default journal; none: journal in JOURNALTRACK_HOME",
        path=True,
    )
    mirror: str | None = _text(
        None,
        "shared folder for all that is logged (docs/mirrors.md); none: no mirror",
        path=True,
    )
    mirror_every_s: float = _number(
        1.5,
        "least time between segments of a mirror; entries wait 0.5 s more",
        least=0.1,
        most=3600.0,
    )
    mirror_heartbeat_s: float = _number(
        30.0, "time between heartbeats of a mirror", least=0.1, most=3600.0
    )
    sync: str | None = _text(
        None,
        "when a tracker delivers; none: close, or with a mirror off",
        choices=("close", "background", "off"),
    )
    durability: str = _text(
        "process",
        "what a returned call survives: a kill, or also a power loss",
        choices=("process", "power"),
    )
    close_deadline_s: float = _number(10.0, "how long a tracker's close may deliver")
    lookup_deadline_s: float = _number(
        3.0, "how long Tracker.load may ask AWS for a name unknown to the journal"
    )
    concurrency: int = _number(
        96, "requests in flight for one journal", unit="requests", least=1, most=256
    )
    requests_per_s: float = _number(
        0.0, "most requests of all journals of a process; 0: no limit", unit="per second", zero=True
    )
    timestamps: str = _text(
        "keep",
        "time of metrics over 14 days old or 2 hours ahead",
        choices=("keep", "shift"),
    )
    visible_after_s: float = _number(
        900.0, "how long until missing metrics in doubt count as not arrived"
    )
    anchor: str = _text(
        "artifacts",
        "where a sync puts the heads of the journal's chains",
        choices=("artifacts", "s3", "parameter", "both", "off"),
    )
    anchor_prefix: str = _text("", "prefix of a journal's anchors in S3; none: the bucket's root")
    end_interrupted: bool = _switch(
        "whether a sync marks runs of dead processes as Stopped", default=True
    )
    claim_s: float = _number(
        600.0,
        "silence after which another machine may deliver a mirrored journal",
        least=1.0,
        most=604_800.0,
    )
    silent_after_s: float = _number(
        600.0,
        "silence of a mirrored node after which its runs are Stopped; 0: never",
        zero=True,
    )
    sigterm: str = _text(
        "default",
        "what SIGTERM does in a tracker's `with` block",
        choices=("default", "stop"),
    )
    lineage: bool = _switch("whether to record and send lineage of files and charts", default=True)
    redact: tuple[str, ...] = _list(
        "patterns", "shell patterns (*token*) of names whose values are never recorded"
    )
    context: bool = _switch(
        "whether to record what a process runs in: job, command, packages, machine", default=True
    )
    git_diff: bool = _switch(
        "whether to record git's diff of the tracked files as a run's git.diff", default=True
    )
    spool_max_bytes: int = _number(
        0,
        "largest spool: delivered artifacts leave it first; 0: no limit",
        unit="bytes",
        zero=True,
    )
    deliver_to: tuple[str, ...] = _list(
        "patterns", "where sync, watch and trackers deliver to; none: sagemaker and [destinations]"
    )
    profile: str | None = _text(None, "profile of the AWS configuration")
    region: str | None = _text(None, "AWS region")
    endpoint_url: str | None = _text(None, "endpoint for all services, instead of AWS's")
    s3_encryption: str | None = _text(
        None,
        "server-side encryption; none: the bucket's, or aws:kms with s3_kms_key",
        choices=("AES256", "aws:kms", "aws:kms:dsse"),
    )
    s3_kms_key: str | None = _text(None, "id, ARN or alias of the KMS key for uploads")
    s3_bucket_owner: str | None = _text(
        None,
        "account (12 digits) that must own named buckets; none: any",
    )
    s3_requests_paid_by: str = _text(
        "owner", "who pays for requests to the buckets", choices=("owner", "requester")
    )
    watch: WatchConfiguration = WatchConfiguration()
    allow: AllowConfiguration = AllowConfiguration()
    system: SystemConfiguration = SystemConfiguration()
    destinations: tuple[Destination, ...] = ()

    @property
    def targets(self) -> tuple[Destination | None, ...]:
        """Return where to deliver to, in order. None is SageMaker."""
        named = {each.name: each for each in self.destinations}
        wanted = self.deliver_to or (SAGEMAKER, *named)
        return tuple(named.get(each) for each in wanted)

    def destination(self, to: str) -> Destination | None:
        """Return the destination of a name or an address. None is SageMaker.

        Raises:
            InvalidInputError: There is none.
        """
        if to == SAGEMAKER:
            return None
        uri = normal_address(to)
        for each in self.destinations:
            if to == each.name or uri == each.uri:
                return each
        if _ADDRESS.match(to):
            return Destination(name_of_address(uri), uri)
        if to.startswith(f"{paths.SCHEME}:"):
            raise InvalidInputError(
                f"{limits.shown(to)} names a journal, and a journal is delivered from; nothing was "
                "sent",
                hint=f"`journaltrack sync {limits.shown(to)} --to http://host:port` delivers it",
            )
        names = [SAGEMAKER, *(each.name for each in self.destinations)]
        near = patterns.near(to, names)
        raise InvalidInputError(
            f"there is no destination {limits.shown(to)}",
            hint=f"{patterns.PERHAPS}{near[0]}"
            if near
            else f"configured are {', '.join(names)}; an address begins with http:// or https://, "
            "or is the ARN of a managed MLflow (arn:aws:sagemaker:...)",
        )

    def storage(self) -> Storage:
        """Return the storage options."""
        requester_pays = self.s3_requests_paid_by == "requester"
        return Storage(self.s3_encryption, self.s3_kms_key, self.s3_bucket_owner, requester_pays)

    def of_a_connection(self) -> dict[str, Any]:
        """Return the arguments for ``connection.Connection``, except the rate."""
        names = ("profile", "region", "endpoint_url", "lineage")
        known = {name: getattr(self, name) for name in names}
        return {**known, "storage": self.storage(), "allow": self.allow, "targets": self.targets}

    def prefix_of_anchors(self) -> str | None:
        """Return the prefix of a journal's first anchor.

        It is "" for the bucket's root. It is None for the artifacts' prefix, if ``allow.prefixes``
        permits some prefixes and not the folder at the root.
        """
        some = self.allow.prefixes
        if self.anchor_prefix or not some:
            return self.anchor_prefix
        is_allowed = any(fnmatch.fnmatchcase(ANCHORS, each.strip("/")) for each in some)
        return "" if is_allowed else None

    def of_a_pass(self, *, watching: bool = False) -> dict[str, Any]:
        """Return the arguments for ``reconciler.Options``.

        Args:
            watching: Whether a watcher makes the pass. Watchers anchor less often, since they make
                a pass after every write.
        """
        names = (
            *("concurrency", "timestamps", "visible_after_s", "anchor", "end_interrupted"),
            "claim_s",
        )
        options = {name: getattr(self, name) for name in names}
        options["anchor_prefix"] = self.prefix_of_anchors()
        return {**options, "anchor_every_s": WATCHING_ANCHOR_EVERY_S if watching else 0.0}


class Loaded(NamedTuple):
    """Hold a configuration, and where each value comes from.

    Attributes:
        configuration: The values in force.
        origins: "default", a file's path, a variable's name, or "command line", by key
            ("watch.debounce_s").
        path: The file that was read. None if there is none.
    """

    configuration: Configuration
    origins: Mapping[str, str]
    path: Path | None


class Setting(NamedTuple):
    """Describe one key, as ``journaltrack config`` and the documentation show it."""

    key: str
    variable: str
    default: Any
    unit: str
    meaning: str
    choices: tuple[str, ...]


def settings() -> list[Setting]:
    """Return all keys, in the order of the file."""
    return [
        Setting(
            key,
            _variable(key),
            each.default,
            each.unit,
            each.meaning,
            each.choices,
        )
        for key, each in _FIELDS.items()
    ]


class UnknownVariable(NamedTuple):
    """A variable that looks like one of ours and has no effect."""

    name: str
    text: str
    hint: str


def unknown_variables(
    environ: Mapping[str, str] | None = None, *, news: bool = False
) -> list[UnknownVariable]:
    """Return the variables with journaltrack's prefix that stand for nothing.

    They are no error: other programs may set them, and training must not end for their sake.

    Args:
        environ: Environment variables. None: the process's.
        news: Leave out what this process was told before.
    """
    environ = os.environ if environ is None else environ
    known = [_variable(key) for key in _FIELDS] + list(_OTHER_VARIABLES)
    # An empty variable counts as unset.
    names = [name for name, text in environ.items() if name.upper().startswith(_PREFIX) and text]
    unknown = sorted(set(names).difference(known, _told if news else ()))
    _told.update(unknown)
    found = []
    for name in unknown:
        # Without the prefix, which would make all names similar.
        meant = patterns.near(name[len(_PREFIX) :], [each[len(_PREFIX) :] for each in known])
        hint = f"{patterns.PERHAPS}{_PREFIX}{meant[0]}" if meant else _LISTED
        text = f"the environment variable {limits.shown(name)} is no setting, and has no effect"
        found.append(UnknownVariable(name, text, hint))
    return found


def value_of(configuration: Configuration, key: str) -> Any:  # noqa: ANN401 - of the key's type
    """Return the value of a key such as "watch.debounce_s"."""
    table, _, name = key.rpartition(".")
    return getattr(getattr(configuration, table) if table else configuration, name)


def default_file() -> Path | None:
    """Return the file to read if none is named, or None without a home folder."""
    if not paths.has_home("XDG_CONFIG_HOME"):
        return None
    return paths.folder_of_user("config") / "config.toml"


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    origin: str = "command line",
) -> Loaded:
    """Read the configuration. Warn once of variables that stand for nothing.

    Args:
        path: The file. None: see the module. A file that is named, here or by the variable, must
            exist.
        environ: Environment variables. None: the process's.
        overrides: Values by key, which override all others. None as a value counts as not given.
        origin: Where the overrides were given.

    Raises:
        InvalidInputError: A file can't be read, a key is unknown, or a value is invalid. The
            message says where.
    """
    environ = os.environ if environ is None else environ
    for unknown in unknown_variables(environ, news=True):
        logger.warning("%s; %s", unknown.text, unknown.hint)
    file, values = _from_file(path, environ)
    origins: dict[str, str] = dict.fromkeys(_FIELDS, "default")
    origins.update(dict.fromkeys(values, str(file)))
    for key, each in _FIELDS.items():
        text = environ.get(_variable(key), "")
        if text:
            values[key] = _checked(key, each, _parsed(each, text), _variable(key))
            origins[key] = _variable(key)
    for key, value in (overrides or {}).items():
        if key == _DESTINATIONS:
            values[key] = _destinations(value, f"the {origin}")
        elif value is not None:
            values[key] = _checked(key, _field(key, f"the {origin}"), value, f"the {origin}")
            origins[key] = origin
    tables = {
        table: made(
            **{
                key.partition(".")[2]: value
                for key, value in values.items()
                if key.startswith(f"{table}.")
            }
        )
        for table, made in _TABLES.items()
    }
    rest = {key: value for key, value in values.items() if "." not in key}
    made = Configuration(**rest, **tables)
    _check_storage(made, origins)
    _check_targets(made, origins)
    return Loaded(made, origins, file)


def current() -> Configuration:
    """Return the configuration, read again only if the file or the environment has changed.

    Raises:
        InvalidInputError: See ``load``.
    """
    named = os.environ.get(CONFIG_VARIABLE)
    file = paths.expanded(named) if named else default_file()
    stamp: object = None
    with contextlib.suppress(OSError):
        found = None if file is None else file.stat()
        stamp = found and (found.st_mtime_ns, found.st_size, found.st_ino)
    # By name first: to decode every value takes longer than all else here.
    names = sorted(name for name in os.environ if name.startswith(_PREFIX))
    key = (str(file), stamp, *((name, os.environ.get(name)) for name in names))
    if _current.get("key") != key:
        _current.update(configuration=load().configuration, key=key)
    known: Configuration = _current["configuration"]
    return known


def as_overrides(configuration: Configuration) -> dict[str, Any]:
    """Return every value by key, as ``overrides`` for ``load``.

    They are for another process, which may find another file.
    """
    values = {key: value_of(configuration, key) for key in _FIELDS}
    known = {key: "" if value is None else value for key, value in values.items()}
    told = {each.name: each._asdict() for each in configuration.destinations}
    for members in told.values():
        del members["name"]
    return {**known, _DESTINATIONS: told}


# -- inside --

_DESTINATIONS: Final = "destinations"
_TABLES: Final[Mapping[str, Any]] = {
    "watch": WatchConfiguration,
    "allow": AllowConfiguration,
    "system": SystemConfiguration,
}
_FIELDS: Final[Mapping[str, Key]] = {
    **_KEYS[Configuration.__name__],
    **{
        f"{table}.{name}": key
        for table, made in _TABLES.items()
        for name, key in _KEYS[made.__name__].items()
    },
}


def _check_storage(made: Configuration, origins: Mapping[str, str]) -> None:
    """Refuse values with which S3 would refuse every upload."""
    owner = made.s3_bucket_owner
    if owner is not None and not _ACCOUNT.fullmatch(owner):
        wanted = "an account's number of 12 digits"
        raise _wrong("s3_bucket_owner", owner, origins["s3_bucket_owner"], wanted)
    if made.s3_kms_key is not None and not _KMS_KEY.fullmatch(made.s3_kms_key):
        wanted = "a key's id, ARN or alias: ASCII without spaces"
        raise _wrong("s3_kms_key", made.s3_kms_key, origins["s3_kms_key"], wanted)
    if made.s3_kms_key is not None and made.s3_encryption == "AES256":
        wanted = "aws:kms or aws:kms:dsse, since s3_kms_key names a key"
        raise _wrong("s3_encryption", "AES256", origins["s3_encryption"], wanted)


def _check_targets(made: Configuration, origins: Mapping[str, str]) -> None:
    names = {SAGEMAKER, *(each.name for each in made.destinations)}
    for each in made.deliver_to:
        if each not in names:
            wanted = f"a list of {', '.join(sorted(names))}"
            raise _wrong("deliver_to", each, origins["deliver_to"], wanted)


_CHOICES: Final = {
    "kind": ("mlflow",),
    "parameters": ("first", "last"),
    "uploads": ("direct", "presigned"),
}
"""Of keys of a destination."""


def _destinations(tree: object, where: str) -> tuple[Destination, ...]:
    """Return the destinations that the tables ``[destinations.NAME]`` describe."""
    if not isinstance(tree, Mapping):
        hint = "write [destinations.NAME] on a line of its own"
        raise InvalidInputError(f"destinations in {where} must be a table", hint=hint)
    found = []
    known = {*Destination._fields} - {"name"}
    for name, members in tree.items():
        key = f"destinations.{name}"
        if not DESTINATION_NAME.fullmatch(name) or name == SAGEMAKER:
            wanted = "of a-z, 0-9, - and _, and not sagemaker"
            raise _wrong("a destination's name", name, where, wanted)
        if not isinstance(members, Mapping):
            raise _wrong(key, members, where, "a table")
        for member, value in members.items():
            if member not in known:
                near = patterns.near(member, sorted(known))
                raise InvalidInputError(
                    f"'{key}.{member}' in {where} is no key of a destination",
                    hint=f"{patterns.PERHAPS}{near[0]}" if near else f"its keys: {sorted(known)}",
                )
            if not isinstance(value, str) and not (value is None and member in _MAY_BE_NONE):
                raise _wrong(f"{key}.{member}", value, where, "text")
            if (choices := _CHOICES.get(member)) and value not in choices:
                raise _wrong(f"{key}.{member}", value, where, " or ".join(choices))
        if not _ADDRESS.match(members.get("uri") or ""):
            wanted = "an address that begins with http:// or https://, or an ARN"
            raise _wrong(f"{key}.uri", members.get("uri"), where, wanted)
        given = {member: value for member, value in members.items() if value}
        found.append(Destination(name, **{**given, "uri": normal_address(given["uri"])}))
    return tuple(found)


def normal_address(uri: str) -> str:
    """Return an address as it is compared: a host has one spelling, and ends without a slash."""
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return uri
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    return f"{scheme.lower()}://{user}{at}{host.lower()}{slash}{path}".rstrip("/")


def name_of_address(uri: str) -> str:
    """Return the name of a destination that only its address describes."""
    bare = _USERINFO.sub("//", uri).rstrip("/")
    words = re.sub("[^a-z0-9]+", "-", bare.partition("://")[2].lower() or bare.lower())
    return f"{words.strip('-')[-40:].strip('-')}-{sha256(bare.encode()).hexdigest()[:8]}"


def _variable(key: str) -> str:
    return _PREFIX + key.replace(".", "_").upper()


def _field(key: str, where: str) -> Key:
    found = _FIELDS.get(key)
    if found is None:
        near = patterns.near(key, list(_FIELDS))
        raise InvalidInputError(
            f"{key!r} in {where} is no key of the configuration",
            hint=f"{patterns.PERHAPS}{near[0]}" if near else "`journaltrack config` lists the keys",
        )
    return found


def _from_file(
    path: str | os.PathLike[str] | None, environ: Mapping[str, str]
) -> tuple[Path | None, dict[str, Any]]:
    named = path if path is not None else environ.get(CONFIG_VARIABLE) or None
    file = paths.expanded(named).absolute() if named is not None else default_file()
    if file is None:
        return None, {}
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        if named is None:
            return None, {}
        message = f"there is no configuration file {file}"
        raise InvalidInputError(message, hint=f"check --config or {CONFIG_VARIABLE}") from None
    except OSError as error:
        message = f"the configuration {file} can't be read: {error.strerror}"
        raise InvalidInputError(message, hint="check its permissions") from error
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 - only when there is a file
    else:
        import tomli as tomllib  # noqa: PLC0415
    try:
        tree = tomllib.loads(content.decode())
    # Also bytes that are not UTF-8.
    except ValueError as error:
        hint = "`journaltrack config --example` prints a file to start from"
        raise InvalidInputError(f"{file} is not TOML: {error}", hint=hint) from error
    values: dict[str, Any] = {}
    if _DESTINATIONS in tree:
        values[_DESTINATIONS] = _destinations(tree.pop(_DESTINATIONS), str(file))
    for key, value in _flat(tree, file):
        values[key] = _checked(key, _field(key, str(file)), value, str(file), base=file.parent)
    return file, values


def _flat(tree: Mapping[str, Any], file: Path) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if name in _TABLES:
            if not isinstance(value, dict):
                hint = f"write [{name}] on a line of its own"
                raise InvalidInputError(f"{name} in {file} must be a table", hint=hint)
            flat += [(f"{name}.{inner}", each) for inner, each in value.items()]
        else:
            flat.append((name, value))
    return flat


def _parsed(each: Key, text: str) -> Any:  # noqa: ANN401
    """Convert a variable's text to what TOML would have given."""
    kind = each.kind
    parsers: dict[str, Callable[[str], Any]] = {
        "integer": int,
        "number": float,
        "paths": lambda t: t.split(os.pathsep),
        "patterns": lambda t: t.split(","),
        "switch": lambda t: _SWITCHES.get(t.lower(), t),
    }
    # The check refuses other text, and says why.
    try:
        return parsers.get(kind, str)(text)
    except ValueError:
        return text


def _checked(
    key: str,
    each: Key,
    value: Any,  # noqa: ANN401
    where: str,
    *,
    base: Path | None = None,
) -> Any:  # noqa: ANN401
    if each.kind in {"patterns", "paths"}:
        return _checked_list(key, each.kind, value, where, base)
    if each.kind == "switch":
        if not isinstance(value, bool):
            raise _wrong(key, value, where, "true or false")
        return value
    if each.kind == "text":
        return _checked_text(key, each, value, where, base)
    whole = each.kind == "integer"
    wanted = "a whole number" if whole else "a number"
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or value != value:  # noqa: PLR0124 - NaN
        raise _wrong(key, value, where, wanted)
    least, most, unit = each.least, each.most, each.unit
    zero = value == 0 and not each.zero
    if value < least or value > most or value == float("inf") or zero:
        bounds = "0 or more" if each.zero else "more than 0"
        bounds = bounds if most == float("inf") else f"from {least} to {most}"
        raise _wrong(key, value, where, f"{wanted} of {unit}, {bounds}")
    return value if whole else float(value)


def _checked_text(key: str, each: Key, value: object, where: str, base: Path | None) -> str | None:
    choices = each.choices
    if not isinstance(value, str):
        raise _wrong(key, value, where, "text")
    if not value and (not choices or each.default is None):
        return None if each.default is None else str(each.default)
    if choices and value not in choices:
        raise _wrong(key, value, where, "one of " + ", ".join(choices))
    return _absolute(value, base) if each.path else value


def _checked_list(
    key: str, kind: str, value: object, where: str, base: Path | None
) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise _wrong(key, value, where, f"a list of {kind}")
    if kind == "patterns":
        return tuple(each.strip() for each in value if each.strip())
    return tuple(_absolute(each, base) for each in value if each)


def _absolute(path: str, base: Path | None) -> str:
    expanded = paths.expanded(path)
    return str(expanded if base is None else base / expanded)


def _wrong(key: str, value: object, where: str, wanted: str) -> InvalidInputError:
    message = f"{key} in {where} is {value!r}; it must be {wanted}"
    return InvalidInputError(message, hint="`journaltrack config --example` shows all keys")
