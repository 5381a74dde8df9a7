"""One SQLite file that several processes share: connection, locks, logs, and who else has it open."""
