"""Name in MLflow's way what a journal has: URIs of journals and artifacts, ids of experiments.

Pure: no I/O, no clock. Must not know MLflow.

A run's id is its component's name. An experiment's id comes from the name of its row, so that every
copy of a journal has the same one. Nothing here is recorded: a journal can be moved.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from journaltrack import limits
from journaltrack.errors import InvalidInputError
from journaltrack.util import paths

ARTIFACTS: Final = f"{paths.SCHEME}-artifacts"
"""The scheme of artifact URIs."""
DEFAULT: Final = "Default"
"""The experiment of runs that name none, as in MLflow."""
DEFAULT_ID: Final = "0"
_RUNS: Final = "@runs"
_ARTIFACT_URI: Final = re.compile(
    rf"{ARTIFACTS}:(?://)?(?P<journal>/.*?)/{_RUNS}/(?P<component>[^/]+)(?:/(?P<folder>.*))?"
)
_ID_DIGITS: Final = 18
"""As many as the ids of MLflow's own stores have."""


class Place(NamedTuple):
    """Where artifacts are: in a journal, of a component, below a folder ("": all of them)."""

    journal: str
    component: str
    folder: str


def artifact_uri(journal: str, component: str, folder: str = "") -> str:
    """Return the URI of a run's artifacts, or of a folder of them."""
    return f"{ARTIFACTS}:{quote(journal)}/{_RUNS}/{component}{'/' if folder else ''}{folder}"


def place_of(uri: str) -> Place:
    """Return what ``artifact_uri`` made a URI of; MLflow may have added to its folder.

    Raises:
        InvalidInputError: It is no such URI.
    """
    found = _ARTIFACT_URI.fullmatch(uri)
    if found is None:
        raise InvalidInputError(f"{uri!r} names no artifacts of a journal")
    return Place(unquote(found["journal"]), found["component"], (found["folder"] or "").strip("/"))


def experiment_name(name: str, *, is_taken: bool = False) -> str:
    """Return the name that an experiment has in SageMaker and in the journal.

    MLflow takes any name, and tells "a" from "A".

    Args:
        name: MLflow's.
        is_taken: Whether another experiment has it, but for case.
    """
    if not is_taken and limits.name_problem(name, "") is None:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return limits.with_end(limits.suggested_name(name), f"-{digest}")


def experiment_id(name: str) -> str:
    """Return the id of an experiment by ``experiment_name``."""
    if name.lower() == DEFAULT.lower():
        return DEFAULT_ID
    number = int.from_bytes(hashlib.sha256(name.lower().encode()).digest()[:8], "big")
    least = 10 ** (_ID_DIGITS - 1)
    return str(least + number % (9 * least))
