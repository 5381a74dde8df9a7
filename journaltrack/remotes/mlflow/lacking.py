"""Answer for what MLflow has no place for: lineage, documents, points in doubt.

``Capabilities`` says so, and nobody asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from journaltrack.replay.remote import Answer, ArtifactLink, Document, Linked

if TYPE_CHECKING:
    from journaltrack.replay.evidence.readback import ReadBack


class Lacking:
    """The part of ``MlflowRemote`` that does nothing."""

    def read_metrics(
        self,
        component: str,  # noqa: ARG002 - the protocol's
        steps: Mapping[str, tuple[int, int]],  # noqa: ARG002
    ) -> ReadBack | None:
        """Return None: nothing is ever in doubt, and ``points`` returns everything."""
        return None

    def link(self, link: ArtifactLink) -> Answer:  # noqa: ARG002 - the protocol's
        """Do nothing: see ``Capabilities.lineage``."""
        return Answer()

    def linked(self, link: ArtifactLink) -> Linked:  # noqa: ARG002
        """Return that there is nothing."""
        return Linked(artifact=False, association=False)

    def put_document(self, document: Document) -> Answer:  # noqa: ARG002
        """Do nothing: see ``Capabilities.documents``."""
        return Answer()

    def documents(
        self,
        bucket: str | None,  # noqa: ARG002
        prefix: str | None,  # noqa: ARG002
        folder: str,  # noqa: ARG002
    ) -> Mapping[str, bytes]:
        """Return that there are none."""
        return {}

    def document_names(
        self,
        bucket: str | None,  # noqa: ARG002
        prefix: str | None,  # noqa: ARG002
        folder: str,  # noqa: ARG002
        after: str,  # noqa: ARG002
    ) -> Sequence[str]:
        """Return that there are none."""
        return ()

    def document(
        self,
        bucket: str | None,  # noqa: ARG002
        prefix: str | None,  # noqa: ARG002
        folder: str,  # noqa: ARG002
        name: str,  # noqa: ARG002
    ) -> bytes | None:
        """Return that there is none."""
        return None
