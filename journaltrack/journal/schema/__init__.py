"""Define, check and upgrade the journal's tables and triggers."""
