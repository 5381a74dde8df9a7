"""The journal: an append-only log of calls in one SQLite file. Must not know trackers, passes or remotes."""
