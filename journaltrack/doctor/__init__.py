"""Diagnosis and repair of a journal.

``examine`` looks, changes nothing, and goes on where something can't be read. ``mend`` does what can be done without
losing evidence: what it replaces is moved into ``damaged/`` inside the journal's folder, never deleted, and a receipt
says what was done. Must not know the tracker, the reconciler or any remote.
"""

from journaltrack.doctor.examination import examine
from journaltrack.doctor.findings import CHECKS, Examination, Finding, Repaired
from journaltrack.doctor.repairs import mend

__all__ = ["CHECKS", "Examination", "Finding", "Repaired", "examine", "mend"]
