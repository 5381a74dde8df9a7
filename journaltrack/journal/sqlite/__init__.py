"""Share one SQLite file among processes: connection, locks, logs, and who has it open."""
