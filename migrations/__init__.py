"""Alembic revisions of the journal's schema; installed as ``journaltrack.migrations``."""
