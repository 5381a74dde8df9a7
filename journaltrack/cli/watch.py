"""Implement ``journaltrack watch``: deliver until a signal ends it."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from journaltrack.cli import common, output
from journaltrack.cli.exit_codes import ExitCode, told_unheard, worst
from journaltrack.cli.journals import Journals, about_journals
from journaltrack.errors import InvalidInputError, JournaltrackError
from journaltrack.util.text import fields_of, logfmt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from journaltrack.app.composition import Resting
    from journaltrack.app.connection import Connection
    from journaltrack.errors import RemoteError
    from journaltrack.util.config import Configuration, Loaded
    from journaltrack.watch.journal import Delivery, DeliveryRequest
    from journaltrack.watch.watcher import Watcher

logger = logging.getLogger("journaltrack.watch")

_OF_A_PASS: Final = (
    "journaltrack.app.composition",
    "journaltrack.replay.dispatch",
    "journaltrack.replay.reconciler",
)
"""Modules whose warnings the watcher's one line about a pass repeats."""
_MIRROR_EVERY_S: Final = 1.0
"""Ours: how often to look into a mirror. Its file system sends no events of other machines."""
_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


@click.command(
    epilog="\b\nExamples:\n  journaltrack watch\n"
    "  journaltrack watch /data/journals /mnt/inbox --profile research\n"
    "  journaltrack watch --rate-limit 20 --metrics-file /var/lib/watch.prom"
)
@about_journals
@common.connection_options
@click.option("--concurrency", metavar="N", type=int, help="Requests in flight for one journal.")
@click.option(
    "--rate-limit",
    metavar="N",
    type=float,
    help="Requests per second at most, for all journals together; 0: no limit.",
)
@click.option(
    "--debounce", metavar="SECONDS", type=float, help="How long to wait for more after a write."
)
@click.option(
    "--poll", metavar="SECONDS", type=float, help="How long to wait between looks without an event."
)
@click.option(
    "--settle",
    metavar="SECONDS",
    type=float,
    help="How long a new journal must stay unchanged to count as complete.",
)
@click.option(
    "--health-file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Where to write the state as JSON.",
)
@click.option(
    "--metrics-file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Where to write the state for Prometheus.",
)
@click.option(
    "--child",
    is_flag=True,
    hidden=True,
    help='For sync="background": configured by a line of stdin, and ends with it.',
)
@common.options_with_json("Log to stdout instead, as one JSON object per line.")
def command(
    journals: Journals,
    *,
    config_file: str | None,
    child: bool,
    as_json: bool,
    **given: Any,  # noqa: ANN401 - the options above
) -> ExitCode:
    """Deliver what is written into each JOURNAL, until a signal ends it.

    A folder of journals stands for those in it. The watcher picks up new journals, and waits for a
    folder that does not exist yet. Without JOURNAL, it watches the configured folders, or the
    default journal. A mirror's folder stands for the journals that are mirrored there.

    While the endpoint is unreachable or the credentials are expired, the watcher probes with
    growing pauses. Once it answers, everything goes out. A journal that is being copied in is left
    alone until it is complete.

    Log lines on stderr are key=value; with --json they are JSON objects on stdout, one per line.
    If whoever reads them is gone, the watcher still delivers.
    SIGTERM and Ctrl-C stop after the requests in flight (exit code 0). SIGHUP reads the
    configuration again.
    """
    overrides = _of_parent() if child else _overrides(given)
    if overrides is None:
        return ExitCode.OK
    service = _Service(journals.typed, config_file, overrides, child=child)
    _log_events(
        logging.DEBUG if common.is_verbose() else logging.WARNING if child else logging.INFO,
        as_json=as_json,
    )
    with output.going_on() as lost:
        code = service.run()
    return worst([code, *map(told_unheard, lost[:1])])


def _of_parent() -> dict[str, Any] | None:
    """Read the configuration from one line of stdin; None if the line is incomplete."""
    with os.fdopen(0, "rb", buffering=0, closefd=False) as stdin:
        line = stdin.readline()
    return json.loads(line) if line.endswith(b"\n") else None


def _overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    names = {
        "rate_limit": "requests_per_s",
        "debounce": "watch.debounce_s",
        "poll": "watch.poll_s",
        "settle": "watch.settle_s",
        "health_file": "watch.health_file",
        "metrics_file": "watch.metrics_file",
    }
    return {names.get(name, name): value for name, value in given.items() if value is not None}


class _Service:
    """Run a watcher on a thread, while the main thread waits for signals."""

    def __init__(
        self,
        folders: tuple[str, ...],
        config_file: str | None,
        overrides: Mapping[str, Any],
        *,
        child: bool,
    ) -> None:
        from journaltrack.app.connection import Sharing  # noqa: PLC0415 - not for completion
        from journaltrack.app.one_place import OnePlace  # noqa: PLC0415
        from journaltrack.remotes.rate_limit import RateLimit  # noqa: PLC0415

        self._folders = folders
        self._config_file = Path(config_file) if config_file is not None else None
        self._overrides = overrides
        self._child = child
        self._loaded = self._load()
        self._rate_limit = RateLimit(self._configuration.requests_per_s)
        self._one_place = OnePlace()
        self._sharing = Sharing()
        # Further destinations that did not answer a moment ago.
        self._resting: Resting = {}
        self._failure: BaseException | None = None
        # By the mirror's folder: the thread that extends the copies.
        self._mirrors: dict[Path, threading.Thread] = {}
        # By the folder of the copies: the mirror's. That may be another mirror's by now.
        self._copies: dict[Path, Path] = {}
        self._ended = threading.Event()

    @property
    def _configuration(self) -> Configuration:
        return self._loaded.configuration

    def run(self) -> ExitCode:
        """Watch until a signal ends it, or the watcher fails."""
        from journaltrack.watch.folders import FolderEvents  # noqa: PLC0415
        from journaltrack.watch.health import Health  # noqa: PLC0415
        from journaltrack.watch.watcher import Watcher  # noqa: PLC0415

        settings = self._configuration.watch
        health = Health(_path(settings.health_file), _path(settings.metrics_file))
        # Block the signals before any thread starts: ``sigwait`` below takes them, not a handler
        # in the middle of something.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        # Here, a mirror that can't be read is an error of the command.
        self._find_mirrors()
        watcher = Watcher(
            self._roots,
            self._deliver,
            self._probe,
            settings,
            events=FolderEvents,
            tell=health,
            arrivals=not self._child,
        )
        logger.info(
            logfmt(
                "watching",
                folders=",".join(map(str, self._named())),
                pid=os.getpid(),
                configuration=self._loaded.path,
            )
        )
        self._tell_missing()
        thread = threading.Thread(
            target=self._watch, args=(watcher,), name="journaltrack-watcher", daemon=True
        )
        thread.start()
        if self._child:
            threading.Thread(
                target=self._end_with_parent, name="journaltrack-parent", daemon=True
            ).start()
        self._await_end(watcher)
        thread.join()
        self._leave_mirrors()
        health.close()
        if self._failure is not None:
            raise self._failure
        return ExitCode.OK

    def _watch(self, watcher: Watcher) -> None:
        try:
            watcher.run()
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self._failure = error
        finally:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    @staticmethod
    def _end_with_parent() -> None:
        """Wait until stdin is closed at its other end, then end as after SIGTERM."""
        while os.read(0, 4096):
            pass
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _await_end(self, watcher: Watcher) -> None:
        while True:
            number = signal.sigwait(_SIGNALS)
            if number != signal.SIGHUP:
                logger.info(logfmt("stopping", signal=signal.Signals(number).name))
                watcher.stop()
                # A second Ctrl-C ends the process at once.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
                return
            try:
                self._loaded = self._load()
            except InvalidInputError as error:
                # The message says it all: no traceback.
                told = logfmt("configuration-refused", error=error.message, hint=error.hint)
                logger.error(told)  # noqa: TRY400
                continue
            self._rate_limit.change(self._configuration.requests_per_s)
            watcher.reconfigure(self._configuration.watch)
            logger.info(
                logfmt(
                    "configuration-read",
                    configuration=self._loaded.path,
                    folders=",".join(map(str, self._named())),
                )
            )
            self._tell_missing()

    def _load(self) -> Loaded:
        from journaltrack.util import config  # noqa: PLC0415

        # Use the parent's configuration, whatever the file and the environment say by now.
        if self._child:
            return config.load(os.devnull, environ={}, overrides=self._overrides)
        return config.load(self._config_file, overrides=self._overrides)

    def _named(self) -> list[Path]:
        """Return the folders that the user names, else the default journal's."""
        from journaltrack.util import paths  # noqa: PLC0415

        named = (
            self._folders
            or self._configuration.watch.folders
            # Last, because it reads a configuration that may be another one by now.
            or (self._configuration.journal or paths.default_journal(),)
        )
        return [paths.expanded(each) for each in named]

    def _roots(self) -> list[Path]:
        """Return the folders to watch now: those of the copies in the place of a mirror.

        A mirror may appear at any time, and be away for a while.
        """
        try:
            self._find_mirrors()
        except JournaltrackError as error:
            # Told again and again by the thread of a mirror that was there before.
            logger.debug(logfmt("mirror", text=error.message))
        # The watcher's thread alone asks, and finds mirrors.
        found: list[Path] = []
        for folder in self._named():
            found += [] if folder in self._mirrors else [folder]
            found += [c for c, mirror in self._copies.items() if mirror.is_relative_to(folder)]
        # Resolve: one journal under two names would be opened by two passes of one process, whose
        # locks do not exclude each other.
        return list(dict.fromkeys(folder.resolve() for folder in found))

    def _find_mirrors(self) -> None:
        """Begin to keep the copies of all mirrors extended that are there now."""
        from journaltrack.util import paths  # noqa: PLC0415

        for folder in self._named():
            for mirror in paths.mirrors_in(folder):
                self._begin_mirror(mirror)

    def _begin_mirror(self, folder: Path) -> None:
        from journaltrack.journal.first_steps import make_folder  # noqa: PLC0415 - few name one
        from journaltrack.mirror import copies  # noqa: PLC0415
        from journaltrack.mirror.folders import opened  # noqa: PLC0415

        place = copies.place_of(opened(folder))
        if place not in self._copies:
            make_folder(place)
            self._copies[place] = folder
            logger.info(logfmt("mirror-found", folder=folder, copies=place))
        if folder not in self._mirrors:

            def delivers() -> copies.Delivering:
                """Return what the configuration says by now."""
                known = self._configuration
                return copies.Delivering(known.silent_after_s, known.claim_s)

            self._mirrors[folder] = copies.keep_extended(
                folder, _MIRROR_EVERY_S, self._ended, delivers
            )

    def _leave_mirrors(self) -> None:
        """Let other machines deliver what this watcher delivered."""
        from journaltrack.util import paths  # noqa: PLC0415

        self._ended.set()
        for thread in self._mirrors.values():
            thread.join()
        for place in self._copies:
            from journaltrack.mirror.delivery import release  # noqa: PLC0415 - few name one

            for journal in paths.journals_in(place):
                release(journal)

    def _tell_missing(self) -> None:
        """Warn about missing folders, and suggest similar names.

        Else the watcher would wait for a misspelt one in silence.
        """
        from journaltrack.util import patterns  # noqa: PLC0415 - as above

        for root in self._named():
            if root.exists():
                continue
            parent = root.parent
            beside = (
                sorted(path.name for path in parent.iterdir() if path.is_dir())
                if parent.is_dir()
                else []
            )
            meant = [str(parent / name) for name in patterns.near(root.name, beside)]
            hint = (
                f"{patterns.PERHAPS}{' or '.join(meant)}"
                if meant
                else None
                if parent.is_dir()
                else f"nor does {parent}"
            )
            logger.warning(
                logfmt(
                    "folder-missing",
                    folder=root,
                    text="it does not exist yet; waiting for it",
                    hint=hint,
                )
            )

    def _deliver(self, request: DeliveryRequest) -> Delivery:
        from journaltrack.app.composition import deliver  # noqa: PLC0415
        from journaltrack.replay.reconciler import Options  # noqa: PLC0415

        options = Options(**self._configuration.of_a_pass(watching=True))
        return deliver(request, self._connection(), options, self._one_place, self._resting)

    def _probe(self) -> RemoteError | None:
        from journaltrack.app.connection import probe  # noqa: PLC0415

        return probe(self._connection())

    def _connection(self) -> Connection:
        from journaltrack.app.connection import Connection  # noqa: PLC0415

        return Connection(
            rate_limit=self._rate_limit,
            sharing=self._sharing,
            **self._configuration.of_a_connection(),
        )


def _path(named: str | None) -> Path | None:
    from journaltrack.util import paths  # noqa: PLC0415

    return None if named is None else paths.expanded(named).absolute()


class _Lines(logging.Handler):
    """Write one line per event: key=value on stderr, or JSON on stdout."""

    as_json = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, escaped."""
        try:
            seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            moment = f"{seconds}.{int(record.msecs):03d}Z"
            level = record.levelname.lower()
            text = record.getMessage()
            line = (
                text if text.startswith("event=") else logfmt("log", logger=record.name, text=text)
            )
            if self.as_json:
                output.print_json_line({"at": moment, "level": level, **fields_of(line)})
            else:
                output.write(f"{moment} {level} {output.clean(line)}", err=True)
        except Exception:  # noqa: BLE001 - logging must not end the watcher
            self.handleError(record)


@functools.lru_cache(maxsize=1)
def _lines() -> _Lines:
    return _Lines()


def _log_events(level: int, *, as_json: bool) -> None:
    """Log through ``_Lines`` alone: ours from ``level`` on, others from WARNING on."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    _lines().as_json = as_json
    root.addHandler(_lines())
    ours = logging.getLogger("journaltrack")
    ours.setLevel(level)
    for name in _OF_A_PASS:
        logging.getLogger(name).setLevel(logging.DEBUG if level == logging.DEBUG else logging.ERROR)
