"""The artifacts of a run, or of a logged model, in a journal, as MLflow's artifact repository.

A file is copied into the journal's spool at the call, and uploaded by a later delivery. Reading
needs no network. What was delivered and pruned is told of in a list, and can't be read here.
"""

from __future__ import annotations

import os
import posixpath
import shutil
from typing import TYPE_CHECKING

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.store.artifact.artifact_repo import ArtifactRepository as _Repository
from mlflow.store.artifact.artifact_repo import verify_artifact_path

from journaltrack.compat.mlflow import addresses
from journaltrack.compat.mlflow.entities import opened, told_to_mlflow
from journaltrack.journal.vocabulary import MODEL
from journaltrack.tracking import writers

if TYPE_CHECKING:
    from journaltrack.compat.mlflow.book import Run


class ArtifactRepository(_Repository):
    """Files of one run below one folder. See MLflow's class for its methods."""

    def __init__(self, artifact_uri: str, *uris: object, **options: object) -> None:
        super().__init__(artifact_uri, *uris, **options)
        with told_to_mlflow():
            self._place = addresses.place_of(artifact_uri)
        self._book = opened(self._place.journal)

    def log_artifact(self, local_file, artifact_path=None) -> None:
        """Record a file as it is now."""
        verify_artifact_path(artifact_path)
        name = self._name(artifact_path, os.path.basename(local_file))  # noqa: PTH119 - any bytes
        self._log([(os.fspath(local_file), name)])

    def log_artifacts(self, local_dir, artifact_path=None) -> None:
        """Record the files of a folder: all of them, or none."""
        verify_artifact_path(artifact_path)
        with told_to_mlflow():
            files, left_out = writers.below(os.fspath(local_dir))
            if left_out:
                raise MlflowException(
                    writers.told(os.fspath(local_dir), left_out, 0), INVALID_PARAMETER_VALUE
                )
        self._log([(path, self._name(artifact_path, name)) for path, name in files])

    def _log(self, files: list[tuple[str, str]]) -> None:
        for _, name in files:
            if not name.isascii() and name != name.encode("utf-8", "replace").decode():
                raise MlflowException(
                    f"the name {name!r} is not UTF-8; nothing was recorded. Rename the file",
                    INVALID_PARAMETER_VALUE,
                )
        with told_to_mlflow():
            self._book.log_files(self._run(), files)

    def list_artifacts(self, path=None) -> list[FileInfo]:
        """Return the files and folders in a folder of the run.

        MLflow's client adds what the run's logged models have: that comes from their folders.
        """
        folder = self._name(path)
        begin = f"{folder}/" if folder else ""
        found: dict[str, FileInfo] = {}
        run = self._book.state(self._run().state.name)
        # MLflow's client lists a model's files beside those of its run.
        apart = () if self._place.folder else {told.get("folder") for _, told in run.told(MODEL)}
        for name, file in sorted(run.files.items()):
            if name.partition("/")[0] in apart:
                continue
            # A stranger's journal may name anything: no path leads out of a folder.
            is_path = posixpath.normpath(name) == name and not name.startswith(("/", ".."))
            if not is_path or not name.startswith(begin):
                continue
            child, is_folder, _ = name.removeprefix(begin).partition("/")
            shown = posixpath.relpath(f"{begin}{child}", self._place.folder or ".")
            size = None if is_folder else file.size_bytes
            found.setdefault(child, FileInfo(shown, bool(is_folder), size))
        return list(found.values())

    def _download_file(self, remote_file_path, local_path) -> None:
        name = self._name(remote_file_path)
        file = self._run().state.files.get(name)
        if file is None:
            raise MlflowException(f"No such artifact: '{name}'", RESOURCE_DOES_NOT_EXIST)
        with told_to_mlflow():
            shutil.copyfile(self._book.file_path(file.sha256), local_path)

    def delete_artifacts(self, artifact_path=None) -> None:
        """Refuse: a journal removes no artifacts."""
        raise MlflowException(
            "a journal removes no artifacts; no changes were made. `journaltrack prune` removes "
            "those that were delivered",
            INVALID_PARAMETER_VALUE,
        )

    def _name(self, *parts: str | None) -> str:
        """Return the name of a file among the run's artifacts."""
        path = posixpath.join(self._place.folder, *(part for part in parts if part))
        normal = posixpath.normpath(path) if path else ""
        if normal.startswith(("/", "..")):
            raise MlflowException(f"Invalid artifact path: '{path}'", INVALID_PARAMETER_VALUE)
        return "" if normal == "." else normal

    def _run(self) -> Run:
        try:
            return self._book.run(self._place.component)
        except KeyError:
            raise MlflowException(
                f"Run with id={self._place.component} not found", RESOURCE_DOES_NOT_EXIST
            ) from None
