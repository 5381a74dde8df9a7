"""Turn the arguments of a tracker's call into the entries to record.

Names, values and files are checked, redacted and limited here, and contents are kept in the spool.
Nothing is appended: a call that fails here has recorded nothing. Must not know the tracker.

Invariant: a draft that AWS could never accept says so (``undeliverable``), so that a replay does
not try it, and a strict tracker refuses it.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from journaltrack import limits
from journaltrack.errors import (
    ArtifactError,
    InvalidInputError,
    InvalidTypeError,
    JournalError,
)
from journaltrack.journal import vocabulary
from journaltrack.journal.fold import Place, in_order
from journaltrack.journal.queries import origins
from journaltrack.tracking import shapes, validation, writers
from journaltrack.tracking.validation import Redaction
from journaltrack.tracking.writers import JournalArtifactUploader, LeftOut, Notice
from journaltrack.util import process

if TYPE_CHECKING:
    from journaltrack.journal.journal import Journal
    from journaltrack.journal.vocabulary import BlobRef, Direction, Draft
    from journaltrack.tracking.media import Media
    from journaltrack.tracking.settings import Settings
    from journaltrack.tracking.trial_component import TrialComponent
    from journaltrack.tracking.writers import ArtifactUploader, LineageArtifactTracker

logger = logging.getLogger(__name__)

_UNTYPED: Final = "Tracker"
"""The type of a file's lineage artifact without a media type, as in the original library."""


_NEWEST: Final = (
    "SELECT max(seq), (SELECT max(id) FROM writer) FROM entry "
    "WHERE component_id = ? AND stream <> 'metric'"
)
_PARAMETERS: Final = (
    "SELECT {}name, value, payload FROM entry "
    "WHERE component_id = ? AND seq > ? AND stream <> 'metric' AND kind = 'parameter' ORDER BY seq"
)
_Columns: TypeAlias = tuple[Any, Any]
_PLAIN: Final = frozenset({str, int, float, bool})
_NewNames: TypeAlias = dict[str, set["str | None"]]
_NEVER: Final = (None, (None, None))


class Kept(NamedTuple):
    """A file or chart that was kept (``content``: by digest) or uploaded, and what to record."""

    content: dict[str, Path | bytes]
    drafts: list[Draft]
    notices: list[Notice]

    def without_lineage(self) -> Kept:
        """Return the same, without what is sent to SageMaker's lineage."""
        return self._replace(
            drafts=[draft for draft in self.drafts if draft.kind != vocabulary.LINEAGE]
        )


class KnownParameters:
    """Know what the journal has of a component's parameters, to record only what is new.

    The journal is read once, and then what was added since: by this process or another one, a
    forked child, or a merge. If nothing was, that costs one look at an index. So a value is new
    unless it is the last one in the journal at the moment of the call.

    Args:
        journal: The journal.
        component_id: The component's id.
    """

    def __init__(self, journal: Journal, component_id: int) -> None:
        self._journal = journal
        self._id = component_id
        # By name: what the last entry's columns ``value`` and ``payload`` are.
        self._last: dict[str, _Columns] = {}
        # By name: a value of a plain type, and the columns that it gives.
        self._plain: dict[str, tuple[object, _Columns]] = {}
        self._upto_seq = 0
        # Of the journal's writers, as of the newest one of them.
        self._origins: dict[int, int] = {}
        self._newest_writer: int | None = None

    def look(self) -> _Known:
        """Return what is known now. Nothing, if the journal does not tell, or not all.

        That is so while entries wait in memory, and inside another call of this thread.
        """
        journal = self._journal
        try:
            with journal.database.lock:
                if journal.unwritten or journal.is_inside:
                    return _Known({}, self._plain)
                ((newest, writer_id),) = journal.database.read(_NEWEST, (self._id,))
                if newest != self._upto_seq:
                    self._read(newest, writer_id)
                return _Known(self._last, self._plain)
        # The append reports it.
        except JournalError:
            return _Known({}, self._plain)

    def _read(self, newest: int | None, newest_writer: int | None) -> None:
        """Read what was added. What several journals or hosts recorded is put in order anew."""
        read = self._journal.database.read
        if newest_writer != self._newest_writer:
            self._origins, self._newest_writer = origins(read), newest_writer
        known = self._origins
        if newest is None or newest < self._upto_seq or known:
            self._last, self._upto_seq = {}, 0
        sql = _PARAMETERS.format("seq, recorded_at_ns, writer_id, " if known else "")
        rows = read(sql, (self._id, self._upto_seq))
        if known:
            rows = in_order(
                [columns[3:] for columns in rows],
                [Place(seq, at_ns, known.get(who, 0)) for seq, at_ns, who, *_ in rows],
            )
        # A copy: another thread may be looking at the one before.
        self._last = {**self._last, **{name: (value, text) for name, value, text in rows}}
        self._upto_seq = newest or 0


class _Known:
    """Hold what is known during one call, and what the call says itself."""

    def __init__(
        self, last: Mapping[str, _Columns], plain: dict[str, tuple[object, _Columns]]
    ) -> None:
        self._last = last
        self._plain = plain
        self._said: dict[str, _Columns] = {}

    def has(self, name: object, value: object) -> bool:
        """Return whether the component has exactly this value. Looks at plain types alone."""
        kind = type(value)
        if kind not in _PLAIN or type(name) is not str or name in self._said:
            return False
        known, columns = self._plain.get(name, _NEVER)
        return type(known) is kind and known == value and self._last.get(name) == columns

    def is_news(self, draft: Draft, value: object) -> bool:
        """Return whether a draft of a value says something new, and note that it says it."""
        name, columns = draft.name or "", (draft.value, draft.payload)
        before = self._said.get(name) or self._last.get(name)
        known, _ = self._plain.get(name, _NEVER)
        # 1 and 1.0 are recorded alike.
        is_news = before != columns or (type(known) in _PLAIN and type(known) is not type(value))
        self._said[name] = columns
        self._plain[name] = (value if type(value) in _PLAIN else None, columns)
        return is_news


class Drafter:
    """Draft the entries of one tracker's calls.

    Args:
        trial_component: The component that the entries belong to.
        settings: The tracker's.
        keys: The deliverable names that the component has in the journal, by kind.
        spooler: Keeps contents in the journal's spool.
        uploader: Takes the files; None for the spooler.
        lineage_tracker: Takes the lineage of files that a caller's uploader took, or None.
    """

    def __init__(
        self,
        trial_component: TrialComponent,
        settings: Settings,
        keys: dict[str, set[str]],
        spooler: JournalArtifactUploader,
        uploader: ArtifactUploader | None,
        lineage_tracker: LineageArtifactTracker | None,
    ) -> None:
        self._trial_component = trial_component
        self._settings = settings
        self._keys = keys
        self._spooler = spooler
        self._uploader = spooler if uploader is None else uploader
        self._lineage_tracker = lineage_tracker
        self._redaction = Redaction(settings.redact)
        # Names of parameters that passed the check, which costs more than this look-up.
        self._valid: set[str] = set()
        self._known = KnownParameters(trial_component.journal, trial_component.component_id)

    # -- names and values ------------------------------------------------------------------

    def parameter(self, name: object, value: object) -> Draft:
        """Draft a parameter, whether or not the component has it with this value.

        Raises:
            InvalidInputError: AWS can never accept the name, or the value has no text.
        """
        return self._parameter(shapes.Named(name, value))

    def parameters(
        self, given: Sequence[shapes.Named], separator: str, *, strict: bool
    ) -> tuple[list[Draft], list[Notice]]:
        """Draft parameters, but for those that the component has with this value already.

        A value without text is left out with a notice, unless ``strict``. So is a nested value
        whose path is no name.

        Raises:
            InvalidInputError: AWS can never accept a name. If strict: or a value has no text.
        """
        drafts: list[Draft] = []
        notices: list[Notice] = []
        known = self._known.look()
        for each in given:
            if known.has(each.name, each.value):
                continue
            try:
                draft = self._parameter(each, separator)
            except InvalidInputError as error:
                # A flat name is the caller's own mistake.
                if strict or not (each.path or _is_name(each.name)):
                    raise
                why = error.message.partition("; nothing was recorded")[0]
                text = f"parameter {limits.shown(each.name)} is left out: {why}"
                notices.append(Notice("no parameter", each.name, text))
                continue
            if known.is_news(draft, each.value):
                drafts.append(draft)
        return drafts, notices

    def _parameter(self, given: shapes.Named, separator: str = "/") -> Draft:
        key = given.name
        if type(key) is not str or key not in self._valid:
            key = validation.key(key, "parameter name", limits.PARAMETER_KEY_CHARS_MAX)
            self._valid.add(key)
        if self._settings.redact and self._is_secret(key, given, separator):
            return vocabulary.redacted(vocabulary.PARAMETER, key)
        if type(given.value) is shapes.Unreadable:
            kind = type(given.value.error).__name__
            why = (
                "nobody has set it (???)" if given.value.is_missing else f"it can't be read: {kind}"
            )
            raise InvalidInputError(f"{why}; nothing was recorded")
        return vocabulary.parameter(key, validation.parameter_value(given.value))

    def _is_secret(self, key: str, given: shapes.Named, separator: str) -> bool:
        """Return whether a pattern fits the name, a part of it, or a name inside the value."""
        parts = (key, *given.path, *(key.split(separator) if separator else ()))
        names = itertools.chain(parts, shapes.names_within(given.value))
        return any(map(self._redaction.matches, names)) and self._told_redacted("parameter", key)

    def reference(
        self, direction: Direction, name: str, value: str | BlobRef, media_type: str | None
    ) -> tuple[list[Draft], list[Notice]]:
        """Draft an input or output: a text, or a content of the spool.

        Raises:
            InvalidInputError: AWS can never accept the name or the value.
            InvalidTypeError: An argument has the wrong type.
        """
        key = validation.key(name, f"{direction} name", limits.ARTIFACT_KEY_CHARS_MAX)
        if not isinstance(value, (str, vocabulary.BlobRef)):
            raise InvalidTypeError(
                f"the value of {direction} {key!r} must be a str, not {type(value).__name__}"
            )
        media_type = validation.optional_text(media_type, "media_type")
        problem = limits.media_type_problem(media_type) if media_type else None
        text = f"{problem}: it is recorded, and left out of what is sent"
        notices = [Notice("media type", media_type or "", text)] if problem else []
        if isinstance(value, str) and self._is_redacted(direction, key):
            return [vocabulary.redacted(direction, key)], notices
        if isinstance(value, str):
            value = validation.long_text(value, f"the value of {direction} {limits.shown(key)}")
        return [vocabulary.artifact(direction, key, value, media_type)], notices

    def references(
        self, direction: Direction, values: Mapping[str, Any]
    ) -> tuple[list[Draft], list[Notice]]:
        """Draft inputs or outputs by name, each a text or an artifact; see ``reference``."""
        drafts: list[Draft] = []
        notices: list[Notice] = []
        for name, given in values.items():
            value = getattr(given, "value", given)
            # A file that was read back before its upload is still that file.
            blob = self._trial_component.blob_at(value) if isinstance(value, str) else None
            found = self.reference(
                direction, name, blob or value, getattr(given, "media_type", None)
            )
            drafts += found[0]
            notices += found[1]
        return drafts, notices

    def _is_redacted(self, kind: str, name: str) -> bool:
        """Return whether not to record a value. Logs each such name once."""
        return self._redaction.matches(name) and self._told_redacted(kind, name)

    def _told_redacted(self, kind: str, name: str) -> bool:
        if self._redaction.is_news(kind, name):
            logger.info(
                "the value of %s %s is not recorded: its name matches a pattern of `redact`",
                kind,
                limits.shown(name),
            )
        return True

    # -- how many names a component has ----------------------------------------------------

    def limited(self, drafts: Iterable[Draft]) -> list[Draft]:
        """Mark those drafts undeliverable whose names are too many for the component."""
        new: _NewNames = {}
        return [self._within_limit(draft, new) for draft in drafts]

    def _within_limit(self, draft: Draft, new: _NewNames) -> Draft:
        """Mark a draft undeliverable if its name is one too many for the component.

        ``new`` collects the new names of the same call, by kind.
        """
        keys = self._keys.get(draft.kind)
        if keys is None or draft.name in keys or draft.undeliverable is not None:
            return draft
        keys_max, _ = vocabulary.KEYS_MAX[draft.kind]
        more = new.setdefault(draft.kind, set())
        if draft.name in more:
            return draft
        if len(keys) + len(more) < keys_max:
            more.add(draft.name)
            return draft
        return draft._replace(undeliverable=vocabulary.too_many(draft.kind))

    def recorded(self, drafts: Iterable[Draft]) -> None:
        """Count the names of drafts that are in the journal now."""
        for draft in drafts:
            keys = self._keys.get(draft.kind)
            if keys is not None and draft.name is not None and draft.undeliverable is None:
                keys.add(draft.name)

    # -- files and charts ------------------------------------------------------------------

    def file(
        self,
        direction: Direction,
        file_path: str | os.PathLike[str],
        name: str | None,
        media_type: str | None,
    ) -> Kept:
        """Check everything, then keep the file's bytes, and return what to record.

        Raises:
            ArtifactError: The file is missing, no regular file, or keeps changing.
            InvalidInputError: AWS can never accept the name.
            JournalWriteError: The journal's disk refuses the file.
        """
        return self._keep(direction, writers.given(file_path), name, media_type, {})

    def file_of_run(
        self,
        direction: Direction,
        file_path: str | os.PathLike[str],
        name: str | None,
        media_type: str | None,
    ) -> Kept:
        """Keep a file as ``sagemaker.experiments.Run`` does, see ``Recorder.file``.

        Raises:
            ArtifactError: As of ``file``, as all others.
        """
        kept = self.file(direction, file_path, name, media_type).without_lineage()
        file_name = Path(os.fsdecode(file_path)).name
        # A long one can't be a key.
        fits = limits.text_problem(file_name, "", limits.ARTIFACT_KEY_CHARS_MAX) is None
        drafts = [
            draft._replace(name=file_name) if fits and draft.kind == vocabulary.UPLOAD else draft
            for draft in kept.drafts
        ]
        return kept._replace(drafts=drafts)

    def folder(
        self,
        direction: Direction,
        directory: str | os.PathLike[str],
        media_type: str | None,
    ) -> tuple[list[Kept], list[Notice]]:
        """Keep every file below a folder, and tell of those left out.

        Raises:
            ArtifactError: It is not a readable folder, has nothing to record, or, if strict, holds
                something that can't be recorded.
            InvalidInputError: ``direction`` is neither "input" nor "output".
        """
        # Any other direction would be an entry of an unknown kind, which stays pending for ever.
        if direction not in {"input", "output"}:
            raise InvalidInputError(f'direction is {direction!r}; it is "input" or "output"')
        root = writers.given(directory)
        if not os.path.isdir(root):  # noqa: PTH112 - never raises
            raise ArtifactError(
                f"{root} is not a folder", hint="for a file use log_artifact(file_path)"
            )
        files, left_out = writers.below(root)
        kept: list[Kept] = []
        new: _NewNames = {}
        for path, name in files:
            try:
                kept.append(self._keep(direction, path, name, media_type, new))
            except InvalidInputError as error:  # noqa: PERF203 - a copy costs more
                left_out.append(LeftOut(name, error.message))
        if not left_out:
            return kept, []
        text = writers.told(root, sorted(left_out), len(kept))
        if self._settings.strict or not kept:
            raise ArtifactError(text, hint="strict=False records the others" if kept else "")
        return kept, [Notice("folder", text, text)]

    def chart(self, chart: Mapping[str, Any], output_artifact: bool) -> Kept:
        """Keep a chart's document, and return its upload and lineage.

        Raises:
            InvalidInputError: The document is too large, or has no JSON.
            JournalWriteError: The journal's disk refuses it.
        """
        from journaltrack.tracking import charts  # noqa: PLC0415 - most runs have none

        content = charts.encode(chart)
        title = chart["title"]
        fits = limits.text_problem(title, "", limits.ARTIFACT_KEY_CHARS_MAX) is None
        name = f"{title if fits else limits.suggested_name(title)}.json"
        blob, upload = self._spooled(name, content, "application/json")
        lineage = self._lineage(
            vocabulary.OUTPUT if output_artifact else vocabulary.INPUT, title, blob, chart["type"]
        )
        return Kept({blob.sha256: content}, [upload, *lineage], [])

    def upload(self, name: str, content: bytes, media_type: str) -> Kept:
        """Keep bytes that go to S3 and are no artifact of the run, and return their upload.

        Raises:
            JournalWriteError: The journal's disk refuses them.
        """
        blob, upload = self._spooled(name, content, media_type)
        return Kept({blob.sha256: content}, [upload], [])

    def media(self, media: Media, step: int | None) -> Kept:
        """Keep a content, and return its upload, its reference and its lineage.

        The contents of all steps are uploaded, each under its own name and without lineage. They
        share one reference, which names the last: SageMaker has places for 60.

        Raises:
            InvalidInputError: AWS can never accept the name.
            JournalWriteError: The journal's disk refuses it.
        """
        from journaltrack.journal.contents import at_step  # noqa: PLC0415 - many runs have none

        key = validation.key(media.name, "artifact name", limits.ARTIFACT_KEY_CHARS_MAX)
        blob, upload = self._spooled(at_step(key, step), media.content, media.media_type)
        kept = self._recorded_as(upload, key, media.content, blob, media.media_type)
        # Lineage takes three requests a content.
        return kept if step is None else kept.without_lineage()

    def _recorded_as(
        self,
        upload: Draft,
        key: str,
        content: Path | bytes,
        blob: BlobRef,
        media_type: str | None,
        direction: Direction = vocabulary.OUTPUT,
        new: _NewNames | None = None,
    ) -> Kept:
        """Return the upload of a content with the reference that names it, and its lineage."""
        references, notices = self.reference(direction, key, blob, media_type)
        reference = self._within_limit(references[0], {} if new is None else new)
        drafts = [upload._replace(undeliverable=reference.undeliverable), reference]
        if reference.undeliverable is None:
            drafts += self._lineage(direction, key, blob, media_type)
        return Kept({blob.sha256: content}, drafts, notices)

    def output(self, content: bytes) -> Kept:
        """Keep the end of what was printed, as an output artifact without lineage.

        Raises:
            JournalWriteError: The journal's disk refuses it.
        """
        rank = process.rank()
        stem, dot, ending = vocabulary.OUTPUT_LOG.partition(".")
        name = vocabulary.OUTPUT_LOG if rank is None else f"{stem}-rank{rank}{dot}{ending}"
        blob, upload = self._spooled(name, content, "text/plain")
        return self._recorded_as(upload, name, content, blob, "text/plain").without_lineage()

    def confirm(self, files: Sequence[Kept]) -> None:
        """Check that the spool has the contents of a recorded call; add missing ones again.

        Raises:
            ArtifactError: A content is not in the spool any more, and its file has changed.
        """
        self._spooler.confirm(
            {sha256: source for file in files for sha256, source in file.content.items()}
        )

    def _keep(
        self,
        direction: Direction,
        file_path: str,
        name: str | None,
        media_type: str | None,
        new: _NewNames,
    ) -> Kept:
        """Keep one file. ``new`` collects the new names of the call, as for ``_within_limit``."""
        import mimetypes  # noqa: PLC0415 - many runs log no file

        path = Path(file_path)
        key = validation.key(
            path.name if name is None else name, "artifact name", limits.ARTIFACT_KEY_CHARS_MAX
        )
        media_type = (
            validation.optional_text(media_type, "media_type") or mimetypes.guess_type(path.name)[0]
        )
        if not isinstance(self._uploader, JournalArtifactUploader):
            uri, etag = self._uploader.upload_artifact(file_path)
            found = Kept({}, *self.reference(direction, key, uri, media_type))
            if self._lineage_tracker is not None:
                add = getattr(self._lineage_tracker, f"add_{direction}_artifact")
                add(key, uri, etag, media_type)
            return found
        spooled = self._uploader.spool(path)
        blob = self._blob_ref(spooled.sha256)
        upload = vocabulary.upload(
            key, blob, spooled.size_bytes, media_type, path.name, parts=spooled.parts
        )
        return self._recorded_as(upload, key, path, blob, media_type, direction, new)

    def _spooled(self, name: str, content: bytes, media_type: str) -> tuple[BlobRef, Draft]:
        """Keep bytes, and return what they are called and their upload under a name."""
        spooled = self._spooler.spool_bytes(content)
        blob = self._blob_ref(spooled.sha256)
        return blob, vocabulary.upload(name, blob, spooled.size_bytes, media_type, name)

    def _blob_ref(self, sha256: str) -> BlobRef:
        return vocabulary.BlobRef(
            sha256, self._settings.artifact_bucket, self._settings.artifact_prefix
        )

    def _lineage(
        self, direction: Direction, name: str, blob: BlobRef, artifact_type: str | None
    ) -> list[Draft]:
        """Draft the lineage of a content, as the original library sends it. None if it is off."""
        if not self._settings.configuration.lineage:
            return []
        sent_name = limits.lineage_name(name, f"artifact-{blob.sha256[:12]}")
        problem = limits.text_problem(artifact_type or "", "", limits.LINEAGE_TYPE_CHARS_MAX)
        sent_type = _UNTYPED if problem or artifact_type is None else artifact_type
        title = name if name != sent_name else None
        return [vocabulary.lineage(sent_name, blob, sent_type, direction, title)]


def _is_name(name: object) -> bool:
    return type(name) is str and not limits.text_problem(name, "", limits.PARAMETER_KEY_CHARS_MAX)
