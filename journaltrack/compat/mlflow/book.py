"""Record and read back runs and experiments of one journal, for MLflow's plug-ins.

One ``Book`` serves a journal in a process: stores and artifact repositories share it, and any
thread may use it. What it knows of a run is read once, and then what was added since, by whichever
process. Must not know MLflow.

Invariant: a call that returns is in the journal, with all its parts or with none.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from journaltrack import limits
from journaltrack.compat.mlflow import addresses, points, state
from journaltrack.compat.mlflow.points import Logged, OfModel, Points
from journaltrack.compat.mlflow.state import ExperimentState, Point, RunState
from journaltrack.errors import InvalidInputError, JournalError
from journaltrack.journal import fold, groups, vocabulary
from journaltrack.journal.fold import Place
from journaltrack.journal.journal import SELECT_ENTRY
from journaltrack.journal.queries import origins
from journaltrack.journal.spool.spool import Spool, SpooledBlob
from journaltrack.tracking.drafts import Drafter
from journaltrack.tracking.settings import keys_in, open_journal, settings_of
from journaltrack.tracking.shapes import Named
from journaltrack.tracking.trial_component import TrialComponent
from journaltrack.tracking.writers import JournalArtifactUploader
from journaltrack.util import paths

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import Draft, Entry
    from journaltrack.tracking.settings import Settings

logger = logging.getLogger(__name__)

_MS: Final = 10**6
_SELECT_STATE: Final = (
    f"{SELECT_ENTRY}WHERE e.component_id = ? AND e.stream <> 'metric' AND e.seq > ? ORDER BY e.seq"
)
_SELECT_MODEL: Final = (
    "SELECT c.name FROM entry e JOIN component c ON c.id = e.component_id "
    "WHERE e.stream <> 'metric' AND e.kind = 'label' AND e.name = ? LIMIT 1"
)
_SELECT_CHANGED: Final = (
    "SELECT 1 FROM entry WHERE component_id = ? AND stream <> 'metric' AND seq > ? "
    "AND name IN (SELECT value FROM json_each(?)) LIMIT 1"
)
_SELECT_USED: Final = "SELECT 1 FROM entry WHERE component_id = ? LIMIT 1"


class Run:
    """A run as far as it was read, and what records it."""

    def __init__(self, component: TrialComponent, drafter: Drafter) -> None:
        self.component = component
        self.id = component.component_id
        self.drafter = drafter
        self.state = RunState(component.trial_component_name)
        # Names of metrics that need no check any more.
        self.names: set[str] = set()
        # Held by a thread that records what depends on what it has read (``Book.change``).
        self.changes = threading.RLock()


class Book:
    """The runs and experiments of a journal.

    Args:
        journal: An open journal.
        settings: As for trackers.
    """

    def __init__(self, journal: Journal, settings: Settings) -> None:
        self.journal = journal
        self._settings = settings
        self.forget()

    def forget(self) -> None:
        """Read everything anew: in a forked child, another thread may have been reading."""
        self._lock = threading.RLock()
        self._runs: dict[str, Run] = {}
        self._points = Points(self.journal)
        self._of_model: dict[str, str] = {}
        # Names of experiments that this process looked for before they were there.
        self.missed: set[str] = set()

    @property
    def path(self) -> str:
        """Return the journal's folder."""
        return os.fspath(self.journal.path)

    # -- runs --------------------------------------------------------------------------------------

    def create_run(
        self, experiment: ExperimentState, start_ms: int, tags: Mapping[str, str | None], name: str
    ) -> RunState:
        """Begin a run."""
        run_id = uuid.uuid4().hex
        component = self._component(run_id)
        drafts = [
            *self._beginning(experiment, name),
            vocabulary.status(primary="InProgress", start_ns=start_ms * _MS),
            *state.tag_drafts({**tags, vocabulary.RUN_NAME: name}, set()),
        ]
        self.journal.append(component.component_id, drafts)
        return self.state(run_id)

    def state(self, run_id: str) -> RunState:
        """Return what a run has now, as a copy: other threads may record more.

        Raises:
            KeyError: There is none of this id.
        """
        run = self._known(run_id)
        with self._lock:
            self._read(run)
            return run.state.copy()

    def run(self, run_id: str) -> Run:
        """Return a run with what was recorded so far. To go through it, use ``state``.

        Raises:
            KeyError: There is none of this id.
        """
        run = self._known(run_id)
        with self._lock:
            self._read(run)
        return run

    def seen(self, run_id: str) -> Run | None:
        """Return a run as this process read it before; None: it did not."""
        return self._runs.get(run_id)

    def _known(self, run_id: str) -> Run:
        """Return a run as it was read before; read it, if it was not.

        Raises:
            KeyError: There is none of this id.
        """
        run = self._runs.get(run_id)
        if run is not None:
            return run
        row = self.journal.find(run_id)
        if row is None or not groups.is_run(row.name):
            raise KeyError(run_id)
        component = TrialComponent(self.journal, row.id, row.name)
        uploader = JournalArtifactUploader(
            component, None, self._settings.configuration.spool_max_bytes
        )
        keys = keys_in(self.journal, row.id)
        run = Run(component, Drafter(component, self._settings, keys, uploader, None, None))
        with self._lock:
            self._read(run)
            if not run.state.last_seq:
                raise KeyError(run_id)
            return self._runs.setdefault(run_id, run)

    def runs(self) -> Iterator[RunState]:
        """Yield all runs, in the order in which they were begun."""
        for row in self.journal.runs():
            try:
                yield self.state(row.name)
            # Somebody is about to begin it.
            except KeyError:  # noqa: PERF203 - one run must not hide the others
                continue

    def _component(self, run_id: str) -> TrialComponent:
        return TrialComponent(self.journal, self.journal.component(run_id), run_id)

    def _read(self, run: Run) -> None:
        """Read what was added to a run. What several hosts recorded is put in order anew."""
        read = self.journal.database.read
        rows = read(_SELECT_STATE, (run.id, run.state.last_seq))
        if not rows:
            return
        known = origins(read)
        entries: Iterable[Entry] = map(vocabulary.entry_of, rows)
        if known:
            run.state = RunState(run.state.name)
            every = [vocabulary.entry_of(row) for row in read(_SELECT_STATE, (run.id, 0))]
            places = [Place(e.seq, e.recorded_at_ns, known.get(e.writer_id, 0)) for e in every]
            entries = fold.in_order(every, places)
        for entry in entries:
            run.state.add(entry)

    def append(self, run: Run, drafts: Sequence[Draft]) -> None:
        """Record something of a run."""
        self.journal.append(run.id, drafts)

    def change(
        self, run: Run, names: Sequence[str], drafts_of: Callable[[RunState], Sequence[Draft]]
    ) -> None:
        """Record what depends on what a run has. No other process changes that in between.

        While the journal refuses, other processes are not looked at: nothing is left out.

        Args:
            run: The run.
            names: Of the parameters and labels that it depends on.
            drafts_of: Called with the run as it is now, and again if somebody was faster.
        """
        wanted = json.dumps(list(names))
        with run.changes:
            while True:
                now, condition = self.state(run.state.name), None
                if self.journal.unwritten:
                    now = RunState(now.name)
                    # Also those that wait in memory.
                    for entry in self.journal.state_entries(run.id):
                        now.add(entry)
                else:
                    seen = (run.id, now.last_seq, wanted)
                    condition = functools.partial(self._is_unchanged, seen)
                drafts = drafts_of(now)
                if not drafts or self.journal.append_if(condition, run.id, drafts):
                    return

    def _is_unchanged(self, seen: tuple[int, int, str]) -> bool:
        return not self.journal.database.read(_SELECT_CHANGED, seen)

    # -- logging -----------------------------------------------------------------------------------

    def log_metric(self, run_id: str, name: str, value: float, ms: int, step: int) -> None:
        """Record one point: the hot path.

        Raises:
            KeyError: There is no such run.
        """
        run = self._runs.get(run_id) or self.run(run_id)
        if (
            type(value) is float
            # False for NaN and infinity.
            and value - value == 0
            and name in run.names
            and 0 <= step <= limits.STEP_MAX
        ):
            self.journal.append_metric(run.id, name, value, step, ms * _MS)
        else:
            self.journal.append(run.id, [points.draft(name, Point(step, ms, value))])
            run.names.add(name)

    def parameter_drafts(self, run: Run, parameters: Mapping[str, str]) -> list[Draft]:
        """Draft the parameters that the run has not got yet.

        What SageMaker can't take is for the file of such parameters, which a pass makes.

        Raises:
            InvalidInputError: A name is none.
        """
        named = [Named(name, value) for name, value in parameters.items()]
        drafts, _ = run.drafter.parameters(named, "", strict=True)
        checked = run.drafter.limited(drafts)
        run.drafter.recorded(checked)
        return [
            draft._replace(undeliverable=None) if vocabulary.is_for_file(draft) else draft
            for draft in checked
        ]

    # -- artifacts ---------------------------------------------------------------------------------

    def log_files(self, run: Run, files: Sequence[tuple[str, str]]) -> None:
        """Record files, all in one transaction.

        SageMaker has places for 60 references to artifacts; further files are in its bucket alone.

        Args:
            run: The run.
            files: Of each, where it is and what it is called among the run's artifacts.

        Raises:
            ArtifactError: A file is missing, no regular file, or keeps changing.
            InvalidInputError: A file would have the name of a folder, or a folder that of a file.
            JournalWriteError: The journal's disk refuses it.
        """
        _check_names(run.state, [name for _, name in files])
        uploader = JournalArtifactUploader(
            run.component, None, self._settings.configuration.spool_max_bytes
        )
        drafts: list[Draft] = []
        contents: dict[str, Path | bytes] = {}
        for path, name in files:
            blob = uploader.spool(path)
            contents[blob.sha256] = Path(path)
            drafts += self._file_drafts(run, path, name, blob)
        self.journal.append(run.id, drafts)
        run.drafter.recorded(drafts)
        uploader.confirm(contents)

    def _file_drafts(self, run: Run, path: str, name: str, spooled: SpooledBlob) -> list[Draft]:
        import mimetypes  # noqa: PLC0415 - many runs log no file

        media_type = mimetypes.guess_type(path)[0]
        blob = vocabulary.BlobRef(
            spooled.sha256, self._settings.artifact_bucket, self._settings.artifact_prefix
        )
        file_name = os.path.basename(path)  # noqa: PTH119 - a name may be any bytes
        upload = vocabulary.upload(
            name,
            blob,
            spooled.size_bytes,
            media_type,
            file_name,
            parts=spooled.parts,
            replaces=True,
        )
        reference = vocabulary.artifact(vocabulary.OUTPUT, name, blob, media_type)
        (limited,) = run.drafter.limited([reference])
        run.drafter.recorded([limited])
        return [upload] if limited.undeliverable else [upload, reference]

    def file_path(self, sha256: str) -> Path:
        """Return where a content is.

        Raises:
            InvalidInputError: It is not in the journal any more.
        """
        spool = Spool(self.journal.path / paths.SPOOL)
        if not spool.has(sha256):
            raise InvalidInputError(
                f"the content {sha256[:12]} is no longer in the journal at {self.path}",
                hint="it was delivered and pruned: `journaltrack show` says where it is",
            )
        return spool.path_of(sha256)

    # -- metrics -----------------------------------------------------------------------------------

    def latest(self, run_id: str) -> dict[str, Point]:
        """Return the latest point of each metric of a run, as MLflow finds it."""
        return self._points.latest(self._known(run_id).id)

    def of_model(self, model_id: str) -> list[OfModel]:
        """Return the points that tell of a logged model, each once."""
        return self._points.of_model(model_id)

    def history(self, run_id: str, name: str) -> list[Point]:
        """Return the points of a metric in the order of recording, each once."""
        return self._points.history(self._known(run_id).id, name)

    def point_drafts(self, run: Run, logged: Sequence[Logged]) -> list[Draft]:
        """Draft points of one call; see ``Points.drafts``."""
        return self._points.drafts(run.id, logged)

    # -- models ------------------------------------------------------------------------------------

    def run_of_model(self, model_id: str) -> Run:
        """Return the run whose logged model it is.

        Raises:
            KeyError: There is no such model.
        """
        run_id = self._of_model.get(model_id)
        if run_id is None:
            name = f"{vocabulary.MODEL}{model_id}"
            rows = self.journal.database.read(_SELECT_MODEL, (name,))
            if not rows:
                raise KeyError(model_id)
            run_id = self._of_model.setdefault(model_id, str(rows[0][0]))
        return self.run(run_id)

    def begin_model(self, model_id: str, experiment: ExperimentState, name: str) -> Run:
        """Begin a component for a logged model that no run made."""
        component = self._component(model_id)
        self.journal.append(component.component_id, self._beginning(experiment, name))
        return self.run(model_id)

    def _beginning(self, experiment: ExperimentState, name: str) -> list[Draft]:
        """Return what makes a component of an experiment, with a name for people."""
        fits = limits.name_problem(name, "") is None
        return [
            vocabulary.create(
                owner=str(uuid.uuid4()),
                display_name=name if fits else limits.suggested_name(name),
                bucket=self._settings.artifact_bucket,
                prefix=self._settings.artifact_prefix,
            ),
            vocabulary.associate(
                experiment=experiment.name, trial=None, full_name=experiment.full_name
            ),
        ]

    # -- experiments -------------------------------------------------------------------------------

    def experiments(self, *, of_runs: bool = True) -> dict[str, ExperimentState]:
        """Return the experiments by their name in the journal, in lower case.

        Args:
            of_runs: Also those that runs name, and nobody declared.
        """
        found: dict[str, ExperimentState] = {}
        for row in self.journal.components():
            group = groups.group_of(row.name)
            if group is not None and group[0] == "experiment":
                known = ExperimentState(group[1])
                for entry in self.journal.state_entries(row.id):
                    known.add(entry)
                if known.created_ns:
                    found[group[1].lower()] = known
        for run in self.runs() if of_runs else ():
            name = run.experiment or addresses.DEFAULT
            if name.lower() not in found:
                found[name.lower()] = ExperimentState(
                    name, run.first_ns, run.first_ns, run.full_name
                )
        if addresses.DEFAULT.lower() not in found:
            ((created_ns,),) = self.journal.database.read("SELECT created_at_ns FROM meta")
            found[addresses.DEFAULT.lower()] = ExperimentState(
                addresses.DEFAULT, created_ns, created_ns
            )
        return found

    def experiment(
        self, *, experiment_id: str | None = None, shown: str | None = None
    ) -> ExperimentState | None:
        """Return an experiment by its id, or by its name in MLflow; None: there is none."""
        for of_runs in (False, True):
            for each in self.experiments(of_runs=of_runs).values():
                if experiment_id in {None, each.id} and shown in {None, each.shown}:
                    return each
        return None

    def declare(self, experiment: ExperimentState, draft: Draft) -> None:
        """Record something of an experiment."""
        row = groups.row_of("experiment", experiment.name)
        self.journal.append(self.journal.component(row), [draft])

    def create_experiment(self, shown: str, tags: Mapping[str, str | None]) -> ExperimentState:
        """Make an experiment. The caller has looked whether it is there.

        If another process makes it meanwhile, add the tags to that one.
        """
        while True:
            names = self.experiments()
            name = addresses.experiment_name(shown)
            if name.lower() in names:
                name = addresses.experiment_name(shown, is_taken=True)
            made = ExperimentState(name, full_name=None if name == shown else shown)
            draft = state.experiment_draft(made, tags)
            row_id = self.journal.component(groups.row_of("experiment", name))
            condition = functools.partial(self._is_unused, row_id)
            if self.journal.append_if(condition, row_id, [draft]):
                return made
            there = self.experiment(shown=shown)
            if there is not None:
                if tags:
                    self.declare(there, state.experiment_draft(there, tags))
                return there

    def _is_unused(self, row_id: int) -> bool:
        return not self.journal.database.read(_SELECT_USED, (row_id,))


def _check_names(run: RunState, names: Sequence[str]) -> None:
    """Refuse what no file system could hold: a file that is a folder, too.

    Raises:
        InvalidInputError: There is one.
    """
    new = set(names)
    folders: set[str] = set().union(*map(state.folders_of, names))
    for name in names:
        above = (each for each in state.folders_of(name) if each in new or each in run.files)
        both = name if name in folders or name in run.folders else next(above, None)
        if both is not None:
            raise InvalidInputError(
                f"the artifact {limits.shown(name)} can't be recorded: {limits.shown(both)} would "
                "be a file and a folder of the run; nothing was recorded",
                hint="choose another name",
            )


_books: dict[str, Book] = {}
_lock = threading.Lock()


def opened(journal: str | None) -> Book:
    """Return the book of a journal. A missing journal is made, with a warning if it was named.

    Args:
        journal: Its folder; None for the default journal.

    Raises:
        JournalError: It can't be opened.
    """
    folder = os.fspath(paths.journal_folder(journal))
    with _lock:
        book = _books.get(folder)
        if book is None:
            is_new = journal is not None and not (Path(folder) / paths.DATABASE).exists()
            settings = settings_of()
            made, _ = open_journal(folder, settings, "buffer")
            book = _books[folder] = Book(made, settings)
            if is_new:
                # It may be misspelled, and read.
                logger.warning("there was no journal at %s: a new one was made", folder)
    return book


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603 - a thread that is not here may hold it
    _lock = threading.Lock()
    for book in _books.values():
        book.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)


def rest() -> None:
    """Bring everything to the disk, and close the journals until their next use."""
    for book in list(_books.values()):
        try:
            book.journal.save()
            book.journal.rest()
        except JournalError as error:  # noqa: PERF203 - one journal must not hide the others
            logger.error("%s", error)  # noqa: TRY400 - a traceback says nothing here
