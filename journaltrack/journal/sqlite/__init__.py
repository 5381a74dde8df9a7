"""Share one SQLite file among processes: connection, locks, logs, and users."""
