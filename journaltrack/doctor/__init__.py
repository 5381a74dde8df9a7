"""Diagnose and repair a journal.

``examine`` looks, changes nothing, and continues if something can't be read. ``mend`` repairs what
it can without losing evidence. It moves what it replaces into ``damaged/`` inside the journal's
folder, never deletes it, and records a receipt. Must not know the tracker, the reconciler or any
remote.
"""

from journaltrack.doctor.examination import examine
from journaltrack.doctor.findings import CHECKS, Examination, Finding, Repaired
from journaltrack.doctor.repairs import mend

__all__ = ["CHECKS", "Examination", "Finding", "Repaired", "examine", "mend"]
