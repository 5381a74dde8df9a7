"""Keep an append-only log of calls in one SQLite file: the journal.

Must not know trackers, passes or remotes.
"""
