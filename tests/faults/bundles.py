"""Makes journals to bundle, and bundles that no journaltrack would write."""

from __future__ import annotations

import contextlib
import hashlib
import os

from journaltrack import Tracker, open_bundle
from journaltrack.errors import BundleError
from journaltrack.transfer.bundle.layout import END, Layout, Manifest


def journal_of(folder, contents, metrics=5):
    """A journal with these artifacts and some metrics, all pending."""
    with Tracker.create(
        trial_component_name="run", journal=folder / "journal", sync="off"
    ) as tracker:
        for number, content in enumerate(contents):
            (folder / "file").write_bytes(content)
            tracker.log_artifact(folder / "file", name=f"a{number}")
        for step in range(metrics):
            tracker.log_metric("loss", 1.0 + step, iteration_number=step)
    return folder / "journal"


def digest(data):
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def crafted(path, database, contents=(), **changes):
    """A bundle in which everything fits together, whatever its manifest says and its members
    hold.
    """
    listed = {digest(blob): len(blob) for blob in sorted(contents, key=digest)}
    values = {
        "journal_id": "j",
        "created_at_ns": 10**18,
        "package_version": "0.1.0",
        "host": "h",
        "last_seq": 1,
        "content": "undelivered",
    }
    values |= {
        "database_bytes": len(database),
        "database_sha256": digest(database),
        "blobs": listed,
    }
    layout = Layout(Manifest(**values | changes))
    bodies = [layout.manifest_bytes, database, *sorted(contents, key=digest), layout.sums_bytes]
    members = zip(layout.members(), bodies, strict=True)
    path.write_bytes(b"".join(layout.header(m) + body + m.padding for m, body in members) + END)
    return path


def layout_of(path):
    """Where everything is in a bundle."""
    with open_bundle(path) as bundle:
        return Layout(bundle.manifest)


def problem_of(path):
    """What is wrong with a bundle, after reading all of it; None: nothing."""
    try:
        with open_bundle(path) as bundle:
            bundle.verify()
    except BundleError as error:
        return error
    return None


@contextlib.contextmanager
def written_over(path, offset, data):
    """The file with other bytes in a place, for a while."""
    file = os.open(path, os.O_RDWR)
    try:
        before = os.pread(file, len(data), offset)
        os.pwrite(file, data, offset)
        yield
        os.pwrite(file, before, offset)
    finally:
        os.close(file)
